"""What the guides in `notebooks/` draw: scenes in memory, a head trained for seconds, small pictures.

A cell map is [h, w], or flat [h w], on an image of S pixels: its cells lie at pixels 0, ..., S - 1, corners
included (`modules.resize`), so a picture of cells is half a cell wider than the image on each side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dpnet.companion import presets
from dpnet.companion.figures import COLOURS, MARKERS
from dpnet.config import VOID, Training
from dpnet.data import FOLDS, SPLITS, Benchmark, Entry, index, shapes
from dpnet.episodes import Episode, training_batch, training_pools
from dpnet.metrics import episode_counts, mean_iou
from dpnet.model import DPNet, shared_counts, soft_masks
from dpnet.modules import resize
from dpnet.train import at_cells, losses

SHORT = replace(  # seconds instead of minutes: half the width, no dropout, three times the learning rate
    presets.resolve("shapes", "quick").training, width=32, dropout=0.0, learning_rate=3e-3
)
OUTLINE = (1.0, 0.85, 0.0)
GREY, BLUE, ORANGE = (0.25, 0.25, 0.25), COLOURS[0], COLOURS[1]
TARGET = {"background": GREY, "object": BLUE, "void": ORANGE}


# ---- scenes in memory


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes without files.

    Arguments:
        benchmark: what lists of episodes are drawn from; its images cannot be opened.
        images: uint8 [n, 3, S, S].
        labels: int64 [n, S, S] with 0, class ids, and 255.
    """

    benchmark: Benchmark
    images: Tensor
    labels: Tensor

    def masks(self, positions: Sequence[int], class_ids: Sequence[int]) -> Tensor:
        """Labels of some scenes as one class's target each: int64 [n, S, S] with 0, 1, 255."""
        labels, ids = self.labels[list(positions)], torch.tensor(class_ids)[:, None, None]
        return torch.where(labels == VOID, VOID, (labels == ids).long())


def scenes(
    seed: Sequence[int], amount: int, classes: Sequence[int], size: int, diversity: float, split: str = "train"
) -> Scenes:
    """Render scenes in memory.

    Arguments:
        seed: of all of them.
        amount: how many.
        classes, size, diversity: see `shapes.render`.
        split: that all of them belong to.

    Returns:
        the scenes.
    """
    drawn = [shapes.render([*seed, i], classes, size, diversity) for i in range(amount)]
    images, labels = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    counts = [index.count(label) for _, label in drawn]
    entries = tuple(Entry(f"{i}", split, "", "", (size, size), c) for i, c in enumerate(counts))
    benchmark = Benchmark("shapes", Path(), shapes.CLASSES, FOLDS, FOLDS, entries, "")
    return Scenes(benchmark, images.permute(0, 3, 1, 2), labels.long())


def pair(
    class_id: int, seed: Sequence[int], classes: Sequence[int], size: int, diversity: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first two scenes of a stream that show enough of a class: a support and a query.

    Arguments:
        class_id: the class.
        seed: of the stream.
        classes, size, diversity: see `shapes.render`.

    Returns:
        two images, uint8 [S, S, 3], each with its label, uint8 [S, S].
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    number = 0
    while len(found) < 2:
        drawn = shapes.render([*seed, number], classes, size, diversity)
        number += 1
        if (drawn[1] == class_id).mean() > 0.02:
            found.append(drawn)
    return found


def as_tensor(image: np.ndarray) -> Tensor:
    """An image uint8 [H, W, 3] as a batch of one, uint8 [1, 3, H, W]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def as_target(label: np.ndarray, class_id: int) -> np.ndarray:
    """A label of class ids (uint8 [H, W]) as one class's target: int64 [H, W] with 0, 1, and 255 for void."""
    return np.where(label == VOID, VOID, label == class_id).astype(np.int64)


def practise(net: DPNet, drawn: Scenes, fold: int, seed: int, steps: int) -> list[list[float]]:
    """Train a network's head for a moment, on the losses and with the kind of schedule of `train.py`.

    Arguments:
        net: its head is changed in place, and left in evaluation mode.
        drawn: scenes of classes that are not the fold's.
        fold: whose classes are novel.
        seed: of the episodes.
        steps: of the optimiser.

    Returns:
        one row per tenth of the training: step, and the means of L_seg, L_aux and L_dis since the last.
    """
    head, backbone, variant = net.head.train(), net.backbone, net.head.variant
    with torch.no_grad():
        raw = torch.cat([backbone(part) for part in drawn.images.split(20)])
    pools = training_pools(drawn.benchmark, fold, "drop")
    optimizer = torch.optim.AdamW(head.parameters(), SHORT.learning_rate, weight_decay=SHORT.weight_decay)
    values = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = SHORT.learning_rate * (1 - step / steps) ** SHORT.decay
        chosen = training_batch(drawn.benchmark, pools, fold, seed, step, SHORT.batch)
        ids, queries = [e.class_id for e in chosen], [e.query for e in chosen]
        supports = [e.supports[0] for e in chosen]
        raw_s, raw_q = raw[supports][:, None], raw[queries]
        masks = soft_masks(drawn.masks(supports, ids)[:, None], raw.shape[-2:])
        counts = shared_counts(backbone, raw_s, raw_q, masks, variant.pseudo)
        output = head(backbone.features(raw_s), masks, backbone.features(raw_q), counts, variant.beta)
        L_seg, L_aux, L_dis = losses(output, drawn.masks(queries, ids), variant)
        optimizer.zero_grad()
        (L_seg + variant.lambda_1 * L_aux + variant.lambda_2 * L_dis).backward()
        optimizer.step()
        values.append(torch.stack([L_seg, L_aux, L_dis]).tolist())
    head.eval()
    ends = np.linspace(0, steps, min(10, steps) + 1).round().astype(int)
    return [[int(b), *np.mean(values[a:b], 0).tolist()] for a, b in pairwise(ends)]


def middle(cells: Tensor) -> list[int]:
    """The middle one of the cells that a mask (bool [N]) marks, as a list; empty where it marks none."""
    found = cells.nonzero()[:, 0].tolist()
    return found[len(found) // 2 : len(found) // 2 + 1]


def farthest(cells: Tensor, ends: Tensor, grid: tuple[int, ...]) -> list[int]:
    """The one of the cells that a mask (bool [N]) marks whose end (int64 [N]) lies farthest away, as a list."""
    here = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).flatten(0, 1).float()
    distances = (here - here[ends]).norm(dim=1).where(cells, -1.0)
    return [int(distances.argmax())] if cells.any() else []


def share(cells: Tensor, truth: Tensor) -> str:
    """How many cells a mask marks, and how many of those lie on the object, in words.

    Arguments:
        cells: bool [1, N].
        truth: int64 [1, N] with 0, 1, 255.

    Returns:
        the words.
    """
    marked = truth[cells]
    if not len(marked):
        return "0 cells"
    return f"{len(marked)} cells, {100 * (marked == 1).float().mean():.0f} % of them on the object"


def summary(net: DPNet, drawn: Scenes, chosen: Sequence[Episode], beta: float) -> pd.DataFrame:
    """What a network makes of one-shot episodes: the cells it selects, and the mean IoU of both branches.

    Arguments:
        net: in evaluation mode.
        drawn: the scenes.
        chosen: episodes on them.
        beta: the discriminator's threshold.

    Returns:
        one row, in whole %, so that another processor's rounding shows in none of it.
    """
    ids, queries = [e.class_id for e in chosen], [e.query for e in chosen]
    supports = [e.supports[0] for e in chosen]
    masks, target = drawn.masks(supports, ids), drawn.masks(queries, ids)
    output = net(drawn.images[supports][:, None], masks[:, None], drawn.images[queries], beta)
    y = at_cells(target, output.logits.shape[2:])[:, None]
    on_object = [100 * (y[cells] == 1).float().mean().item() for cells in (output.candidates, output.selected)]
    answers = [resize(x, target.shape[1:]).argmax(1) for x in (output.aux_logits, output.logits)]
    scores = [mean_iou(episode_counts(a, target).numpy(), np.array(ids), "canet") for a in answers]
    names = ("C on the object %", "C' on the object %", "mIoU % with P alone", "mIoU % with P and P_q")
    return pd.DataFrame([[round(v) for v in (*on_object, *scores)]], columns=names, index=[f"{len(chosen)} episodes"])


# ---- pictures of the method


@dataclass(frozen=True)
class Panel:
    """One picture of a row.

    Arguments:
        title: above it.
        image: uint8 [S, S, 3], below everything; None: none.
        mask: bool [S, S], outlined; None: none.
        cells: a cell map in colours, nothing where it is NaN; None: none.
        unit: what the colours measure; "" shows no scale.
        limits: of the colours; None: those of the map.
        marks: name -> cells that get a symbol; named in a legend.
        grid: (h, w) of the cells that `marks` counts.
    """

    title: str
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    cells: Tensor | None = None
    unit: str = ""
    limits: tuple[float, float] | None = None
    marks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    grid: tuple[int, ...] = ()


def row(*panels: Panel, width: float = 2.1, size: int = 0) -> Figure:
    """Panels side by side.

    Arguments:
        panels: at least one.
        width: of each, in inches.
        size: S, for panels without image and mask.

    Returns:
        the figure.
    """
    below = max(0.52 * bool(panel.unit) or 0.2 * len(panel.marks) for panel in panels)
    figure = plt.figure(figsize=(width * len(panels), width + 0.18 + below + 0.05))
    gap, inches = 0.05, figure.get_size_inches()
    for number, panel in enumerate(panels):
        left, side = (width * number + gap) / inches[0], (width - 2 * gap) / inches[0]
        base = (below + 0.05) / inches[1]
        axis = figure.add_axes((left, base, side, (width - 2 * gap) / inches[1]))
        _draw(axis, panel, size)
        if panel.unit:
            _scale(figure, axis, panel, (left + 0.05 * side, base - 0.12 / inches[1], 0.9 * side, 0.07 / inches[1]))
        elif panel.marks:
            axis.legend(
                loc="upper center",
                bbox_to_anchor=(0.5, 0.0),
                frameon=False,
                fontsize=9,
                handletextpad=0.2,
                borderaxespad=0.1,
                labelspacing=0.3,
            )
    return figure


def _draw(axis: Axes, panel: Panel, size: int) -> None:
    axis.set_title(panel.title, fontsize=10, pad=3)
    axis.set_xticks([])
    axis.set_yticks([])
    if panel.image is not None:
        size = len(panel.image)
        axis.imshow(panel.image, interpolation="bilinear")
    if panel.mask is not None:
        size = len(panel.mask)
    if panel.cells is not None:
        shown = panel.cells.detach().float().numpy()
        shown = shown.reshape(panel.grid) if shown.ndim == 1 else shown
        half = (size - 1) / (len(shown) - 1) / 2
        extent = (-half, size - 1 + half, size - 1 + half, -half)
        low, high = panel.limits or (np.nanmin(shown), np.nanmax(shown))
        axis.imshow(shown, "cividis", extent=extent, vmin=low, vmax=high, interpolation="nearest")
    if panel.mask is not None:
        outline(axis, panel.mask)
    for number, (name, cells) in enumerate(panel.marks.items()):
        x, y = _places(cells, panel.grid, size)
        axis.scatter(x, y, 34, edgecolors="white", linewidths=0.7, **_symbol(number, name))


def _scale(figure: Figure, axis: Axes, panel: Panel, place: tuple[float, float, float, float]) -> None:
    bar = figure.colorbar(axis.images[-1], cax=figure.add_axes(place), orientation="horizontal")
    bar.set_label(panel.unit, fontsize=9, labelpad=1)
    bar.ax.tick_params(labelsize=8, pad=1, length=2)
    bar.ax.locator_params(nbins=5)


def shown(figure: Figure) -> Any:
    """A figure of noisy images for a notebook, as a small JPEG.

    Arguments:
        figure: closed thereafter.

    Returns:
        what a cell displays.
    """
    from IPython.display import Image

    figure.savefig(
        buffer := BytesIO(),
        format="jpeg",
        dpi=100,
        pil_kwargs={"quality": 68, "optimize": True, "progressive": True},
    )
    plt.close(figure)
    return Image(data=buffer.getvalue(), format="jpeg")


def outline(axis: Axes, mask: np.ndarray) -> None:
    """Draw the border of a mask (bool [S, S]) in yellow on black, seen on any ground."""
    if mask.any():
        axis.contour(mask, [0.5], colors="black", linewidths=2.4)
        axis.contour(mask, [0.5], colors=[OUTLINE], linewidths=1.2)


def _label(axis: Axes, text: str, point: tuple[float, float], colour: Sequence[float], right: bool) -> None:
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "edgecolor": colour}
    up = text != "S2"  # which may lie where S1 does
    axis.annotate(
        text,
        point,
        (6 if right else -6, 7 if up else -7),
        textcoords="offset points",
        ha="left" if right else "right",
        va="bottom" if up else "top",
        fontsize=9,
        bbox=box,
    )


def _place(cell: int, grid: tuple[int, ...], size: int) -> tuple[float, float]:
    (x,), (y,) = _places([cell], grid, size)
    return float(x), float(y)


def _places(cells: Sequence[int], grid: tuple[int, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    # Where cells lie, in pixels: x to the right, y down.
    rows, columns = np.divmod(np.array(cells, int), grid[1])
    return columns * (size - 1) / (grid[1] - 1), rows * (size - 1) / (grid[0] - 1)


def cycles(
    support: Panel, query: Panel, starts: Mapping[str, Sequence[int]], j_star: Tensor, i_star: Tensor
) -> Figure:
    """Cycles support -> query -> support, as the paper's Fig. 3 draws them.

    Arguments:
        support, query: with images and grids.
        starts: name -> support cells i'.
        j_star: int64 [N_s].
        i_star: int64 [N_q].

    Returns:
        the figure.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.6, 3.5), layout="constrained")
    for axis, panel in zip(axes, (support, query), strict=True):
        _draw(axis, panel, 0)
    assert support.image is not None
    size, grid = len(support.image), support.grid
    for number, (name, cells) in enumerate(starts.items()):
        colour = COLOURS[number]
        for start in cells:
            there = int(j_star[start])
            stations = [(axes[0], start, "S1"), (axes[1], there, "Q1"), (axes[0], int(i_star[there]), "S2")]
            points = [_place(cell, grid, size) for _, cell, _ in stations]
            for (axis, _, text), point in zip(stations, points, strict=True):
                axis.scatter(*point, s=50, color=[colour], marker=MARKERS[number], edgecolors="white", zorder=3)
                _label(axis, text, point, colour, number == 0)
            for (first, second), dash in (((0, 1), "-"), ((1, 2), "--")):
                ends = {
                    "axesA": stations[first][0],
                    "axesB": stations[second][0],
                    "coordsA": "data",
                    "coordsB": "data",
                }
                style = {"arrowstyle": "->", "color": colour, "linestyle": dash, "linewidth": 1.6}
                figure.add_artist(ConnectionPatch(points[first], points[second], **ends, **style))
        axes[0].scatter([], [], s=50, **_symbol(number, name))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def bars(values: Mapping[str, Tensor], unit: str) -> Figure:
    """One small bar chart over the channels per vector.

    Arguments:
        values: title -> [C].
        unit: of the horizontal axis.

    Returns:
        the figure.
    """
    figure, axes = plt.subplots(1, len(values), figsize=(3.4 * len(values), 2.3), layout="constrained")
    for axis, (title, vector) in zip(np.atleast_1d(axes), values.items(), strict=True):
        axis.bar(range(len(vector)), vector.detach().numpy(), color=BLUE)
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(unit, fontsize=9)
        _plain(axis)
    return figure


def verdicts(h: Tensor, truth: Tensor, beta: float) -> Figure:
    """The discriminator's output for each candidate, in descending order, by what the cell truly shows.

    Arguments:
        h: [n] in 0..1.
        truth: int64 [n] with 0, 1, 255.
        beta: the threshold.

    Returns:
        the figure.
    """
    figure, axis = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
    order = h.argsort(descending=True, stable=True)
    for number, (value, name) in enumerate({1: "the object", 0: "something else", VOID: "void: left out"}.items()):
        x = (truth[order] == value).nonzero()[:, 0]
        if len(x):
            axis.scatter(x + 1, h[order][x], 40, **_symbol(number, f"shows {name}"))
    axis.axhline(beta, color="0.3", linestyle="--", linewidth=1, label=f"$\\beta$ = {beta:g}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="candidate, by rank", ylabel="discriminator $h$", ylim=(-0.05, 1.05))
    axis.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    _plain(axis)
    return figure


def loss_curve(curve: Sequence[Sequence[float]]) -> Figure:
    """The three losses of `practise` against the step."""
    figure, axis = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
    steps, *values = np.array(curve).T
    for number, (name, line) in enumerate(zip(("seg", "aux", "dis"), values, strict=True)):
        axis.plot(steps, line, f"{MARKERS[number]}-", color=COLOURS[number], label=f"$L_{{{name}}}$", markersize=4)
    axis.set(xlabel="step", ylabel="loss (nats per pixel or cell)")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=9)
    _plain(axis)
    return figure


def taps(cell: int, dilation: int, grid: tuple[int, int]) -> list[int]:
    """The cells, within the grid, that a dilated 3x3 convolution sees around a cell."""
    row_, column = divmod(cell, grid[1])
    steps = (-dilation, 0, dilation)
    seen = [(row_ + down, column + right) for down in steps for right in steps]
    return [y * grid[1] + x for y, x in seen if 0 <= y < grid[0] and 0 <= x < grid[1]]


# ---- pictures of a benchmark


def census(benchmark: Benchmark) -> pd.DataFrame:
    """Images and pixels of each class: one row per class, by fold.

    Arguments:
        benchmark: prepared; nothing is decoded.

    Returns:
        fold (in which the class is novel), class, and per split: images that show enough of it, and the share
        of all pixels that are its own, in %.
    """
    rows = []
    area = {s: sum(e.size[0] * e.size[1] for e in benchmark.entries if e.split == s) for s in SPLITS}
    for fold, classes in enumerate(benchmark.folds):
        for c in classes:
            line: dict[str, object] = {"fold": fold, "class": benchmark.classes[c - 1]}
            for split in SPLITS:
                pixels = sum(e.pixels.get(c, 0) for e in benchmark.entries if e.split == split)
                line[f"{split} images"] = len(benchmark.images_of(c, split))
                line[f"{split} pixels %"] = round(100 * pixels / max(area[split], 1), 2)
            rows.append(line)
    return pd.DataFrame(rows).set_index(["fold", "class"])


def splits(benchmark: Benchmark) -> pd.DataFrame:
    """Images of each split, and what their pixels are: one row per split."""
    rows = []
    for split in SPLITS:
        listed = [e for e in benchmark.entries if e.split == split]
        area = max(sum(e.size[0] * e.size[1] for e in listed), 1)
        void = sum(e.pixels.get(VOID, 0) for e in listed)
        objects = sum(sum(e.pixels.values()) for e in listed) - void
        shares = {"objects %": objects, "void %": void, "background %": area - objects - void}
        rows.append({"images": len(listed), **{k: round(100 * v / area, 1) for k, v in shares.items()}})
    return pd.DataFrame(rows, index=pd.Index(SPLITS, name="split"))


def training_images(benchmark: Benchmark, training: Training) -> pd.DataFrame:
    """What each fold's training draws from, under a schedule's rule for novel classes: one row per fold."""
    rows = []
    for fold, novel in enumerate(benchmark.folds):
        pools = training_pools(benchmark, fold, training.novel, training.least)
        images = {i for pool in pools.values() for i in pool}
        with_novel = sum(bool(set(novel) & benchmark.entries[i].pixels.keys()) for i in images)
        rows.append({"classes": len(pools), "images": len(images), "of these show a novel class": with_novel})
    return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="fold"))


def single_fold(benchmark: Benchmark, split: str = "val") -> float:
    """The share of a split's images, in %, whose classes all belong to one fold."""
    folds = [set(fold) for fold in benchmark.folds]
    alone = [any(shown <= fold for fold in folds) for shown in classes_shown(benchmark, split)]
    return 100 * sum(alone) / max(len(alone), 1)


def outlines(benchmark: Benchmark, positions: Mapping[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Class id -> position in `entries`, as class name -> image and mask, for `gallery`."""
    entries = {c: benchmark.entries[i] for c, i in positions.items()}
    return {benchmark.classes[c - 1]: (benchmark.image(e), benchmark.label(e) == c) for c, e in entries.items()}


def object_summary(benchmark: Benchmark) -> pd.DataFrame:
    """The numbers behind `histograms`: one row per split."""
    rows = []
    for split in SPLITS:
        sizes = object_sizes(benchmark, split)
        amounts = [len(shown) for shown in classes_shown(benchmark, split)]
        tenth, median, last = np.percentile(sizes, (10, 50, 90)).round(1) if len(sizes) else (np.nan,) * 3
        line = {"objects": len(sizes), "area %: median": median, "a tenth below": tenth, "a tenth above": last}
        rows.append({**line, "classes per image": round(float(np.mean(amounts)), 1) if amounts else np.nan})
    return pd.DataFrame(rows, index=pd.Index(SPLITS, name="split"))


def episode_summary(benchmark: Benchmark, fold: int, chosen: Sequence[Episode]) -> pd.DataFrame:
    """How often a list of episodes asks for each class of its fold: one row per class."""
    rows = []
    for c in benchmark.tested[fold]:
        mine = [e for e in chosen if e.class_id == c]
        line: dict[str, object] = {"class": benchmark.classes[c - 1], "episodes": len(mine)}
        line["different queries"] = len({e.query for e in mine})
        line["with a wrong support"] = sum(bool(e.wrong_supports) for e in mine)
        rows.append(line)
    return pd.DataFrame(rows).set_index("class")


def target(label: np.ndarray, class_id: int) -> np.ndarray:
    """What an episode asks for, as colours: the object, background, and void.

    Arguments:
        label: uint8 [H, W].
        class_id: the object's.

    Returns:
        float [H, W, 3] in 0..1.
    """
    kinds = np.where(label == VOID, 2, label == class_id)
    return np.array(list(TARGET.values()), float)[kinds]


def gallery(pictures: Mapping[str, tuple[np.ndarray, np.ndarray | None]], columns: int = 5) -> Figure:
    """Images with an outlined mask each.

    Arguments:
        pictures: title -> (uint8 [H, W, 3], bool [H, W] or None).
        columns: of the grid.

    Returns:
        the figure.
    """
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.7 * columns, 1.9 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, (image, mask)) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(image, interpolation="bilinear")
        axis.set_title(title, fontsize=9)
        if mask is not None:
            outline(axis, mask)
    return figure


def by_diversity(
    class_ids: Sequence[int], values: Sequence[float], seed: int, size: int
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """The same classes at several diversities, two objects of each, for `gallery`.

    Arguments:
        class_ids: which.
        values: diversities, in 0..1.
        seed: of the scenes.
        size: of the scenes in pixels.

    Returns:
        title -> image and mask; diversities by row.
    """
    return {
        f"{shapes.CLASSES[c - 1]} {'AB'[n]}, d = {d:g}": (drawn[0], drawn[1] == c)
        for d in values
        for c in class_ids
        for n in range(2)
        for drawn in [shapes.render([seed, c, n], [c], size, d)]
    }


def episode_table(benchmark: Benchmark, chosen: Sequence[Episode]) -> Figure:
    """Episodes as columns: support, wrong support, query, and target with its void.

    Arguments:
        benchmark: prepared.
        chosen: one-shot episodes.

    Returns:
        the figure.
    """
    figure, axes = plt.subplots(
        4, len(chosen), figsize=(1.8 * len(chosen) + 0.3, 8.2), layout="constrained", squeeze=False
    )
    for column, episode in zip(axes.T, chosen, strict=True):
        pairs = [(episode.supports[0], episode.class_id)]
        pairs += [(episode.wrong_supports[0], episode.wrong_class)] if episode.wrong_supports else [(-1, 0)]
        for axis, (position, class_id) in zip(column, pairs, strict=False):
            if position >= 0:
                entry = benchmark.entries[position]
                axis.imshow(benchmark.image(entry), interpolation="bilinear")
                outline(axis, benchmark.label(entry) == class_id)
                axis.set_title(benchmark.classes[class_id - 1], fontsize=10)
        query = benchmark.entries[episode.query]
        column[2].imshow(benchmark.image(query), interpolation="bilinear")
        column[3].imshow(target(benchmark.label(query), episode.class_id), interpolation="nearest")
        for axis in column:
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, name in zip(axes[:, 0], ("support", "wrong support", "query", "target"), strict=True):
        axis.set_ylabel(name, fontsize=10)
    handles = [Patch(color=colour, label=name) for name, colour in TARGET.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def object_sizes(benchmark: Benchmark, split: str) -> np.ndarray:
    """The area of each class in each image that counts for it, in % of the image."""
    found = [
        100 * entry.pixels[c] / (entry.size[0] * entry.size[1])
        for c in range(1, len(benchmark.classes) + 1)
        for entry in (benchmark.entries[i] for i in benchmark.images_of(c, split))
    ]
    return np.array(found)


def classes_shown(benchmark: Benchmark, split: str) -> list[set[int]]:
    """The class ids that each image of a split shows, however few pixels."""
    return [set(e.pixels) - {VOID} for e in benchmark.entries if e.split == split]


def histograms(benchmark: Benchmark) -> Figure:
    """Object sizes, and classes per image, of both splits."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    sizes = {split: object_sizes(benchmark, split) for split in SPLITS}
    edges = np.linspace(0, max((s.max() for s in sizes.values() if len(s)), default=1), 25)
    for number, split in enumerate(SPLITS):
        of_all = np.full(len(sizes[split]), 100 / max(len(sizes[split]), 1))
        style = {"color": COLOURS[number], "linewidth": 1.8, "linestyle": "-" if number == 0 else "--"}
        left.hist(sizes[split], edges, weights=of_all, histtype="step", label=split, **style)
        amounts = [len(shown) for shown in classes_shown(benchmark, split)]
        kinds, counts = np.unique(amounts, return_counts=True)
        heights = 100 * counts / max(len(amounts), 1)
        right.bar(kinds + 0.4 * (number - 0.5), heights, 0.38, color=COLOURS[number], label=split)
    left.set(xlabel="object's area (% of its image)", ylabel="objects (%)")
    right.set(xlabel="classes in an image", ylabel="images (%)")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in (left, right):
        _plain(axis)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _symbol(number: int, name: str) -> dict[str, Any]:
    return {"color": [COLOURS[number]], "marker": MARKERS[number], "label": name}


def _plain(axis: Axes) -> None:
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
