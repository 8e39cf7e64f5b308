"""The guides: they run, say the same twice, and name every equation; what they draw and count with."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import drawing
import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from dpnet import DPNet, episodes, io
from dpnet.data import FOLDS
from dpnet.data.index import Benchmark, Entry

TEMPLATES = io.ROOT / "notebooks"
LIMIT = 600  # seconds; it takes half a minute where nothing else runs


@pytest.fixture
def data() -> Benchmark:
    """Six images of 100 x 100 pixels, of four classes in two folds."""
    pixels = {
        "train": ({1: 1000, 255: 500}, {1: 2000, 3: 1000}, {2: 4000}),
        "val": ({1: 1000, 2: 1000}, {3: 900, 4: 800}, {2: 50, 4: 700}),
    }
    entries = tuple(Entry(f"{s}{i}", s, "", "", (100, 100), p) for s, ps in pixels.items() for i, p in enumerate(ps))
    folds = ((1, 2), (3, 4))
    return Benchmark("folder", Path(), ("cup", "key", "car", "fox"), folds, folds, entries, "")


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


# ---- the notebooks


def executed(name: str, output: Path, **parameters: object) -> tuple[list[nbformat.NotebookNode], str, int]:
    """Outputs of a guide, what it prints, and its number of pictures; it is small, and names no folder."""
    # In a process of its own: after others in the same process the kernel of the sliders sometimes never answers.
    call = f"from pathlib import Path; notebooks.execute({name!r}, Path({str(output)!r}), {parameters!r})"
    subprocess.run([sys.executable, "-c", f"from dpnet.companion import notebooks; {call}"], check=True, cwd=io.ROOT)
    outputs = [o for cell in nbformat.read(output, 4).cells for o in cell.get("outputs", [])]
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs)
    assert output.stat().st_size < 500_000
    assert not re.search(r"/(work|home|root|tmp|Users)/|widget-view", output.read_text())
    printed = "".join(o.text for o in outputs if o.output_type == "stream")
    return outputs, printed, sum("image/jpeg" in o.get("data", {}) for o in outputs)


def test_the_method_names_every_equation_runs_and_says_the_same_twice(tmp_path: Path) -> None:
    cells = nbformat.read(TEMPLATES / "01_method.ipynb", 4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    numbers = [int(n) for n in re.findall(r"\$\$[^$]*\((\d+)\)\s*\$\$", text)]
    assert numbers == [*range(1, 12)]
    titles = re.findall(r"^## Eq\. (\d+)(?:–(\d+))?:", text, re.MULTILINE)
    assert [n for a, b in titles for n in range(int(a), int(b or a) + 1)] == numbers

    output = tmp_path / "01_method.ipynb"
    _, printed, pictures = executed("01_method", output)
    assert pictures
    assert "False" not in printed  # its facts hold
    assert printed.count("True") >= 12
    assert "19,297,990 parameters" in printed
    nbval = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    command = [*nbval, f"--nbval-cell-timeout={LIMIT}", "-c", os.devnull, str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout


def test_the_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPNET_DATA", str(tmp_path / "data"))
    for with_pictures in (True, False):
        where = {"preset": "tiny", "pictures": with_pictures}
        _, printed, pictures = executed("02_benchmark", tmp_path / "02_benchmark.ipynb", **where)
        assert "20 classes in 4 folds" in printed
        assert "all belong to one fold: 100 %" in printed
        assert ("No pictures" in printed) is not with_pictures
        assert pictures == (3 if with_pictures else 1)  # the scenes that show diversity are anybody's


def test_your_data_goes_from_files_to_a_table(tmp_path: Path) -> None:
    """Nothing is written but the notebook, and it holds what a reader came for."""
    project = sorted([*io.ROOT.glob("*"), *io.ROOT.glob("results/*")])
    outputs, printed, pictures = executed("03_your_data", tmp_path / "03_your_data.ipynb", images=40)
    assert "folder: 40 images of 4 classes are ready" in printed
    assert "folds: leaf, coin; key, book" in printed
    tables = [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert [t.count("<tr>") for t in tables] == [4, 6, 7]  # Table 3's rows, its effects, its baselines
    assert "NaN" not in "".join(tables)
    assert pictures == 2
    assert sorted([*io.ROOT.glob("*"), *io.ROOT.glob("results/*")]) == project
    assert [p.name for p in tmp_path.iterdir()] == ["03_your_data.ipynb"]


def test_the_explorer_shows_pictures_without_a_kernel(tmp_path: Path) -> None:
    assert executed("explore", tmp_path / "explore.ipynb")[2] == 4  # the sliders' place, and three thresholds


@pytest.mark.parametrize("name", ["01_method", "02_benchmark", "03_your_data", "explore"])
def test_cells_are_short(name: str) -> None:
    cells = json.loads((TEMPLATES / f"{name}.ipynb").read_text())["cells"]
    assert max(len(c["source"]) for c in cells if c["cell_type"] == "code") <= 20


# ---- what they draw and count with


def test_scenes_are_a_benchmark_without_files() -> None:
    drawn = drawing.scenes([0, 1], 4, FOLDS[1], 64, 0.4)
    assert drawn.images.shape == (4, 3, 64, 64)
    for entry, label in zip(drawn.benchmark.entries, drawn.labels, strict=True):
        assert entry.pixels == {int(v): int((label == v).sum()) for v in label.unique() if v}
    class_id = next(c for c in drawn.benchmark.entries[0].pixels if c != 255)
    (mask,) = drawn.masks([0], [class_id])
    assert torch.equal(mask == 1, drawn.labels[0] == class_id)
    assert torch.equal(mask == 255, drawn.labels[0] == 255)
    (first, label), (second, other) = drawing.pair(2, [0, 0], FOLDS[0], 64, 0.4)
    assert min((label == 2).mean(), (other == 2).mean()) > 0.02
    assert not np.array_equal(first, second)


def test_practice_lowers_the_loss_and_is_the_same_twice() -> None:
    drawn = drawing.scenes([0, 1], 20, range(6, 21), 65, 0.4)

    def practised() -> tuple[DPNet, list[list[float]]]:
        generator = torch.Generator().manual_seed(0)
        net = DPNet("efficientnet_lite0", width=8, dilations=(1, 2, 3), dropout=0.0, generator=generator)
        return net, drawing.practise(net, drawn, fold=0, seed=0, steps=20)

    net, curve = practised()
    assert [line[0] for line in curve] == [*range(2, 22, 2)]
    assert sum(curve[-1][1:]) < sum(curve[0][1:])
    assert not net.head.training
    assert practised()[1] == curve
    tested = drawing.scenes([0, 2], 12, FOLDS[0], 65, 0.4, "val")
    chosen = episodes.test_episodes(tested.benchmark, 0, 1, 0, 6)
    with torch.no_grad():
        values = drawing.summary(net, tested, chosen, 0.2).to_numpy()
    assert values.shape == (1, 4)
    assert 0 <= values.min() <= values.max() <= 100


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_taps_are_where_a_convolution_looks(dilation: int) -> None:
    for cell in (0, 17, 34):
        x = torch.zeros(1, 1, 5, 7, requires_grad=True)
        y = torch.conv2d(x, torch.ones(1, 1, 3, 3), padding=dilation, dilation=dilation)
        y.flatten()[cell].backward()
        assert x.grad is not None
        assert drawing.taps(cell, dilation, (5, 7)) == x.grad.flatten().nonzero()[:, 0].tolist()


def test_a_cell_map_covers_the_image_by_half_a_cell_more() -> None:
    image, marks = np.zeros((33, 33, 3), np.uint8), {"m": [0, 24]}
    (axis,) = drawing.row(drawing.Panel("", image, cells=torch.arange(25.0), marks=marks, grid=(5, 5))).axes
    assert axis.images[-1].get_extent() == [-4, 36, 36, -4]  # cells of 8 pixels around 0, 8, ..., 32
    assert axis.collections[-1].get_offsets().tolist() == [[0, 0], [32, 32]]


def test_every_text_is_readable(data: Benchmark) -> None:
    image, mask, nowhere = np.zeros((33, 33, 3), np.uint8), np.eye(33, dtype=bool), torch.zeros(25, dtype=torch.int64)
    panel = drawing.Panel("support", image, mask, torch.rand(25), "cosine", grid=(5, 5))
    plain = drawing.Panel("query", image, mask, grid=(5, 5))
    for figure in (
        drawing.row(panel, plain),
        drawing.cycles(plain, plain, {"in C": [3], "dropped": []}, nowhere, nowhere),
        drawing.bars({"X": torch.rand(4)}, "channel"),
        drawing.verdicts(torch.rand(4), torch.tensor([0, 1, 255, 1]), 0.2),
        drawing.loss_curve([[1, 0.5, 0.5, 0.5], [2, 0.4, 0.4, 0.4]]),
        drawing.histograms(data),
        drawing.gallery({"a": (image, mask), "b": (image, None)}),
    ):
        figure.canvas.draw()
        sizes = [t.get_fontsize() for t in figure.findobj(plt.Text) if t.get_text() and t.get_visible()]
        assert min(sizes) >= 8


def test_the_numbers_of_a_benchmark(data: Benchmark) -> None:
    table = drawing.census(data)
    assert table.index.tolist() == [(0, "cup"), (0, "key"), (1, "car"), (1, "fox")]
    assert table["train images"].tolist() == [2, 1, 1, 0]
    assert table["val images"].tolist() == [1, 1, 1, 2]  # 50 pixels of a key are fewer than the 82 that count
    assert table["train pixels %"].tolist() == [10.0, 13.33, 3.33, 0.0]
    assert drawing.splits(data).loc["train"].tolist() == [3, 26.7, 1.7, 71.7]
    assert drawing.single_fold(data) == pytest.approx(200 / 3)  # the last image shows classes of both folds
    sizes = drawing.object_sizes(data)
    assert sorted(sizes[sizes.split == "val"].area) == [7, 8, 9, 10, 10]
