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
from dpnet.companion import notebooks
from dpnet.data import FOLDS
from dpnet.data.index import Benchmark, Entry

TEMPLATES = io.ROOT / "notebooks"
LIMIT = 600  # seconds; it takes half a minute where nothing else runs


def benchmark() -> Benchmark:
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


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("guides") / "01_method.ipynb"
    notebooks.execute("01_method", output, {})
    return output


def outputs(path: Path) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(path, 4)
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]


def printed(path: Path) -> str:
    return "".join(o.text for o in outputs(path) if o.output_type == "stream")


def jpegs(path: Path) -> int:
    return sum("image/jpeg" in o.get("data", {}) for o in outputs(path))


def is_clean(path: Path) -> None:
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs(path))
    assert jpegs(path)
    assert path.stat().st_size < 500_000
    assert not re.search(r"/(work|home|root|tmp|Users)/|widget-view", path.read_text())


def test_the_method_names_every_equation_in_order() -> None:
    cells = nbformat.read(TEMPLATES / "01_method.ipynb", 4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    numbers = [int(n) for n in re.findall(r"\$\$[^$]*\((\d+)\)\s*\$\$", text)]
    assert numbers == [*range(1, 12)]
    titles = re.findall(r"^## Eq\. (\d+)(?:–(\d+))?:", text, re.MULTILINE)
    assert [n for a, b in titles for n in range(int(a), int(b or a) + 1)] == numbers


def test_the_method_runs_and_its_facts_hold(method: Path) -> None:
    is_clean(method)
    text = printed(method)
    assert "False" not in text
    assert text.count("True") >= 12
    assert "19,297,990 parameters" in text


def test_the_method_says_the_same_twice(method: Path) -> None:
    nbval = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    command = [*nbval, f"--nbval-cell-timeout={LIMIT}", "-c", os.devnull, str(method)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=method.parent, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("pictures", [True, False])
def test_the_benchmark_runs(pictures: bool, tmp_path_factory: pytest.TempPathFactory,
                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    data = tmp_path_factory.getbasetemp() / "guide-data"  # rendered once
    monkeypatch.setenv("DPNET_DATA", str(data))
    output = tmp_path_factory.mktemp("guides") / "02_benchmark.ipynb"
    notebooks.execute("02_benchmark", output, {"preset": "tiny", "pictures": pictures})
    is_clean(output)
    assert "20 classes in 4 folds" in printed(output)
    assert "all belong to one fold: 100 %" in printed(output)
    assert ("No pictures" in printed(output)) is not pictures
    assert jpegs(output) == (3 if pictures else 1)  # the scenes that show diversity are rendered, so anybody's


def test_your_data_goes_from_files_to_a_table(tmp_path: Path) -> None:
    """Nothing is written but the notebook, and it holds what a reader came for."""
    project = sorted([*io.ROOT.glob("*"), *io.ROOT.glob("results/*")])
    output = tmp_path / "03_your_data.ipynb"
    notebooks.execute(output.stem, output, {"images": 40})
    is_clean(output)
    assert "folder: 40 images of 4 classes are ready" in printed(output)
    assert "folds: leaf, coin; key, book" in printed(output)
    tables = [o["data"]["text/html"] for o in outputs(output) if "text/html" in o.get("data", {})]
    assert [t.count("<tr>") for t in tables] == [4, 6, 7]  # Table 3's rows, its effects, its baselines
    assert "NaN" not in "".join(tables)
    assert jpegs(output) == 2
    assert sorted([*io.ROOT.glob("*"), *io.ROOT.glob("results/*")]) == project
    assert [p.name for p in tmp_path.iterdir()] == [output.name]


def test_the_explorer_shows_pictures_without_a_kernel(tmp_path: Path) -> None:
    output = tmp_path / "explore.ipynb"
    notebooks.execute("explore", output, {})
    is_clean(output)
    assert jpegs(output) == 4  # the sliders' place, and three thresholds


@pytest.mark.parametrize("name", ["01_method", "02_benchmark", "03_your_data", "explore"])
def test_cells_are_short(name: str) -> None:
    cells = json.loads((TEMPLATES / f"{name}.ipynb").read_text())["cells"]
    assert max(len(c["source"]) for c in cells if c["cell_type"] == "code") <= 20


# ---- scenes in memory


def test_scenes_are_a_benchmark_without_files() -> None:
    drawn = drawing.scenes([0, 1], 4, FOLDS[1], 64, 0.4)
    assert drawn.images.shape == (4, 3, 64, 64)
    for entry, label in zip(drawn.benchmark.entries, drawn.labels, strict=True):
        assert entry.pixels == {int(v): int((label == v).sum()) for v in label.unique() if v}
    class_id = next(c for c in drawn.benchmark.entries[0].pixels if c != 255)
    (mask,) = drawn.masks([0], [class_id])
    assert torch.equal(mask == 1, drawn.labels[0] == class_id)
    assert torch.equal(mask == 255, drawn.labels[0] == 255)


def test_a_pair_shows_its_class() -> None:
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


# ---- cells and pictures


def test_cells_in_words_in_the_middle_and_far_away() -> None:
    cells, nowhere = torch.tensor([[True, True, False, True]]), torch.zeros(1, 4, dtype=torch.bool)
    assert drawing.share(cells, torch.tensor([[1, 0, 1, 1]])) == "3 cells, 67 % of them on the object"
    assert drawing.share(nowhere, torch.tensor([[1, 0, 1, 1]])) == "0 cells"
    assert drawing.middle(cells[0]) == [1]
    assert drawing.middle(nowhere[0]) == []
    ends = torch.tensor([5, 1, 1, 3, 4, 4])  # cells of a grid of 2 x 3
    everywhere = torch.ones(6, dtype=torch.bool)
    assert drawing.farthest(everywhere, ends, (2, 3)) == [0]
    assert drawing.farthest(torch.tensor([False] * 5 + [True]), ends, (2, 3)) == [5]
    assert drawing.farthest(~everywhere, ends, (2, 3)) == []


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_taps_are_where_a_convolution_looks(dilation: int) -> None:
    for cell in (0, 17, 34):
        x = torch.zeros(1, 1, 5, 7, requires_grad=True)
        y = torch.conv2d(x, torch.ones(1, 1, 3, 3), padding=dilation, dilation=dilation)
        y.flatten()[cell].backward()
        assert x.grad is not None
        assert drawing.taps(cell, dilation, (5, 7)) == x.grad.flatten().nonzero()[:, 0].tolist()


def test_a_cell_map_covers_the_image_by_half_a_cell_more() -> None:
    panel = drawing.Panel(
        "", np.zeros((33, 33, 3), np.uint8), cells=torch.arange(25.0), marks={"m": [0, 24]}, grid=(5, 5)
    )
    (axis,) = drawing.row(panel).axes
    assert axis.images[-1].get_extent() == [-4, 36, 36, -4]  # cells of 8 pixels around 0, 8, ..., 32
    assert axis.collections[-1].get_offsets().tolist() == [[0, 0], [32, 32]]


def test_every_text_is_readable() -> None:
    image, mask = np.zeros((33, 33, 3), np.uint8), np.eye(33, dtype=bool)
    panel = drawing.Panel("support", image, mask, torch.rand(25), "cosine", grid=(5, 5))
    plain = drawing.Panel("query", image, mask, grid=(5, 5))
    nowhere = torch.zeros(25, dtype=torch.int64)
    figures = [
        drawing.row(panel, plain),
        drawing.cycles(plain, plain, {"in C": [3], "dropped": []}, nowhere, nowhere),
        drawing.bars({"X": torch.rand(4)}, "channel"),
        drawing.verdicts(torch.rand(4), torch.tensor([0, 1, 255, 1]), 0.2),
        drawing.loss_curve([[1, 0.5, 0.5, 0.5], [2, 0.4, 0.4, 0.4]]),
        drawing.histograms(benchmark()),
        drawing.gallery({"a": (image, mask), "b": (image, None)}),
    ]
    for figure in figures:
        figure.canvas.draw()
        sizes = [t.get_fontsize() for t in figure.findobj(plt.Text) if t.get_text() and t.get_visible()]
        assert min(sizes) >= 8


# ---- numbers of a benchmark


def test_the_numbers_of_a_benchmark() -> None:
    data = benchmark()
    table = drawing.census(data)
    assert table.index.tolist() == [(0, "cup"), (0, "key"), (1, "car"), (1, "fox")]
    assert table["train images"].tolist() == [2, 1, 1, 0]
    assert table["val images"].tolist() == [1, 1, 1, 2]  # 50 pixels of a key are fewer than the 82 that count
    assert table["train pixels %"].tolist() == [10.0, 13.33, 3.33, 0.0]
    assert drawing.splits(data).loc["train"].tolist() == [3, 26.7, 1.7, 71.7]
    assert drawing.single_fold(data) == pytest.approx(200 / 3)  # the last image shows classes of both folds
    sizes = drawing.object_sizes(data)
    assert sorted(sizes[sizes.split == "val"].area) == [7, 8, 9, 10, 10]
    assert drawing.object_summary(data).loc["val"].tolist() == [5, 9.0, 7.4, 10.0, 2.0]


def test_targets_have_three_colours() -> None:
    label = np.array([[0, 3, 5, 255]], np.uint8)
    assert drawing.as_target(label, 3).tolist() == [[0, 1, 0, 255]]
    background, target, other, void = drawing.target_picture(label, 3)[0].tolist()
    assert background == other
    assert len({tuple(background), tuple(target), tuple(void)}) == 3
