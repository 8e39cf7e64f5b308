"""What the guides beside this file draw and count: scenes in memory, a head trained for seconds, small pictures.

A cell map is [h, w], or flat [h w], on an image of S pixels: its cells lie at pixels 0, ..., S - 1, corners
included (`modules.resize`), so a picture of cells is half a cell wider than the image on each side.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dpnet.companion import presets
from dpnet.companion.explorer import Predictions
from dpnet.companion.figures import COLOURS, MARKERS
from dpnet.config import VOID, Training
from dpnet.data import FOLDS, SPLITS, Benchmark, Entry, index, shapes
from dpnet.episodes import Episode, training_batch, training_pools
from dpnet.metrics import episode_counts, mean_iou
from dpnet.model import DPNet, shared_counts, soft_masks
from dpnet.modules import resize
from dpnet.train import at_cells, losses

# Seconds instead of minutes: half the width, no dropout, three times the learning rate.
SHORT = replace(presets.resolve("shapes", "quick").training, width=32, dropout=0.0, learning_rate=3e-3)
YELLOW, GREY = (1.0, 0.85, 0.0), (0.25, 0.25, 0.25)
TARGET_COLOURS = {"background": GREY, "object": COLOURS[0], "void": COLOURS[1]}
Outlined = Mapping[str, tuple[np.ndarray, np.ndarray | None]]  # title -> uint8 [H, W, 3], bool [H, W]


# ---- scenes in memory


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes without files: uint8 [n, 3, S, S], int64 [n, S, S] with 0, class ids, and 255."""

    benchmark: Benchmark  # to draw episodes from; its images cannot be opened
    images: Tensor
    labels: Tensor

    def masks(self, positions: Sequence[int], class_ids: Sequence[int]) -> Tensor:
        """Labels of some scenes as one class's target each: int64 [n, S, S] with 0, 1, 255."""
        return as_target(self.labels[list(positions)], torch.tensor(class_ids)[:, None, None])


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


def pair(
    class_id: int, seed: Sequence[int], classes: Sequence[int], size: int, diversity: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first two scenes of a stream that show enough of a class: uint8 [S, S, 3] and [S, S] each."""
    pictures: list[tuple[np.ndarray, np.ndarray]] = []
    number = 0
    while len(pictures) < 2:
        image, label = shapes.render([*seed, number], classes, size, diversity)
        number += 1
        if (label == class_id).mean() > 0.02:
            pictures.append((image, label))
    return pictures


def as_tensor(image: np.ndarray) -> Tensor:
    """An image uint8 [H, W, 3] as a batch of one, uint8 [1, 3, H, W]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def as_target(label: np.ndarray | Tensor, class_id: int | Tensor) -> Tensor:
    """A label of class ids as one class's target: int64 of the same shape with 0, 1, and 255 for void."""
    label = torch.as_tensor(label)
    return torch.where(label == VOID, VOID, (label == class_id).long())


def practise(net: DPNet, drawn: Scenes, fold: int, seed: int, steps: int) -> list[list[float]]:
    """Train a network's head in place for a moment, as `train.py` does, on scenes of classes that are not the fold's.

    Returns a row per tenth of the training: step, and the means of L_seg, L_aux and L_dis since the last row.
    """
    head, backbone, variant = net.head.train(), net.backbone, net.head.variant
    with torch.no_grad():
        raw = torch.cat([backbone(part) for part in drawn.images.split(20)])
    pools = training_pools(drawn.benchmark, fold, "drop")
    optimizer = torch.optim.AdamW(head.parameters(), SHORT.learning_rate, weight_decay=SHORT.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / steps) ** SHORT.decay)
    values = []
    for step in range(steps):
        batch = training_batch(drawn.benchmark, pools, fold, seed, step, SHORT.batch)
        ids, queries, supports = _columns(batch)
        raw_s, raw_q = raw[supports][:, None], raw[queries]
        masks = soft_masks(drawn.masks(supports, ids)[:, None], raw.shape[-2:])
        counts = shared_counts(backbone, raw_s, raw_q, masks, variant.pseudo)
        output = head(backbone.features(raw_s), masks, backbone.features(raw_q), counts, variant.beta)
        L_seg, L_aux, L_dis = losses(output, drawn.masks(queries, ids), variant)
        optimizer.zero_grad()
        (L_seg + variant.lambda_1 * L_aux + variant.lambda_2 * L_dis).backward()
        optimizer.step()
        schedule.step()
        values.append(torch.stack([L_seg, L_aux, L_dis]).tolist())
    head.eval()
    ends = np.linspace(0, steps, min(10, steps) + 1).round().astype(int)
    return [[int(b), *np.mean(values[a:b], 0).tolist()] for a, b in pairwise(ends)]


def summary(net: DPNet, drawn: Scenes, chosen: Sequence[Episode], beta: float) -> pd.DataFrame:
    """The cells that a network selects on one-shot episodes, and the mean IoU of both branches, in whole %."""
    ids, queries, supports = _columns(chosen)
    masks, target = drawn.masks(supports, ids), drawn.masks(queries, ids)
    output = net(drawn.images[supports][:, None], masks[:, None], drawn.images[queries], beta)
    y = at_cells(target, output.logits.shape[2:])[:, None]
    on_object = [100 * (y[cells] == 1).float().mean().item() for cells in (output.candidates, output.selected)]
    answers = [resize(x, target.shape[1:]).argmax(1) for x in (output.aux_logits, output.logits)]
    scores = [mean_iou(episode_counts(a, target).numpy(), np.array(ids), "canet") for a in answers]
    names = ("C on the object %", "C' on the object %", "mIoU % with P alone", "mIoU % with P and P_q")
    # Whole numbers, which another processor's rounding does not change.
    return pd.DataFrame([[round(v) for v in (*on_object, *scores)]], columns=names, index=[f"{len(chosen)} episodes"])


def _columns(chosen: Sequence[Episode]) -> tuple[list[int], list[int], list[int]]:
    """Classes, queries and (first) supports of episodes."""
    return [e.class_id for e in chosen], [e.query for e in chosen], [e.supports[0] for e in chosen]


# ---- cells


def middle(cells: Tensor) -> list[int]:
    """The middle one of the cells that a mask (bool [N]) marks, as a list; empty where it marks none."""
    marked = cells.nonzero()[:, 0].tolist()
    return marked[len(marked) // 2 : len(marked) // 2 + 1]


def farthest(cells: Tensor, ends: Tensor, grid: tuple[int, ...]) -> list[int]:
    """The one of the cells that a mask (bool [N]) marks whose end (int64 [N]) lies farthest away, as a list."""
    here = torch.cartesian_prod(*map(torch.arange, grid)).float()
    distances = (here - here[ends]).norm(dim=1).where(cells, -1.0)
    return [int(distances.argmax())] if cells.any() else []


def share(cells: Tensor, truth: Tensor) -> str:
    """How many cells a mask (bool [1, N]) marks, and how many of those lie on the object ([1, N]), in words."""
    marked = truth[cells]
    if not len(marked):
        return "0 cells"
    return f"{len(marked)} cells, {100 * (marked == 1).float().mean():.0f} % of them on the object"


def taps(cell: int, dilation: int, grid: tuple[int, int]) -> list[int]:
    """The cells, within the grid, that a dilated 3x3 convolution sees around a cell."""
    y, x = divmod(cell, grid[1])
    steps = (-dilation, 0, dilation)
    places = [(y + down, x + right) for down in steps for right in steps]
    return [v * grid[1] + u for v, u in places if 0 <= v < grid[0] and 0 <= u < grid[1]]


# ---- pictures of the method


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


def row(*panels: Panel, width: float = 2.3, size: int = 0) -> Figure:
    """Panels side by side, each `width` inches wide; `size` is S where a panel has neither image nor mask."""
    lines = max(len(panel.marks) + len(panel.areas) for panel in panels)
    below = max([0.05 + 0.19 * lines, *(0.52 for panel in panels if panel.unit)])
    inches = (width * len(panels), width + 0.18 + below)
    figure, gap = plt.figure(figsize=inches), 0.05
    for number, panel in enumerate(panels):
        left, base = (width * number + gap) / inches[0], below / inches[1]
        side = (width - 2 * gap) / inches[0]
        axis = figure.add_axes((left, base, side, (width - 2 * gap) / inches[1]))
        _draw(axis, panel, size)
        if panel.unit:
            bar = figure.add_axes((left + 0.05 * side, base - 0.12 / inches[1], 0.9 * side, 0.07 / inches[1]))
            figure.colorbar(axis.images[-1], cax=bar, orientation="horizontal")
            bar.set_xlabel(panel.unit, fontsize=9, labelpad=1)
            bar.tick_params(labelsize=8, pad=1, length=2)
            bar.locator_params(nbins=5)
        elif lines:
            handles = axis.get_legend_handles_labels()[0] + [Patch(color=c, label=n) for n, c in panel.areas.items()]
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "borderaxespad": 0.1}
            axis.legend(handles=handles, **place, frameon=False, fontsize=9, handletextpad=0.4, labelspacing=0.3)
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
        axis.scatter(*_pixels(cells, panel.grid, size), 34, **_symbol(number, name))


def _pixels(cells: Sequence[int], grid: tuple[int, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where cells lie: x to the right, y down."""
    rows, columns = np.divmod(np.array(cells, int), grid[1])
    return columns * (size - 1) / (grid[1] - 1), rows * (size - 1) / (grid[0] - 1)


def _symbol(number: int, name: str) -> dict[str, Any]:
    return {
        "color": [COLOURS[number]], "marker": MARKERS[number], "label": name, "edgecolors": "white", "linewidths": 0.7
    }  # fmt: skip


def show(figure: Figure) -> Any:
    """A figure of images for a notebook, as a small JPEG; the figure is closed."""
    from IPython.display import Image

    kind = {"quality": 68, "optimize": True, "progressive": True}
    figure.savefig(buffer := BytesIO(), format="jpeg", dpi=100, pil_kwargs=kind)
    plt.close(figure)
    return Image(data=buffer.getvalue(), format="jpeg")


def outline(axis: Axes, mask: np.ndarray) -> None:
    """Draw the border of a mask (bool [S, S]) in yellow on black, seen on any ground."""
    if mask.any():
        axis.contour(mask, [0.5], colors="black", linewidths=2.4)
        axis.contour(mask, [0.5], colors=[YELLOW], linewidths=1.2)


def cycles(
    support: Panel, query: Panel, starts: Mapping[str, Sequence[int]], j_star: Tensor, i_star: Tensor
) -> Figure:
    """Cycles support -> query -> support as in the paper's Fig. 3, for cells i' by name; j* [N_s], i* [N_q]."""
    assert support.image is not None
    there = {name: j_star[list(cells)] for name, cells in starts.items()}
    back = {name: i_star[cells] for name, cells in there.items()}
    on_support = {name: [*cells, *back[name].tolist()] for name, cells in starts.items()}
    on_query = {name: cells.tolist() for name, cells in there.items()}
    figure = row(replace(support, marks=on_support), replace(query, marks=on_query), width=3.3)
    left, right = figure.axes
    size, grid = len(support.image), support.grid
    for number, (name, cells) in enumerate(starts.items()):
        for start, middle_, end in zip(cells, on_query[name], back[name].tolist(), strict=True):
            ways = ((left, start, "S1"), (right, middle_, "Q1"), (left, end, "S2"))
            points = [(axis, (float(x), float(y)), text) for axis, cell, text in ways
                      for (x,), (y,) in [_pixels([cell], grid, size)]]  # fmt: skip
            for (axis, point, text), below in zip(points, (False, False, True), strict=True):
                _name(axis, text, point, COLOURS[number], number == 0, below)  # S2 may lie where S1 does
            for (first, second), dash in zip(pairwise(points), ("-", "--"), strict=True):
                ends = {"coordsA": first[0].transData, "coordsB": second[0].transData}
                style = {"arrowstyle": "->", "color": COLOURS[number], "linestyle": dash, "linewidth": 1.6}
                figure.add_artist(ConnectionPatch(first[1], second[1], **ends, **style))
    return figure


def _name(axis: Axes, text: str, point: tuple[float, float], colour: Any, right: bool, below: bool) -> None:
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.85, "edgecolor": colour}
    offset, sides = (6 if right else -6, -7 if below else 7), {"ha": "left" if right else "right"}
    sides["va"] = "top" if below else "bottom"
    axis.annotate(text, point, offset, textcoords="offset points", fontsize=9, bbox=box, **sides)


def bars(values: Mapping[str, Tensor], unit: str) -> Figure:
    """One small bar chart over the channels per vector: title -> [C]."""
    figure, axes = plt.subplots(1, len(values), figsize=(3.4 * len(values), 2.3), layout="constrained")
    for axis, (title, vector) in zip(np.atleast_1d(axes), values.items(), strict=True):
        axis.bar(range(len(vector)), vector.detach().numpy(), color=COLOURS[0])
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(unit, fontsize=9)
        _plain(axis)
    return figure


def verdicts(h: Tensor, truth: Tensor, beta: float) -> Figure:
    """The discriminator's output [n] of candidates, in descending order, by what they truly show (0, 1, 255)."""
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


# ---- the explorer


def explored(stored: Predictions, episode: int, beta: float) -> Figure:
    """Support, candidates and answer of an episode at a threshold."""
    selected, mask = stored.at(episode, beta)
    unfiltered, truth = stored.masks[episode, 0], stored.target[episode] == 1
    foreground, candidates, closes = stored.foreground[episode], stored.candidates[episode], stored.closes(episode)
    support, query = stored.images[episode]
    given = {"the object": YELLOW}
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
    from IPython.display import display
    from ipywidgets import interactive

    widget = interactive(look, {"auto_display": True}, **controls)
    still = {
        "text/plain": "sliders, which need a running kernel",
        "image/jpeg": b64encode(widget.result.data).decode(),
    }
    display({**widget._repr_mimebundle_(), **still}, raw=True)


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


# ---- a benchmark


def census(benchmark: Benchmark) -> pd.DataFrame:
    """Images that show enough of each class, and its share of all pixels, per split: one row per class, by fold."""
    rows = []
    area = {split: max(_area(_of(benchmark, split)), 1) for split in SPLITS}
    for fold, classes in enumerate(benchmark.folds):
        for c in classes:
            line: dict[str, object] = {"fold": fold, "class": benchmark.classes[c - 1]}
            for split in SPLITS:
                pixels = sum(e.pixels.get(c, 0) for e in _of(benchmark, split))
                line[f"{split} images"] = len(benchmark.images_of(c, split))
                line[f"{split} pixels %"] = round(100 * pixels / area[split], 2)
            rows.append(line)
    return pd.DataFrame(rows).set_index(["fold", "class"])


def splits(benchmark: Benchmark) -> pd.DataFrame:
    """Images of each split, and what their pixels are: one row per split."""
    rows = []
    for split in SPLITS:
        entries = _of(benchmark, split)
        area, void = max(_area(entries), 1), sum(e.pixels.get(VOID, 0) for e in entries)
        objects = sum(sum(e.pixels.values()) for e in entries) - void
        pixels = {"objects %": objects, "void %": void, "background %": area - objects - void}
        rows.append({"images": len(entries), **{k: round(100 * v / area, 1) for k, v in pixels.items()}})
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
    one = [any(set(e.pixels) - {VOID} <= set(fold) for fold in benchmark.folds) for e in _of(benchmark, split)]
    return 100 * sum(one) / max(len(one), 1)


def object_sizes(benchmark: Benchmark) -> pd.DataFrame:
    """The area of each class in each image that counts for it, in % of the image: split and area."""
    rows = [
        (split, 100 * entry.pixels[c] / (entry.size[0] * entry.size[1]))
        for split in SPLITS
        for c in range(1, len(benchmark.classes) + 1)
        for entry in (benchmark.entries[i] for i in benchmark.images_of(c, split))
    ]
    return pd.DataFrame(rows, columns=["split", "area"])


def class_counts(benchmark: Benchmark) -> pd.DataFrame:
    """How many classes each image shows, however few pixels of them: split and classes."""
    rows = [(e.split, len(e.pixels.keys() - {VOID})) for e in benchmark.entries]
    return pd.DataFrame(rows, columns=["split", "classes"])


def object_summary(benchmark: Benchmark) -> pd.DataFrame:
    """The numbers behind `histograms`: one row per split."""
    areas, classes = object_sizes(benchmark).groupby("split").area, class_counts(benchmark).groupby("split").classes
    columns = {"objects": areas.size(), "area %: median": areas.median().round(1)}
    columns |= {f"a tenth {side}": areas.quantile(q).round(1) for side, q in (("below", 0.1), ("above", 0.9))}
    return pd.DataFrame({**columns, "classes per image": classes.mean().round(1)}).reindex(SPLITS)


def histograms(benchmark: Benchmark) -> Figure:
    """Object sizes, and classes per image, of both splits."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    style = {"hue": "split", "hue_order": SPLITS, "stat": "percent", "common_norm": False, "palette": COLOURS[:2]}
    sns.histplot(object_sizes(benchmark), x="area", bins=24, element="step", fill=False, ax=left, **style)
    bars_ = {"discrete": True, "multiple": "dodge", "shrink": 0.8, "edgecolor": "white"}
    sns.histplot(class_counts(benchmark), x="classes", legend=False, alpha=1, ax=right, **bars_, **style)
    left.set(xlabel="object's area (% of its image)", ylabel="objects (%)", xlim=(0, None))
    right.set(xlabel="classes in an image", ylabel="images (%)")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    sns.move_legend(left, "upper right", frameon=False, title=None)
    for axis in (left, right):
        _plain(axis)
    return figure


def episode_summary(benchmark: Benchmark, fold: int, chosen: Sequence[Episode]) -> pd.DataFrame:
    """How often a list of episodes asks for each class of its fold: one row per class."""
    rows = []
    for c in benchmark.tested[fold]:
        asked = [e for e in chosen if e.class_id == c]
        line: dict[str, object] = {"class": benchmark.classes[c - 1], "episodes": len(asked)}
        line["different queries"] = len({e.query for e in asked})
        line["with a wrong support"] = sum(bool(e.wrong_supports) for e in asked)
        rows.append(line)
    return pd.DataFrame(rows).set_index("class")


def target_picture(label: np.ndarray, class_id: int) -> np.ndarray:
    """What an episode asks for, as colours: object, background, and void; float [H, W, 3] in 0..1."""
    kinds = np.where(label == VOID, 2, label == class_id)
    return np.array(list(TARGET_COLOURS.values()), float)[kinds]


def gallery(pictures: Outlined, columns: int = 5) -> Figure:
    """Images with an outlined mask each."""
    rows = -(-len(pictures) // columns)
    side = {"figsize": (1.7 * columns, 1.9 * rows), "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(rows, columns, **side)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, (image, mask)) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(image, interpolation="bilinear")
        axis.set_title(title, fontsize=9)
        if mask is not None:
            outline(axis, mask)
    return figure


def one_of_each(benchmark: Benchmark) -> Outlined:
    """The first test image that counts for each class, with the class outlined, for `gallery`."""
    firsts = {c: benchmark.images_of(c, "val")[:1] for c in range(1, len(benchmark.classes) + 1)}
    entries = {c: benchmark.entries[i] for c, positions in firsts.items() for i in positions}
    return {benchmark.classes[c - 1]: (benchmark.image(e), benchmark.label(e) == c) for c, e in entries.items()}


def by_diversity(class_ids: Sequence[int], values: Sequence[float], seed: int, size: int) -> Outlined:
    """The same classes of `shapes` at several diversities, two objects of each, for `gallery`; diversities by row."""
    return {
        f"{shapes.CLASSES[c - 1]} {'AB'[n]}, d = {d:g}": (image, label == c)
        for d in values
        for c in class_ids
        for n in range(2)
        for image, label in [shapes.render([seed, c, n], [c], size, d)]
    }


def episode_table(benchmark: Benchmark, chosen: Sequence[Episode]) -> Figure:
    """One-shot episodes as columns: support, wrong support, query, and target with its void."""
    side = {"figsize": (1.8 * len(chosen) + 0.3, 8.2), "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(4, len(chosen), **side)
    for column, episode in zip(axes.T, chosen, strict=True):
        supports = [(episode.supports, episode.class_id), (episode.wrong_supports, episode.wrong_class)]
        for axis, (positions, class_id) in zip(column, supports, strict=False):
            for entry in (benchmark.entries[i] for i in positions[:1]):  # there may be no wrong support
                axis.imshow(benchmark.image(entry), interpolation="bilinear")
                outline(axis, benchmark.label(entry) == class_id)
                axis.set_title(benchmark.classes[class_id - 1], fontsize=10)
        query = benchmark.entries[episode.query]
        column[2].imshow(benchmark.image(query), interpolation="bilinear")
        column[3].imshow(target_picture(benchmark.label(query), episode.class_id), interpolation="nearest")
        for axis in column:
            axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[:, 0], ("support", "wrong support", "query", "target"), strict=True):
        axis.set_ylabel(name, fontsize=10)
    handles = [Patch(color=colour, label=name) for name, colour in TARGET_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _of(benchmark: Benchmark, split: str) -> list[Entry]:
    return [e for e in benchmark.entries if e.split == split]


def _area(entries: Sequence[Entry]) -> int:
    return sum(e.size[0] * e.size[1] for e in entries)


def _plain(axis: Axes) -> None:
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
