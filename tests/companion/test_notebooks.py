"""Templates carry no outputs, executed notebooks are their templates, and parameters are checked."""

import fcntl
import os
import re
import struct
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

from dpnet import io
from dpnet.companion import notebooks
from dpnet.io import DPNetError, Places

TEMPLATES = sorted(notebooks.TEMPLATES.glob("*.ipynb"))
EXECUTED = [*io.ROOT.glob("results/*/*.ipynb"), *io.ROOT.glob("results/*/train/*.ipynb")]
EXECUTED = sorted(n for n in EXECUTED if "-tiny" not in n.parent.as_posix() and ".failed" not in n.name)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_templates_carry_no_outputs_and_typed_commented_parameters(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    assert all(not c.get("outputs") and c.get("execution_count") is None for c in notebook.cells)
    assert notebook.metadata.kernelspec.name == "python3"
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"\w+: (str|int|bool|float) = \S+  # .+", line)


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_executed_notebooks_are_whole_clean_small_and_their_templates(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    outputs = [o for c in code for o in c.outputs]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert outputs
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs)
    assert set(notebook.metadata) == {"kernelspec", "dpnet"}
    assert path.stat().st_size < 500_000
    # Pictures may hold any letters.
    texts = [(o.get("text", ""), {k: v for k, v in o.get("data", {}).items() if "image" not in k}) for o in outputs]
    text = f"{texts} {[c.source for c in notebook.cells]} {notebook.metadata}"
    assert not re.search(r"/(work|home|root|tmp|Users)/|papermill|widget-view|model_id", text)
    name = "train" if path.parent.name == "train" else path.stem
    template = nbformat.read(notebooks.template(name), 4)
    sources = [c.source for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    assert sources == [c.source for c in template.cells]
    assert notebooks.current(name, path), "stale: run its make target again"


CELLS = ["", 'beta: float = 0.5  # of\nname: str = "x"  # of\nseed: int = 0  # of', "start"]
DECLARED = {"In": CELLS, "beta": 0.5, "name": "x", "seed": 0}


def test_a_notebook_finds_what_lies_beside_its_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["elsewhere"])
    with pd.option_context(*(x for option in notebooks.PANDAS for x in (option, pd.get_option(option)))):
        for _ in range(2):
            notebooks.start({**DECLARED, "Path": Path, "np": np, "__annotations__": {"mine": int}, "mine": None})
        assert sys.path == [str(notebooks.TEMPLATES), "elsewhere"]
        assert pd.get_option("display.max_rows") == 200


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betta": 0.2}, r"unknown parameter 'betta'.*has beta, name, seed"),
        ({"beta": "0.2"}, r"beta='0.2': a float is needed, not str"),
        ({"name": 3}, r"name=3: a str is needed, not int"),
        ({"seed": True}, r"seed=True: a int is needed, not bool"),
    ],
)
def test_unknown_and_mistyped_parameters_fail(values: dict[str, object], message: str) -> None:
    given = ["# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in values.items())]
    with pytest.raises(DPNetError, match=message):
        notebooks.start({**DECLARED, **values, "In": CELLS[:2] + given + CELLS[2:]})


@pytest.fixture
def someones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with start-up files, a kernel, a style and a backend of its own."""
    startup, kernel = (
        tmp_path / "profile_default" / "startup" / "00.py",
        tmp_path / "kernels" / "python3" / "kernel.json",
    )
    io.write(startup, b"print('hello')\nfrom pathlib import Path\nnumber: int = None\n")
    io.write(kernel, io.to_json({"argv": ["false"], "display_name": "", "language": "python"}))
    io.write(tmp_path / "matplotlibrc", b"text.usetex: True\nnonsense: 1\n")
    for name, value in (
        ("PYTHONSTARTUP", startup),
        ("MATPLOTLIBRC", tmp_path / "matplotlibrc"),
        ("MPLBACKEND", "nowhere"),
    ):
        monkeypatch.setenv(name, str(value))
    for name in ("IPYTHONDIR", "JUPYTER_PATH", "JUPYTER_DATA_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path))


def execute(folder: Path, monkeypatch: pytest.MonkeyPatch, *cells: str) -> list[nbformat.NotebookNode]:
    """Outputs of a notebook of some cells, below a cell of parameters."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in ("n: int = 1  # of", *cells)])
    made.cells[0].metadata.tags = ["parameters"]
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    io.write(folder / "made.ipynb", nbformat.writes(made).encode())
    monkeypatch.setattr(notebooks, "TEMPLATES", folder)
    notebooks.execute("made", folder / "out" / "made.ipynb", {"n": 2})
    return [o for cell in nbformat.read(folder / "out" / "made.ipynb", 4).cells for o in cell.get("outputs", [])]


START = "from dpnet.companion import figures, notebooks; notebooks.start(globals())"
DRAW = "figures.line = figures.plt.plot\n_ = figures.line([1, 2])"


def test_a_kernel_is_this_interpreter_and_nothing_of_its_users(
    someones: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = "import os, sys, matplotlib; print(sys.executable, 'Path' in globals(), matplotlib.matplotlib_fname())"
    before = dict(os.environ)
    text, picture = execute(tmp_path, monkeypatch, f"{look}\n{START}", DRAW)
    assert text.text == f"{sys.executable} False {os.devnull}\n"
    assert "image/png" in picture.data
    assert dict(os.environ) == before


def test_a_notebook_has_its_own_style_and_backend_in_any_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nbval or JupyterLab starts it."""
    theirs = "import matplotlib; matplotlib.use('Agg'); matplotlib.rcParams['text.usetex'] = True"
    (picture,) = execute(tmp_path, monkeypatch, theirs, START, DRAW)
    assert "image/png" in picture.data


def test_a_picture_that_is_not_there_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DPNetError, match=r"made\.failed\.ipynb: no picture below the cell with `_ = figures\.`"):
        execute(tmp_path, monkeypatch, START, "figures.plt.switch_backend('Agg')", DRAW)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["made.failed.ipynb"]


TEXT, IMAGE, EMPTY = ({"data": {kind: text}} for kind, text in (
    ("text/plain", "0"), ("image/png", ""), ("text/plain", "Empty DataFrame\nColumns: []")
))  # fmt: skip


@pytest.mark.parametrize(
    ("source", "outputs", "missing"),
    [
        ("_ = figures.of_target(scores)", [], True),
        ("x = 1\nfigure = drawing.bars(x)", [TEXT], True),
        ("_ = figures.of_target(scores)", [TEXT, IMAGE], False),
        ("if runs:\n    _ = figures.loss_curves(runs)\nlast", [TEXT], True),
        ("if runs:\n    _ = figures.loss_curves(runs)\nlast", [EMPTY], False),
        ("if compared:\n    _ = figures.compared(scores)", [], False),
        ("print(figures.COLOURS)", [TEXT], False),
    ],
)
def test_which_cells_need_a_picture(source: str, outputs: list[dict[str, object]], missing: bool) -> None:
    cell = nbformat.from_dict({"source": source, "outputs": outputs})
    assert bool(notebooks._undrawn(nbformat.from_dict({"cells": [cell]}))) is missing


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_executed_notebooks_have_their_pictures(path: Path) -> None:
    assert notebooks._undrawn(nbformat.read(path, 4)) == ""


def test_a_parameter_cannot_inject_code() -> None:
    """Whatever a value holds, a notebook's parameters cell reads it back as that value."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    hostile = "x\"; raise SystemExit #'\n'" + '"' * 3 + "\\{1/0}\n%cd /"
    made = parameterize_notebook(load_notebook_node(str(notebooks.TEMPLATES / "train.ipynb")), {"benchmark": hostile})
    (cell,) = [c for c in made.cells if "injected-parameters" in c.metadata.get("tags", [])]
    names: dict[str, object] = {}
    exec(cell.source, names)
    assert names["benchmark"] == hostile


def test_what_a_notebook_was_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training notebook stays current when results, what is published or code change; a table's does not."""
    monkeypatch.setattr(notebooks, "places", lambda: SimpleNamespace(published=tmp_path / "published"))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("train", "fig3"):
        folder.joinpath(f"{name}.ipynb").write_bytes((notebooks.TEMPLATES / f"{name}.ipynb").read_bytes())
    monkeypatch.setattr(notebooks, "TEMPLATES", folder)
    marks = {name: [notebooks.source(name, tmp_path / f"{name}.ipynb")] for name in ("train", "fig3")}
    for file in (tmp_path / "fig3.csv", folder / "drawing.py", tmp_path / "published" / tmp_path.name / "fig3.csv"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("changed")
        for name, seen in marks.items():
            seen.append(notebooks.source(name, tmp_path / f"{name}.ipynb"))
    assert [len(set(seen)) for seen in marks.values()] == [1, 4]


def test_a_terminal_without_a_name_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> str:
        raise OSError(19, "No such device")

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True, closed=False, fileno=lambda: 2))
    monkeypatch.setattr(os, "ttyname", fails)
    monkeypatch.delenv(io.RELAY, raising=False)
    assert io.terminal() == ""


def test_a_kernels_progress_is_drawn_on_the_terminal_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, terminal = os.openpty()
    os.set_blocking(screen, False)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    monkeypatch.setenv(io.RELAY, os.ttyname(terminal))
    assert [*io.progress("abc", "letters")] == ["a", "b", "c"]
    assert b"letters: " in os.read(screen, 9999)
    for end in (screen, terminal):
        os.close(end)


def test_without_a_terminal_there_is_a_line_at_the_start_in_time_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(io.RELAY, "")
    monkeypatch.setattr(io, "EVERY", 0.3)
    assert [*io.progress(range(9), "quick things")] == [*range(9)]
    monkeypatch.setenv(io.RELAY, "/dev/pts/closed")  # its terminal went, the work goes on
    assert [*io.progress(range(9), "quick things")] == [*range(9)]
    assert capsys.readouterr().err == ""
    for _ in io.progress(iter("ab"), "slow ones", "letter", 2):  # lines come while an item takes long, too
        time.sleep(1.2)
    first, *others, last = capsys.readouterr().err.splitlines()
    assert first == "dpnet: slow ones: 0 of 2 letters, 00:01 so far"
    assert len(others) >= 3
    assert "dpnet: slow ones: 1 of 2 letters, 00:01 so far, about 00:01 left" in others
    lefts = [text.rpartition(", about ")[2] for text in others if "about" in text]
    assert lefts == sorted(lefts, reverse=True)  # while an item takes long, the time left does not grow
    assert last == "dpnet: slow ones: done, 2 of 2 letters in 00:02"
    monkeypatch.setattr(sys, "stderr", None)
    assert len([time.sleep(1.1) for _ in io.progress("a", "nobody listens")]) == 1


def test_free_cores_are_those_that_others_leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def free(idle: float, cores: int = 8, allowed: int = 8) -> int:
        monkeypatch.setattr(psutil, "cpu_times_percent", lambda _: SimpleNamespace(idle=idle))
        monkeypatch.setattr(psutil, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(allowed))
        return io.free_cores()

    monkeypatch.setattr(io, "QUOTA", tmp_path / "cpu.max")
    assert [free(99), free(50), free(1), free(99, allowed=2), free(51, allowed=6)] == [8, 4, 1, 2, 4]
    (tmp_path / "cpu.max").write_text("max 100000")
    assert free(99) == 8
    (tmp_path / "cpu.max").write_text("150000 100000")
    assert free(99) == 2
    (tmp_path / "cpu.max").write_text("20000 100000")
    assert free(99) == 1


def test_kernels_find_the_places_and_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPNET_RESULTS", "before")
    before = dict(os.environ)
    at = Places(tmp_path / "data", tmp_path / "results", "cpu", tmp_path / "published")
    with notebooks.kernel_environment(at, MORE="1"):
        assert io.places() == at
        assert os.environ["MORE"] == "1"
    assert dict(os.environ) == before
    assert io.places().results.name == "before"
    assert io.places(results=tmp_path).results == tmp_path
    monkeypatch.delenv("DPNET_RESULTS")
    assert (io.places().published, io.places().results) == (io.ROOT / "results", io.ROOT / "results" / "local")
