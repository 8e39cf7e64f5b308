"""Other people's environments: streams, folders, numbers and checkpoints that tests of ours would not have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from invented import TINY
from safetensors.torch import load_file, save_file

from dpnet import cli, io
from dpnet.companion import runner


@pytest.mark.parametrize(
    ("does", "redirected", "code", "output"),
    [
        ("print('löffel')", "", 0, r"l\xf6ffel"),
        ("fail('löffel')", "2>&1", 1, r"dpnet: error: l\xf6ffel"),
        ("print('x')", ">&-", 0, ""),
        ("print('x')", ">/dev/full 2>&1", 1, ""),
        ("print('x')", "2>&1 >/dev/full", 1, "dpnet: error: [Errno 28] No space left on device"),
        ("print('x')", "<&- 2>&-", 0, "x"),
        ("fail('x')", "2>&-", 1, ""),
        ("fail('x')", "2>/dev/full", 1, ""),
        ("child('import sys; sys.stderr.write(str(1))')", ">&- 2>&- <&-", 0, ""),
    ],
)
def test_streams_may_be_closed_full_or_ascii(does: str, redirected: str, code: int, output: str) -> None:
    script = f"""if True:
        import subprocess, sys
        from dpnet import cli, io, verbs
        def fail(why): raise io.DPNetError(why)
        def child(code): subprocess.run([sys.executable, '-c', code], check=True)
        verbs.site = lambda options: {does}
        sys.exit(cli.main(['site']))"""
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": ""}
    run = ["sh", "-c", f'"$0" -c "$1" {redirected}', sys.executable, script]
    done = subprocess.run(run, capture_output=True, text=True, cwd=io.ROOT, env=env, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (code, output, "")


def test_a_folder_named_dpnet_is_not_taken_for_the_package(tmp_path: Path) -> None:
    """As a checkout's parent has one: neither by the console script nor by `python -m` is it imported."""
    (tmp_path / "dpnet").mkdir()
    script = Path(sys.executable).parent / "dpnet"
    for command in ([script, "--version"], [sys.executable, "-m", "dpnet", "--version"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command


@pytest.mark.parametrize(
    "words",
    [["train", "--seed", str(2**64)], ["train", "--seed", str(2**63)], ["plan", "table3", "--seeds", "1000000"]],
)
def test_numbers_have_bounds_that_the_error_says(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert "is not a whole number from" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with its configuration and initial weights."""
    cohort = runner.Cohort("table3", TINY, 0, 0, tmp_path)
    folder = cohort.store.begin(cohort.example_run)
    head = runner.build_head(cohort.example_run, 152)
    save_file(head.state_dict(), folder / io.CHECKPOINT)
    return folder


def predicted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    from PIL import Image

    Image.new("RGB", (80, 60), "red").save(tmp_path / "a.jpg")
    Image.new("L", (80, 60), 1).save(tmp_path / "a.png")
    one = str(tmp_path / "a")
    words = ["--support", f"{one}.jpg", "--mask", f"{one}.png", "--query", f"{one}.jpg", "--out", f"{one}-out.png"]
    return cli.main(["predict", "--checkpoint", str(run), *words]), capsys.readouterr().err


def test_weights_that_are_no_numbers_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predicted(run, tmp_path, capsys)[0] == 0
    weights = load_file(run / io.CHECKPOINT)
    weights["decoder.classify.bias"][0] = float("nan")
    save_file(weights, run / io.CHECKPOINT)
    code, error = predicted(run, tmp_path, capsys)
    assert code == 1
    assert "not all of its weights are finite numbers" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("size", [0, -8, "161", 1.5, None])
def test_a_size_that_is_none_is_refused(
    size: object, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = json.loads((run / "run.json").read_text())
    about["training"]["size"] = size
    (run / "run.json").write_text(json.dumps(about))
    code, error = predicted(run, tmp_path, capsys)
    assert code == 1
    assert "run.json" in error
    assert len(error.splitlines()) == 1
