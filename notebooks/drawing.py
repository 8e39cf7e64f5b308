"""What the guides beside this file draw and count: scenes in memory, a head trained for seconds, small pictures.

A map of cells is [h, w] or [h w]; its cells lie at pixels 0, ..., S - 1 of the image, corners included.
"""

import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn import functional as F

from dpnet import train
from dpnet.companion import presets
from dpnet.companion.explorer import Predictions
from dpnet.companion.figures import COLOURS, MARKERS, OUTLINE
from dpnet.config import VOID, Recipe, Run, Training
from dpnet.data import FOLDS, SPLITS, Benchmark, Entry, cache, index, shapes
from dpnet.episodes import Episode, training_pools
from dpnet.metrics import episode_counts, mean_iou
from dpnet.model import DPNet
from dpnet.modules import resize

# Seconds instead of minutes: half the width, no dropout, three times the learning rate.
QUICK = presets.resolve("shapes", "quick").training
SHORT = replace(QUICK, width=32, dropout=0.0, learning_rate=3e-3, precision="fp32")
NAMES_ON_THE_WAY = (("S1", 7, "bottom"), ("Q1", 7, "bottom"), ("S2", -7, "top"))  # points above, S2 below
TARGET_COLOURS = np.array([(0.25, 0.25, 0.25), COLOURS[0], COLOURS[1]])  # background, object, void
PLOT = {"axes.grid": True, "axes.grid.axis": "y", "grid.color": "0.92", "axes.axisbelow": True, "axes.labelsize": 9}
PLOT |= {"axes.spines.top": False, "axes.spines.right": False, "xtick.labelsize": 9, "ytick.labelsize": 9}
PLOT |= {"axes.titlesize": 10, "legend.frameon": False, "legend.fontsize": 9, "figure.constrained_layout.use": True}
Scene = tuple[np.ndarray, np.ndarray]  # image uint8 [S, S, 3], label uint8 [S, S]
Outlined = Mapping[str, tuple[np.ndarray, np.ndarray | None]]  # title -> image uint8 [H, W, 3], mask bool [H, W]


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes without files: uint8 [n, 3, S, S], int64 [n, S, S] with 0, class ids, and 255."""

    benchmark: Benchmark  # to draw episodes from; its images cannot be opened
    images: Tensor
    labels: Tensor

    def masks(self, positions: Sequence[int], class_ids: Sequence[int]) -> Tensor:
        """Labels of some scenes as the target of one class each: int64 [n, S, S] with 0, 1, 255."""
        return cache.binary(self.labels[list(positions)], torch.tensor(class_ids)[:, None, None]).long()


def scenes(
    seed: Sequence[int], amount: int, classes: Sequence[int], size: int, diversity: float, split: str = "train"
) -> Scenes:
    """Render scenes of some classes (see `shapes.render`) in memory."""
    rendered = [shapes.render([*seed, i], classes, size, diversity) for i in range(amount)]
    images, labels = (torch.from_numpy(np.stack(part)) for part in zip(*rendered, strict=True))
    counts = [index.count(label) for _, label in rendered]
    entries = tuple(Entry(f"{i}", split, "", "", (size, size), c) for i, c in enumerate(counts))
    benchmark = Benchmark("shapes", Path(), shapes.CLASSES, FOLDS, FOLDS, entries, "")
    return Scenes(benchmark, images.permute(0, 3, 1, 2), labels.long())


def pair(class_id: int, seed: Sequence[int], classes: Sequence[int], size: int, diversity: float) -> list[Scene]:
    """The first two scenes of a stream that show enough of a class."""
    stream = (shapes.render([*seed, number], classes, size, diversity) for number in count())
    return list(islice(((image, label) for image, label in stream if (label == class_id).mean() > 0.02), 2))


def practise(net: DPNet, drawn: Scenes, fold: int, seed: int, steps: int) -> list[list[float]]:
    """Train a head in place for a moment with `train.py`; a row per tenth: step, means of L_seg, L_aux, L_dis."""
    with torch.no_grad():
        raw = torch.cat([net.backbone(part) for part in drawn.images.split(20)])
    run = Run("shapes", Recipe(), replace(SHORT, steps=steps), fold, seed, net.head.variant)
    optimizer = torch.optim.AdamW(net.head.parameters(), SHORT.learning_rate, weight_decay=SHORT.weight_decay)
    member = train.Member(run, net.head.train(), optimizer, torch.Generator())
    pools = training_pools(drawn.benchmark, fold, "drop")
    work = train.graphed([member], net.backbone)
    of_images = lambda positions, _: (raw[positions], drawn.labels[positions])  # noqa: E731
    for step, batch in train.batches(of_images, drawn.benchmark, pools, run, 0):
        train.advance([member], batch, step, work)
    net.head.eval()
    return [[*part[-1, :1], *part[:, 1:].mean(0)] for part in np.array_split(member.curve, 10)]


def summary(net: DPNet, drawn: Scenes, chosen: Sequence[Episode], beta: float) -> pd.DataFrame:
    """The cells that a network selects on one-shot episodes, and the mean IoU of both branches, in whole %."""
    ids, queries, supports = zip(*((e.class_id, e.query, e.supports[0]) for e in chosen), strict=True)
    masks, target = drawn.masks(supports, ids), drawn.masks(queries, ids)
    output = net(drawn.images[[*supports]][:, None], masks[:, None], drawn.images[[*queries]], beta)
    y = train.at_cells(target, output.logits.shape[2:])[:, None]
    on_object = [100 * (y[cells] == 1).float().mean().item() for cells in (output.candidates, output.selected)]
    answers = [resize(x, target.shape[1:]).argmax(1) for x in (output.aux_logits, output.logits)]
    scores = [mean_iou(episode_counts(a, target).numpy(), np.array(ids), "canet") for a in answers]
    names = ("C on the object %", "C' on the object %", "mIoU % with P alone", "mIoU % with P and P_q")
    # Whole numbers, which another processor's rounding does not change.
    return pd.DataFrame([[round(v) for v in (*on_object, *scores)]], columns=names, index=[f"{len(chosen)} episodes"])


def middle(cells: Tensor) -> list[int]:
    """The middle one of the cells that a mask (bool [N]) marks, as a list; empty where it marks none."""
    marked = cells.nonzero()[:, 0].tolist()
    return marked[len(marked) // 2 : len(marked) // 2 + 1]


def share(cells: Tensor, truth: Tensor) -> str:
    """How many cells a mask (bool [1, N]) marks, and how many of those lie on the object ([1, N]), in words."""
    marked = truth[cells]
    on_object = f", {100 * (marked == 1).float().mean():.0f} % of them on the object" if len(marked) else ""
    return f"{len(marked)} cells{on_object}"


def taps(cell: int, dilation: int, grid: tuple[int, int]) -> list[int]:
    """The cells, within the grid, that a dilated 3x3 convolution sees around a cell."""
    numbers = torch.arange(1.0, grid[0] * grid[1] + 1).view(1, 1, *grid)  # 0 is the padding
    around = F.unfold(numbers, 3, dilation, padding=dilation)[0, :, cell].long()
    return (around[around > 0] - 1).tolist()


@dataclass(frozen=True)
class Panel:
    """One picture of a row: an image, over it a map of cells, a mask's outline, and marks on some cells."""

    title: str
    image: np.ndarray | None = None  # uint8 [S, S, 3]
    mask: np.ndarray | None = None  # bool [S, S], outlined
    cells: Tensor | None = None  # a cell map in colours, transparent where it is NaN
    unit: str = ""  # of the colours; "" for no scale
    limits: tuple[float, float] | None = None  # of the colours; None: the map's own
    marks: Mapping[str, Sequence[int]] = field(default_factory=dict)  # name in the legend -> cells with a symbol
    grid: tuple[int, ...] = ()  # (h, w) of the cells that `marks` counts
    areas: Mapping[str, Any] = field(default_factory=dict)  # name in the legend -> colour


def row(*panels: Panel, width: float = 2.1, size: int = 0) -> Figure:
    """Panels side by side, each `width` inches wide; `size` is S where a panel has neither image nor mask."""
    lines = max(len(panel.marks) + len(panel.areas) for panel in panels)
    below = max([0.05 + 0.19 * lines, *(0.52 for panel in panels if panel.unit)])
    height, gap = width + 0.18 + below, 0.05  # inches
    figure, axes = plt.subplots(1, len(panels), figsize=(width * len(panels), height), squeeze=False)
    edge = gap / width / len(panels)
    figure.subplots_adjust(edge, below / height, 1 - edge, 1 - (0.18 + 2 * gap) / height, 2 * gap / (width - 2 * gap))
    for axis, panel in zip(axes[0], panels, strict=True):
        _draw(axis, panel, size)
        if panel.unit:
            bar = axis.inset_axes((0.05, -0.12 / width, 0.9, 0.07 / width))
            figure.colorbar(axis.images[-1], cax=bar, orientation="horizontal")
            bar.set_xlabel(panel.unit, fontsize=9, labelpad=1)
            bar.tick_params(labelsize=8, pad=1, length=2)
            bar.locator_params(nbins=5)
        elif lines:
            handles = axis.get_legend_handles_labels()[0]
            for name, colour in panel.areas.items():  # the object is outlined, other areas are filled
                handles.append(Patch(edgecolor=colour, facecolor="none" if colour == OUTLINE else colour, label=name))
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "borderaxespad": 0.1, "frameon": False}
            axis.legend(handles=handles, **place, fontsize=9, handletextpad=0.4, labelspacing=0.3)
    return figure


def _draw(axis: Axes, panel: Panel, size: int) -> None:
    axis.set_title(panel.title, fontsize=10, pad=3)
    axis.set(xticks=[], yticks=[])
    if panel.image is not None:
        size = len(panel.image)
        axis.imshow(panel.image, interpolation="bilinear")
    elif panel.mask is not None:
        size = len(panel.mask)
    if panel.cells is not None:
        values = panel.cells.detach().float().numpy()
        values = values.reshape(panel.grid) if values.ndim == 1 else values
        half = (size - 1) / (len(values) - 1) / 2
        extent = (-half, size - 1 + half, size - 1 + half, -half)
        low, high = panel.limits or (np.nanmin(values), np.nanmax(values))
        axis.imshow(values, "cividis", extent=extent, vmin=low, vmax=high, interpolation="nearest")
    if panel.mask is not None:
        outline(axis, panel.mask)
    for number, (name, cells) in enumerate(panel.marks.items()):
        _mark(axis, *_pixels(cells, panel.grid, size), number, name)


def _pixels(cells: Sequence[int], grid: tuple[int, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where cells lie: x to the right, y down."""
    rows, columns = np.divmod(np.array(cells, int), grid[1])
    return columns * (size - 1) / (grid[1] - 1), rows * (size - 1) / (grid[0] - 1)


def _mark(axis: Axes, x: Any, y: Any, number: int, name: str) -> None:
    style = {"color": [COLOURS[number]], "marker": MARKERS[number], "edgecolors": "white", "linewidths": 0.7}
    axis.scatter(x, y, 36, **style, label=name)


def show(figure: Figure) -> Any:
    """A figure of images for a notebook, as a small JPEG; the figure is closed."""
    style = {"quality": 68, "optimize": True, "progressive": True}
    figure.savefig(buffer := BytesIO(), format="jpeg", dpi=100, pil_kwargs=style)
    plt.close(figure)
    return Image(data=buffer.getvalue(), format="jpeg")


def outline(axis: Axes, mask: np.ndarray) -> None:
    """Draw the border of a mask (bool [S, S]) in yellow on black, seen on any ground."""
    if mask.any():
        axis.contour(mask, [0.5], colors="black", linewidths=2.4)
        axis.contour(mask, [0.5], colors=[OUTLINE], linewidths=1.2)


def cycles(
    support: Panel, query: Panel, starts: Mapping[str, Sequence[int]], j_star: Tensor, i_star: Tensor
) -> Figure:
    """Cycles support -> query -> support as in the paper's Fig. 3, for cells i' by name; j* [N_s], i* [N_q]."""
    assert support.image is not None
    there = {name: j_star[list(cells)] for name, cells in starts.items()}
    back = {name: i_star[cells].tolist() for name, cells in there.items()}
    on_support = {name: [*cells, *back[name]] for name, cells in starts.items()}
    on_query = {name: cells.tolist() for name, cells in there.items()}
    figure = row(replace(support, marks=on_support), replace(query, marks=on_query), width=3.3)
    axes = [*figure.axes, figure.axes[0]]
    for number, (name, cells) in enumerate(starts.items()):
        side, colour = (1, "left") if number == 0 else (-1, "right"), COLOURS[number]
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "edgecolor": colour}
        arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.6}
        for way in zip(cells, on_query[name], back[name], strict=True):
            points = np.stack(_pixels(way, support.grid, len(support.image)), 1).tolist()
            for axis, point, (text, shift, va) in zip(axes, points, NAMES_ON_THE_WAY, strict=True):
                near = {"xytext": (6 * side[0], shift), "textcoords": "offset points", "ha": side[1], "va": va}
                axis.annotate(text, point, **near, fontsize=9, bbox=box)
            for i, dash in enumerate(("-", "--")):
                ends = {"axesA": axes[i], "axesB": axes[i + 1], "coordsA": "data", "coordsB": "data"}
                figure.add_artist(ConnectionPatch(points[i], points[i + 1], **ends, **arrow, linestyle=dash))
    return figure


@plt.rc_context(PLOT)
def bars(values: Mapping[str, Tensor], unit: str) -> Figure:
    """One small bar chart over the channels per vector: title -> [C]."""
    figure, axes = plt.subplots(1, len(values), figsize=(3.4 * len(values), 2.3))
    for axis, (title, vector) in zip(np.atleast_1d(axes), values.items(), strict=True):
        axis.bar(range(len(vector)), vector.detach().numpy(), color=COLOURS[0])
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set(title=title, xlabel=unit)
    return figure


@plt.rc_context(PLOT)
def verdicts(h: Tensor, truth: Tensor, beta: float) -> Figure:
    """The discriminator's output [n] of candidates, in descending order, by what they truly show (0, 1, 255)."""
    figure, axis = plt.subplots(figsize=(6.4, 2.8))
    order = h.argsort(descending=True, stable=True)
    for number, (value, name) in enumerate({1: "the object", 0: "something else", VOID: "void: left out"}.items()):
        x = (truth[order] == value).nonzero()[:, 0]
        if len(x):
            _mark(axis, x + 1, h[order][x], number, f"shows {name}")
    axis.axhline(beta, color="0.3", linestyle="--", linewidth=1, label=f"$\\beta$ = {beta:g}")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="candidate, by rank", ylabel="discriminator $h$", ylim=(-0.05, 1.05))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@plt.rc_context(PLOT)
def loss_curve(curve: Sequence[Sequence[float]]) -> Figure:
    """The three losses of `practise` against the step."""
    frame = pd.DataFrame(curve, columns=["step", "$L_{seg}$", "$L_{aux}$", "$L_{dis}$"]).set_index("step")
    style = {"style": [f"{m}-" for m in MARKERS[:3]], "color": COLOURS[:3], "markersize": 4, "ylim": (0, None)}
    return frame.plot(ylabel="loss (nats per pixel or cell)", figsize=(6.4, 2.8), **style).figure


def explored(stored: Predictions, episode: int, beta: float) -> Figure:
    """Support, candidates and answer of an episode at a threshold."""
    selected, mask = stored.at(episode, beta)
    unfiltered, truth = stored.masks[episode, 0], stored.target[episode] == 1
    foreground, candidates, closes = stored.foreground[episode], stored.candidates[episode], stored.closes[episode]
    support, query = stored.images[episode]
    given = {"the object": OUTLINE}
    gained, lost = mask & ~unfiltered, unfiltered & ~mask
    colours = {
        "answer": (mask & unfiltered, COLOURS[0]),
        f"gained by filtering: {gained.sum()} pixels": (gained, COLOURS[2]),
        f"lost by filtering: {lost.sum()} pixels": (lost, COLOURS[3]),
    }
    painted = np.repeat(90 + 0.5 * query.mean(2, keepdims=True), 3, 2)
    for where, colour in colours.values():
        painted[where] = 0.4 * painted[where] + 0.6 * 255 * np.array(colour)
    overlap, before = stored.iou(episode, mask), stored.iou(episode, unfiltered)
    return row(
        _marked("support: cycles from the object", support, stored.support[episode], given,
                {"end on the object": closes, "end elsewhere": foreground & ~closes}),
        _marked(f"query: {candidates.sum()} candidates $C$ at β = {beta:.2f}", query, truth, given,
                {"selected, $C'$": selected, "discarded": candidates & ~selected}),
        Panel(f"answer: IoU {overlap:.1f} % (without filtering {before:.1f} %)", painted.astype(np.uint8), truth,
              areas={**given, **{name: colour for name, (_, colour) in colours.items()}}),
        width=3.3,
    )  # fmt: skip


def sliders(look: Callable[..., Any], **controls: Any) -> None:
    """`ipywidgets.interact` for a function that returns an image; where no kernel runs, the first image stands."""
    from ipywidgets import interactive

    widget = interactive(look, {"auto_display": True}, **controls)
    picture = {"image/jpeg": b64encode(widget.result.data).decode()}
    display({**widget._repr_mimebundle_(), "text/plain": "sliders: they need a running kernel", **picture}, raw=True)
    # What executes notebooks answers widgets while the cell ends, and may then miss that end (nbclient, issue 312).
    time.sleep(1)


def _marked(title: str, image: np.ndarray, mask: np.ndarray, areas: Any, marks: Mapping[str, np.ndarray]) -> Panel:
    """A panel with counted marks on the cells of masks (bool [h, w])."""
    (grid,) = {cells.shape for cells in marks.values()}
    counted = {f"{cells.sum()} {name}": np.flatnonzero(cells).tolist() for name, cells in marks.items()}
    return Panel(title, image, mask, marks=counted, grid=grid, areas=areas)


def in_words(stored: Predictions, episode: int, beta: float) -> str:
    """An episode at a threshold, in two sentences."""
    selected, mask = stored.at(episode, beta)
    candidates, left = int(stored.candidates[episode].sum()), int(selected.sum())
    made = f"P_q is the mean of the {left} selected" if left else "none is left, so P_q = P"
    overlap, before, alone = (stored.iou(episode, m) for m in (mask, stored.masks[episode, 0], stored.alone[episode]))
    return (
        f"{stored.names[episode]}: {candidates} candidate{'s' * (candidates != 1)}, {candidates - left} discarded at "
        f"β = {beta:.2f}; {made}. IoU {overlap:.1f} % (without filtering {before:.1f} %, without P_q {alone:.1f} %)."
    )


def episode_scores(stored: Predictions, betas: Sequence[float]) -> pd.DataFrame:
    """Candidates, how many of them each threshold selects, and the answers' IoU: one row per episode."""
    lines = []
    for episode in range(len(stored.numbers)):
        at = {beta: stored.at(episode, beta) for beta in betas}
        line: dict[str, float] = {"candidates": int(stored.candidates[episode].sum())}
        line |= {f"selected at {beta:g}": int(selected.sum()) for beta, (selected, _) in at.items()}
        line |= {"IoU without P_q": round(stored.iou(episode, stored.alone[episode]), 1)}
        lines.append(line | {f"IoU at {beta:g}": round(stored.iou(episode, m), 1) for beta, (_, m) in at.items()})
    return pd.DataFrame(lines, index=pd.Index(stored.names, name="episode"))


def _shares(benchmark: Benchmark) -> pd.DataFrame:
    """What part of a split's pixels has each label, in %: rows are splits, columns class ids and 255."""
    lines = [{"split": e.split, "area": e.size[0] * e.size[1], **e.pixels} for e in benchmark.entries]
    total = pd.DataFrame(lines).groupby("split").sum().reindex(SPLITS, fill_value=0)
    labels = [*range(1, len(benchmark.classes) + 1), VOID]
    return 100 * total.reindex(columns=labels, fill_value=0).div(total.area.clip(lower=1), axis=0)


def census(benchmark: Benchmark) -> pd.DataFrame:
    """Images that show enough of each class, and its share of all pixels, per split: one row per class, by fold."""
    shares, folds = _shares(benchmark), list(enumerate(benchmark.folds))
    names = [(fold, benchmark.classes[c - 1]) for fold, classes in folds for c in classes]
    table = pd.DataFrame(index=pd.MultiIndex.from_tuples(names, names=["fold", "class"]))
    ids = [c for _, classes in folds for c in classes]
    for split in SPLITS:
        table[f"{split} images"] = [len(benchmark.images_of(c, split)) for c in ids]
        table[f"{split} pixels %"] = shares.loc[split, ids].round(2).tolist()
    return table


def splits(benchmark: Benchmark) -> pd.DataFrame:
    """Images of each split, and what their pixels are: one row per split."""
    shares = _shares(benchmark)
    void, objects = shares[VOID], shares.drop(columns=VOID).sum(axis=1)
    pixels = pd.DataFrame({"objects %": objects, "void %": void, "background %": 100 - objects - void}).round(1)
    pixels.insert(0, "images", [sum(e.split == split for e in benchmark.entries) for split in SPLITS])
    return pixels


def training_images(benchmark: Benchmark, training: Training) -> pd.DataFrame:
    """What each fold's training draws from, under a schedule's rule for novel classes: one row per fold."""
    lines = []
    for fold, novel in enumerate(benchmark.folds):
        pools = training_pools(benchmark, fold, training.novel)
        images = {i for pool in pools.values() for i in pool}
        with_novel = sum(bool(set(novel) & benchmark.entries[i].pixels.keys()) for i in images)
        lines.append({"classes": len(pools), "images": len(images), "of these show a novel class": with_novel})
    return pd.DataFrame(lines).rename_axis("fold")


def single_fold(benchmark: Benchmark) -> float:
    """The share of the test images, in %, whose classes all belong to one fold."""
    of_images = [set(e.pixels) - {VOID} for e in benchmark.entries if e.split == "val"]
    one = sum(any(classes <= set(fold) for fold in benchmark.folds) for classes in of_images)
    return 100 * one / max(len(of_images), 1)


def object_sizes(benchmark: Benchmark) -> pd.DataFrame:
    """The area of each class in each image that counts for it, in % of the image: split and area."""
    rows = [
        (split, 100 * entry.pixels[c] / (entry.size[0] * entry.size[1]))
        for split in SPLITS
        for c in range(1, len(benchmark.classes) + 1)
        for entry in (benchmark.entries[i] for i in benchmark.images_of(c, split))
    ]
    return pd.DataFrame(rows, columns=["split", "area"])


@plt.rc_context(PLOT)
def histograms(benchmark: Benchmark) -> Figure:
    """Object sizes, and classes per image, of both splits."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8))
    style = {"hue": "split", "hue_order": SPLITS, "stat": "percent", "common_norm": False, "palette": COLOURS[:2]}
    sns.histplot(object_sizes(benchmark), x="area", bins=24, element="step", fill=False, ax=left, **style)
    classes = pd.DataFrame(
        [(e.split, len(e.pixels.keys() - {VOID})) for e in benchmark.entries], columns=["split", "n"]
    )
    side_by_side = {"discrete": True, "multiple": "dodge", "shrink": 0.8, "edgecolor": "white"}
    sns.histplot(classes, x="n", legend=False, alpha=1, ax=right, **side_by_side, **style)
    left.set(xlabel="object's area (% of its image)", ylabel="objects (%)", xlim=(0, None))
    right.set(xlabel="classes in an image", ylabel="images (%)")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    sns.move_legend(left, "upper right", title=None)
    return figure


def episode_summary(benchmark: Benchmark, fold: int, chosen: Sequence[Episode]) -> pd.DataFrame:
    """How often a list of episodes asks for each class of its fold: one row per class."""
    lines = [(e.class_id, e.query, bool(e.wrong_supports)) for e in chosen]
    asked = pd.DataFrame(lines, columns=["class", "query", "wrong"]).groupby("class")
    counts = {"episodes": asked.size(), "different queries": asked["query"].nunique()}
    counts["with a wrong support"] = asked.wrong.sum()
    tested = benchmark.tested[fold]
    table = pd.DataFrame(counts).reindex(tested, fill_value=0)
    return table.set_axis(pd.Index([benchmark.classes[c - 1] for c in tested], name="class"))


def gallery(pictures: Outlined, columns: int = 5) -> Figure:
    """Images with an outlined mask each."""
    rows = -(-len(pictures) // columns)
    figure = plt.figure(figsize=(1.7 * columns, 1.9 * rows), layout="constrained")
    for number, (title, (image, mask)) in enumerate(pictures.items(), 1):
        axis = figure.add_subplot(rows, columns, number)
        axis.imshow(image, interpolation="bilinear")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
        if mask is not None:
            outline(axis, mask)
    return figure


def _outlined(benchmark: Benchmark, position: int, class_id: int) -> Scene:
    entry = benchmark.entries[position]
    return benchmark.image(entry), benchmark.label(entry) == class_id


def one_of_each(benchmark: Benchmark) -> Outlined:
    """The first test image that counts for each class, with the class outlined, for `gallery`."""
    firsts = {c: benchmark.images_of(c, "val")[:1] for c in range(1, len(benchmark.classes) + 1)}
    return {benchmark.classes[c - 1]: _outlined(benchmark, i, c) for c, first in firsts.items() for i in first}


def by_diversity(class_ids: Sequence[int], values: Sequence[float], seed: int, size: int) -> Outlined:
    """The same classes of `shapes` at several diversities, two objects of each, for `gallery`; diversities by row."""
    return {
        f"{shapes.CLASSES[c - 1]} {'AB'[n]}, d = {d:g}": (image, label == c)
        for d in values
        for c in class_ids
        for n in range(2)
        for image, label in [shapes.render([seed, c, n], [c], size, d)]
    }


def episode_table(benchmark: Benchmark, chosen: Sequence[Episode]) -> Outlined:
    """One-shot episodes, a column each, for `gallery`: support, wrong support, query, and target with its void."""
    rows: list[dict[str, Any]] = [{}, {}, {}, {}]
    for episode in chosen:
        name, entry = benchmark.classes[episode.class_id - 1], benchmark.entries[episode.query]
        label = benchmark.label(entry)
        rows[0][f"{name}: support"] = _outlined(benchmark, episode.supports[0], episode.class_id)
        rows[1][f"{name}: no wrong support"] = (np.ones((1, 1, 3)), None)
        if episode.wrong_supports:
            _, wrong = rows[1].popitem(), benchmark.classes[episode.wrong_class - 1]
            rows[1][f"{name}: wrong support ({wrong})"] = _outlined(
                benchmark, episode.wrong_supports[0], episode.wrong_class
            )
        rows[2][f"{name}: query"] = (benchmark.image(entry), None)
        rows[3][f"{name}: target"] = (TARGET_COLOURS[np.where(label == VOID, 2, label == episode.class_id)], None)
    return {title: pictures for row_ in rows for title, pictures in row_.items()}
