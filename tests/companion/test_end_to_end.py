"""Every target at `tiny` through Make, as a user types it: Table 3, again, with a run removed, then the rest."""

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
from dpnet.io import ROOT

SKIPPED = {".git", ".venv", ".pytest_cache", "__pycache__", ".ruff_cache", ".mypy_cache", ".hypothesis"}
Place = tuple[Path, str]


def make(target: str, folder: Path, *more: str, at: Path = ROOT) -> str:
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("DPNET_", "MAKE"))}
    done = subprocess.run(
        ["make", target, "PRESET=tiny", f"DATA={folder / 'data'}", f"RESULTS={folder / 'results'}", *more],
        capture_output=True, text=True, cwd=at, check=False,
        env={**outside, "HOME": str(folder / "home"), "TMPDIR": str(folder / "scratch")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def checkout() -> dict[str, int]:
    """Every file of the checkout but those of git, the environment and tools, and when it was written."""
    files = (f for f in ROOT.rglob("*") if f.is_file() and not SKIPPED & set(f.relative_to(ROOT).parts))
    return {str(f): f.stat().st_mtime_ns for f in files}


def outputs(notebook: Path) -> list[nbformat.NotebookNode]:
    """What an executed notebook displays; nothing of it is an error or a warning."""
    displayed = [o for cell in nbformat.read(notebook, 4).cells for o in cell.get("outputs", [])]
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in displayed), notebook
    return displayed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("tiny")
    for name in ("home", "scratch"):
        (folder / name).mkdir()
    before = checkout()
    printed = make("reproduce-table3", folder)
    assert checkout() == before  # invariant 10: no file outside results, data and the environment
    assert snapshot(folder / "home") == snapshot(folder / "scratch") == {}
    return folder, printed


def test_it_leaves_a_table_notebooks_and_runs_and_again_does_nothing(place: Place) -> None:
    folder, printed = place
    results = folder / "results" / "shapes-tiny"
    assert "12 of 12 runs to train" in printed
    assert "paper mean" in printed
    assert "58.0" in printed  # the paper's
    table = (results / "table3.csv").read_text().splitlines()
    assert table[0] == "pim,msf,ccm,fold,metric,miou,low,high,trainings,by_training,paper,delta,status,runs"
    assert len(table) == 1 + 4 * 5 * 2
    assert len(list((results / "train").glob("*.ipynb"))) == 4
    assert all(map(outputs, [results / "table3.ipynb", *(results / "train").glob("*.ipynb")]))
    for file in results.glob("runs/*/run.json"):
        assert json.loads(file.read_text())["id"] == file.parent.name
        assert str(folder) not in (file.parent / "metrics.json").read_text()
    before = snapshot(folder / "results")
    again = make("reproduce-table3", folder)
    assert "all 12 runs are there; nothing to train" in again
    assert "table3.ipynb: up to date" in again
    assert again.split("Table 3. ")[1] == printed.split("Table 3. ")[1]
    assert snapshot(folder / "results") == before


def test_a_removed_run_alone_is_trained_again_and_all_is_as_it_was(place: Place) -> None:
    """Invariants 2 and 9: the run in a cohort of three, and now alone, gives the same bytes everywhere."""
    folder, _ = place
    before = snapshot(folder / "results")
    (removed,) = (folder / "results" / "shapes-tiny" / "runs").glob("fold2-*-pim+msf+ccm-*")
    shutil.rmtree(removed)
    assert "1 of 12 runs to train, in 1 cohort(s)" in make("reproduce-table3", folder)
    assert snapshot(folder / "results") == before


def test_nbval_passes_and_notices_a_wrong_number(place: Place, tmp_path: Path) -> None:
    folder, _ = place
    good = folder / "results" / "shapes-tiny" / "table3.ipynb"
    wrong = tmp_path / "wrong.ipynb"
    read = nbformat.read(good, 4)
    tables = [o.data for cell in read.cells for o in cell.get("outputs", []) if "58.0" in str(o.get("data"))]
    for kind in ("text/plain", "text/html"):
        tables[0][kind] = tables[0][kind].replace("58.0", "58.1")
    wrong.write_text(nbformat.writes(read))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    done = subprocess.run(
        [*command, str(good), str(wrong)], capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "DPNET_RESULTS": str(folder / "results")},
    )  # fmt: skip
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1, done.stdout
    assert "wrong.ipynb" in failed[0]


def test_all_the_rest_is_made_and_shares_the_runs(place: Place) -> None:
    """`reproduce-all` after Table 3: what that trained is not trained again, and nothing is missing."""
    folder, _ = place
    results = folder / "results" / "shapes-tiny"
    trained = ("checkpoint.safetensors", "history.json")
    before = {n: b for n, b in snapshot(results / "runs").items() if n.endswith(trained) or "yardsticks" in n}
    assert "104 to train" in make("plan-all", folder)
    assert "104 of 116 runs to train, in 20 cohort(s)" in make("reproduce-all", folder, "JOBS=2")
    after = snapshot(results / "runs")
    assert before.items() <= after.items()
    for name in [*experiments.EXPERIMENTS, "report"]:
        text = str([o for o in outputs(results / f"{name}.ipynb") if "image" not in str(list(o.get("data", {})))])
        if name not in ("table2", "table5"):  # the paper prints means only there; ours have all folds
            assert "not run" not in text, name
    for file in results.glob("*.csv"):
        frame = pd.read_csv(file)
        values = frame[frame.columns.intersection(["miou", "difference", "precision"])]
        assert not values.isna().any(axis=None), file.name
    for number in paper.TABLES:
        ours = pd.read_csv(results / f"table{number}_printed.csv")
        assert list(ours.columns) == list(paper.table(number).columns)
    assert {"# Report: `shapes` at `tiny`", "## At a glance"} <= set((results / "REPORT.md").read_text().splitlines())
    assert "nothing to train" in make("reproduce-table5", folder)
    assert snapshot(results / "runs") == after


def test_a_reproduction_leaves_what_is_published_as_it_is_and_is_compared_with_it(
    place: Place, tmp_path: Path
) -> None:
    """In a checkout that publishes more than is reproduced: git sees no change, and the counts are the same."""
    folder, _ = place
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*SKIPPED, "data", "results"))
    shutil.copytree(ROOT / "dpnet" / "data", copy / "dpnet" / "data")
    shutil.copytree(folder / "results" / "shapes-tiny", copy / "results" / "shapes-tiny")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(copy)]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "what is published"]):
        subprocess.run([*git, *command], check=True)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    printed = make("reproduce-table3", folder, "RESULTS=results/local", "JOBS=2", at=copy)
    assert "12 of 12 runs to train" in printed
    assert "Verdicts on your rows and effects: identical (9 of 9)" in printed
    assert subprocess.run([*git, "status", "--short"], capture_output=True, check=True).stdout == b""
    text = (copy / "results" / "local" / "shapes-tiny" / "table3.ipynb").read_text()
    assert "Yours beside the published" in text
    assert text.count("identical") > 9


def test_speed_is_measured(place: Place) -> None:
    folder, _ = place
    make("speed", folder)
    (file,) = (folder / "results" / "speed").glob("*.json")
    assert {"ratios", "checks", "growth", "comparison", "where the time goes"} <= json.loads(file.read_text()).keys()
    assert file.with_suffix(".png").stat().st_size > 10_000
    assert snapshot(folder / "scratch") == {}
