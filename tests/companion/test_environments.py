"""Other people's environments: kernels, streams and numbers that tests of ours would not have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from invented import TINY, scores_in
from safetensors.torch import load_file, save_file

from dpnet import cli, io
from dpnet.companion import notebooks, runner
from dpnet.io import DPNetError, Places

WHERE = {"benchmark": "shapes", "preset": "tiny", "seeds": 1, "target": "table3"}


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's backend, start-up files that define names, another Python's kernel, a style that needs LaTeX."""
    start = "from pathlib import Path as Stray; display = None\n"
    files = {
        "ipython/profile_default/startup/00.py": start,
        "startup.py": start,
        "jupyter/kernels/python3/kernel.json": json.dumps({"argv": ["/bin/false"], "display_name": "another"}),
        "matplotlibrc": "text.usetex: True\n",
    }
    for name, content in files.items():
        io.write(tmp_path / name, content.encode())
    for name, value in {
        "MPLBACKEND": "Agg",
        "IPYTHONDIR": tmp_path / "ipython",
        "PYTHONSTARTUP": tmp_path / "startup.py",
        "JUPYTER_PATH": tmp_path / "jupyter",
        "MATPLOTLIBRC": tmp_path / "matplotlibrc",
    }.items():
        monkeypatch.setenv(name, str(value))


def test_a_notebook_is_the_same_in_any_environment(tmp_path: Path, hostile: None) -> None:
    scores_in(tmp_path / "results")
    at = Places(tmp_path / "data", tmp_path / "results", "cpu")
    notebooks.execute("table3", tmp_path / "table3.ipynb", WHERE, at)
    outputs = [o for cell in nbformat.read(tmp_path / "table3.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert os.environ["MPLBACKEND"] == "Agg"  # ours is as it was


def test_a_notebook_without_its_figure_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores_in(tmp_path / "results")
    at = Places(tmp_path / "data", tmp_path / "results", "cpu")
    monkeypatch.setattr(notebooks, "INLINE", "agg")
    with pytest.raises(DPNetError, match=r"table3\.ipynb: its figures were not drawn"):
        notebooks.execute("table3", tmp_path / "table3.ipynb", WHERE, at)
    assert not (tmp_path / "table3.ipynb").exists()


def test_parameters_are_those_of_the_notebook(tmp_path: Path) -> None:
    with pytest.raises(DPNetError, match="unknown parameter 'betta': this notebook has target, benchmark"):
        notebooks.execute("table3", tmp_path / "table3.ipynb", {**WHERE, "betta": 1})


def dpnet(
    *arguments: str, at: Path = io.ROOT, shell: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    command = f'"{sys.executable}" -m dpnet {" ".join(arguments)} {shell}'
    return subprocess.run(
        command, shell=True, cwd=at, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize("shell", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_errors(shell: str) -> None:
    done = dpnet("plan", "table3", "--benchmark", "nope", shell=shell)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_names_outside_ascii_are_printed_as_far_as_a_terminal_can() -> None:
    code = (
        "from dpnet import cli, verbs; verbs.check = lambda _: print('\\xdcbung'); exit(cli.main(['check', 'coco']))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xdcbung\n", "")


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
