"""The tiny Table 3 through Make, as a user types it; then the same again, then with a run removed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from dpnet.companion import experiments, paper

ROOT = Path(__file__).parents[1]


def make(target: str, folder: Path) -> str:
    done = subprocess.run(
        ["make", target, "PRESET=tiny", f"DATA={folder / 'data'}", f"RESULTS={folder / 'results'}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("DPNET_", "MAKE"))},
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "scratch"),
        },
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != "throughput.json")  # a clock's
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def tree(folder: Path) -> dict[str, int]:
    """Every file of the checkout but those of git, the environment and pytest, and when it was written."""
    skipped = {".git", ".venv", ".pytest_cache", "__pycache__", ".ruff_cache", ".mypy_cache", ".hypothesis"}
    files = (f for f in folder.rglob("*") if f.is_file() and not skipped & set(f.relative_to(folder).parts))
    return {str(f): f.stat().st_mtime_ns for f in files}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("tiny")
    for name in ("home", "scratch"):
        (folder / name).mkdir()
    before = tree(ROOT)
    printed = make("reproduce-table3", folder)
    assert tree(ROOT) == before  # invariant 10: no file outside results, data and the environment
    assert snapshot(folder / "home") == snapshot(folder / "scratch") == {}
    return folder, printed


def test_it_leaves_a_table_notebooks_and_runs(place: tuple[Path, str]) -> None:
    folder, printed = place
    results = folder / "results" / "shapes-tiny"
    assert "12 of 12 runs to train" in printed
    assert "paper mean" in printed
    assert "58.0" in printed  # the paper's
    table = (results / "table3.csv").read_text()
    assert table.splitlines()[0] == "pim,msf,ccm,fold,metric,miou,low,high,paper,delta,status,runs"
    assert len(table.splitlines()) == 1 + 4 * 5 * 2
    runs = [p for p in (results / "runs").iterdir() if "yardsticks" not in p.name]
    assert len(runs) == 12
    for run in runs:
        assert {"run.json", "history.json", "metrics.json", "counts.npz"} <= {p.name for p in run.iterdir()}
    assert len(list((results / "train").glob("*.ipynb"))) == 4
    for notebook in [results / "table3.ipynb", *(results / "train").glob("*.ipynb")]:
        read = nbformat.read(notebook, 4)
        assert not any(
            o.output_type == "error" or o.get("name") == "stderr" for c in read.cells for o in c.get("outputs", [])
        )
        assert not list(notebook.parent.glob("*.failed.ipynb"))


def test_again_does_nothing_and_says_so(place: tuple[Path, str]) -> None:
    folder, first = place
    before = snapshot(folder / "results")
    printed = make("reproduce-table3", folder)
    assert "all 12 runs are there; nothing to train" in printed
    assert "table3.ipynb: up to date" in printed
    assert printed.split("Table 3. ")[1] == first.split("Table 3. ")[1]
    assert snapshot(folder / "results") == before


def test_a_removed_run_alone_is_trained_again_and_all_is_as_it_was(place: tuple[Path, str]) -> None:
    """Invariants 2 and 9: the run in a cohort of three, and now alone, gives the same bytes everywhere."""
    folder, _ = place
    results = folder / "results" / "shapes-tiny"
    before = snapshot(folder / "results")
    (removed,) = (results / "runs").glob("fold2-*-pim+msf+ccm-*")
    shutil.rmtree(removed)
    printed = make("reproduce-table3", folder)
    assert "1 of 12 runs to train, in 1 cohort(s)" in printed
    after = snapshot(folder / "results")
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == []


def test_a_half_written_run_is_named(place: tuple[Path, str]) -> None:
    folder, _ = place
    (metrics,) = (folder / "results" / "shapes-tiny" / "runs").glob("fold1-*-base-*/metrics.json")
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[: len(whole) // 2])
    done = subprocess.run(
        ["make", "reproduce-table3", "PRESET=tiny", f"DATA={folder / 'data'}", f"RESULTS={folder / 'results'}"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    metrics.write_bytes(whole)
    assert done.returncode != 0
    (line,) = [x for x in done.stderr.splitlines() if "error:" in x and "make" not in x]
    assert str(metrics) in line
    assert "remove the folder" in line


def test_nbval_passes_and_notices_a_wrong_number(place: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = place
    good = folder / "results" / "shapes-tiny" / "table3.ipynb"
    wrong = tmp_path / "wrong.ipynb"
    read = nbformat.read(good, 4)
    (cell,) = [c for c in read.cells if c.source.startswith("words.beside(reader, table3)")]
    data = cell.outputs[0]["data"]
    for kind in ("text/plain", "text/html"):
        assert "58.0" in data[kind]
        data[kind] = data[kind].replace("58.0", "58.1")
    wrong.write_text(nbformat.writes(read))
    environment = {**os.environ, "DPNET_RESULTS": str(folder / "results")}
    codes = [
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval",
             "--nbval-current-env", str(path)],
            capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
        ).returncode
        for path in (good, wrong)
    ]  # fmt: skip
    assert codes == [0, 1]


def test_all_the_rest_is_made_and_shares_the_runs(place: tuple[Path, str]) -> None:
    """`reproduce-all` after Table 3: what that trained is not trained again, and nothing is missing."""
    folder, _ = place
    results = folder / "results" / "shapes-tiny"
    before = snapshot(results / "runs")
    assert "104 to train" in make("plan-all", folder)
    printed = make("reproduce-all", folder)
    assert "104 of 116 runs to train, in 20 cohort(s)" in printed
    after = snapshot(results / "runs")
    kept = [
        n for n in before
        if n.endswith(("checkpoint.safetensors", "history.json")) or ("yardsticks" in n and n.endswith("counts.npz"))
    ]  # fmt: skip
    assert len(kept) == 12 + 12 + 4
    assert [n for n in kept if after[n] != before[n]] == []
    for name in [*experiments.EXPERIMENTS, "report"]:
        read = nbformat.read(results / f"{name}.ipynb", 4)
        outputs = [o for c in read.cells for o in c.get("outputs", [])]
        assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs)
        if name not in ("table2", "table5"):  # the paper prints means only there; ours have all folds
            text = "".join(o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for o in outputs)
            assert "not run" not in text, name
    for file in results.glob("*.csv"):
        frame = pd.read_csv(file)
        values = frame[frame.columns.intersection(["miou", "difference", "precision"])]
        assert not values.isna().any(axis=None), file.name
    for number in paper.TABLES:
        ours = pd.read_csv(results / f"table{number}_printed.csv")
        assert list(ours.columns) == list(paper.table(number).columns)
    headings = {line.split(":")[0] for line in (results / "REPORT.md").read_text().splitlines()}
    assert {"# Report", "## At a glance"} <= headings
    assert "nothing to train" in make("reproduce-table5", folder)
    assert snapshot(results / "runs") == after


def test_speed_is_measured(place: tuple[Path, str]) -> None:
    folder, _ = place
    printed = make("speed", folder)
    assert "reference's answers are ours" in printed
    (file,) = (folder / "results" / "speed").glob("*.json")
    assert {"ratios", "checks", "growth", "comparison", "where the time goes"} <= json.loads(file.read_text()).keys()
    assert file.with_suffix(".png").stat().st_size > 10_000
    assert snapshot(folder / "scratch") == {}


def test_an_unknown_parameter_fails_in_papermill_itself(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--log-level", "ERROR", "--no-progress-bar",
         str(ROOT / "notebooks" / "table3.ipynb"), str(out), "-p", "bench", "pascal"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "unknown parameter 'bench'" in done.stderr


def test_what_a_run_says_of_itself(place: tuple[Path, str]) -> None:
    folder, _ = place
    for file in (folder / "results" / "shapes-tiny" / "runs").glob("*/run.json"):
        about = json.loads(file.read_text())
        assert about["id"] == file.parent.name
    for file in (folder / "results" / "shapes-tiny" / "runs").glob("*/metrics.json"):
        assert str(folder) not in file.read_text()
