"""What the explorer shows: support, candidates and answer side by side, and where in the picture a cell lies.

Nothing here goes through pyplot: a session draws hundreds of pictures, and none stays.
"""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch, Patch
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation

from dpnet.companion.explorer import Cell, Kept, State, state
from dpnet.companion.figures import COLOURS
from dpnet.companion.sketches import OUTLINE, outline

KEPT, DROPPED, GAINED, LOST, CYCLE = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3], COLOURS[4]
# The pictures, in inches: side, gap, room above for a title and below for legends.
SIDE, GAP, ABOVE, BELOW = 3.1, 0.1, 0.3, 0.78


def picture(kept: Kept, episode: int, seen: State, said: bool = False) -> Figure:
    """Support, candidates and answer, with the cycle from cell to cell.

    Arguments:
        kept: the predictions.
        episode: row.
        seen: its state.
        said: whether the state's words stand below, for where nothing else says them.

    Returns:
        the figure; `cell_at` knows where its support lies.
    """
    lines = [line for words in seen.words for line in textwrap.wrap(words, 145)] if said else []
    below = BELOW + (0.05 + 0.18 * len(lines)) * said
    figure, axes = _panels(1, below)
    support, query, answer = axes[0]
    _image(kept, support, kept.images[episode, 0], "support" if said else "support: click a cell")
    outline(support, kept.support[episode])
    _image(kept, query, kept.images[episode, 1], "query: the pseudo-prototype's cells")
    _cells(kept, query, episode, seen)
    _image(kept, answer, _grey(kept.images[episode, 1]), "query: the answer")
    _answer(answer, kept.target[episode], seen)
    _arrows(kept, figure, support, query, seen)
    way = [
        _object("the object, given"),
        Line2D([], [], color=CYCLE, linewidth=2, label="to Q1, most similar to S1"),
        Line2D([], [], color=CYCLE, linewidth=2, linestyle="--", label="to S2, most similar to Q1"),
    ]
    for axis, handles in ((support, way), (query, _cell_legend(seen)), (answer, _answer_legend(seen))):
        _legend(axis, handles)
    for number, line in enumerate(reversed(lines)):
        figure.text(0.5, (0.08 + 0.18 * number) / figure.get_figheight(), line, ha="center", fontsize=9)
    return figure


def strip(kept: Kept, episode: int, betas: Sequence[float]) -> Figure:
    """The same episode at several thresholds: candidates above, the answers below.

    Arguments:
        kept: the predictions.
        episode: row.
        betas: three of `kept.betas`.

    Returns:
        the figure.
    """
    figure, axes = _panels(2, BELOW)
    for column, beta in enumerate(betas):
        seen = state(kept, episode, beta, kept.start(episode))
        counted = f"{seen.selected.sum()} of {seen.candidates.sum()} candidates kept"
        _image(kept, axes[0][column], kept.images[episode, 1], f"β = {beta:.2f}: {counted}")
        _cells(kept, axes[0][column], episode, seen)
        _image(kept, axes[1][column], _grey(kept.images[episode, 1]), f"IoU {seen.iou:.1f}")
        _answer(axes[1][column], kept.target[episode], seen)
    _legend(axes[1][0], _cell_legend())
    _legend(axes[1][1], _answer_legend()[:2])
    _legend(axes[1][2], _answer_legend()[2:])
    return figure


def jpeg(figure: Figure, dpi: int = 100, quality: int = 82) -> bytes:
    """A figure as the bytes of a JPEG, a quarter of a PNG's."""
    kind = {"quality": quality, "optimize": True}
    figure.savefig(buffer := BytesIO(), format="jpeg", dpi=dpi, pil_kwargs=kind)
    return buffer.getvalue()


def cell_at(kept: Kept, x: float, y: float) -> Cell | None:
    """The support's cell under a point of `picture`.

    Arguments:
        kept: for the grid.
        x, y: from the picture's upper left corner, in 0..1 of its width and height.

    Returns:
        the cell; None where the point lies outside the support.
    """
    width, height = _size(1, BELOW)
    across, down = (x * width - GAP) / SIDE, (y * height - ABOVE) / SIDE
    if not (0 <= across < 1 and 0 <= down < 1):
        return None
    return int(down * kept.grid[0]), int(across * kept.grid[1])


def point_of(kept: Kept, cell: Cell) -> tuple[float, float]:
    """Where a cell of the support lies in `picture`, in 0..1 of its width and height: `cell_at`, the other way."""
    width, height = _size(1, BELOW)
    across, down = ((at + 0.5) / n for at, n in zip(cell[::-1], kept.grid[::-1], strict=True))
    return (GAP + SIDE * across) / width, (ABOVE + SIDE * down) / height


def _size(rows: int, below: float) -> tuple[float, float]:
    return GAP + 3 * (SIDE + GAP), rows * (ABOVE + SIDE) + below


def _panels(rows: int, below: float) -> tuple[Figure, list[list[Axes]]]:
    """Three panels a row, at places that `cell_at` can compute."""
    width, height = _size(rows, below)
    figure = Figure(figsize=(width, height), dpi=100)
    places = [
        [(GAP + c * (SIDE + GAP), below + (rows - 1 - r) * (ABOVE + SIDE)) for c in range(3)] for r in range(rows)
    ]
    return figure, [
        [figure.add_axes((x / width, y / height, SIDE / width, SIDE / height)) for x, y in line] for line in places
    ]


def _image(kept: Kept, axis: Axes, image: np.ndarray, title: str) -> None:
    """An image, with room for whole cells at its border."""
    axis.imshow(image, interpolation="bilinear")
    left, right, bottom, top = _extent(kept)
    axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    axis.set_title(title, fontsize=10, pad=4)


def _extent(kept: Kept) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a map of cells, in pixels: its outer cells lie on the image's corners."""
    last = kept.target.shape[1] - 1
    down, across = (last / (n - 1) / 2 for n in kept.grid)
    return -across, last + across, last + down, -down


def _points(kept: Kept, cells: np.ndarray) -> np.ndarray:
    """Cells [n, 2] as points [n, 2]: x to the right and y down, in pixels."""
    return (cells * (kept.target.shape[1] - 1) / (np.array(kept.grid) - 1))[:, ::-1]


def _grey(image: np.ndarray) -> np.ndarray:
    """An image without colours and with little contrast, on which colours tell."""
    return np.repeat(0.35 + 0.5 * image.mean(2, keepdims=True) / 255, 3, 2)


def _cells(kept: Kept, axis: Axes, episode: int, seen: State) -> None:
    outline(axis, kept.target[episode] == 1)
    for cells, colour, marker, size in (
        (seen.selected, KEPT, "s", 44),
        (seen.candidates & ~seen.selected, DROPPED, "X", 46),
    ):
        x, y = _points(kept, np.argwhere(cells)).T
        axis.scatter(x, y, size, color=[colour], marker=marker, edgecolors="white", linewidths=0.8, zorder=3)


def _answer(axis: Axes, target: np.ndarray, seen: State) -> None:
    layers = (
        (seen.mask & seen.unfiltered, KEPT),
        (seen.mask & ~seen.unfiltered, GAINED),
        (~seen.mask & seen.unfiltered, LOST),
    )
    overlay = np.zeros((*target.shape, 4))
    for where, colour in layers:
        overlay[where] = (*colour, 0.6)
    axis.imshow(overlay, interpolation="nearest")
    outline(axis, target == 1)


def _arrows(kept: Kept, figure: Figure, support: Axes, query: Axes, seen: State) -> None:
    points = [tuple(_points(kept, np.array([cell]))[0]) for cell in seen.cells]
    axes = (support, query, support)
    for here, dash in ((0, "-"), (1, "--")):
        ends: dict[str, Any] = {"axesA": axes[here], "axesB": axes[here + 1], "coordsA": "data", "coordsB": "data"}
        style: dict[str, Any] = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.12", "shrinkA": 5, "shrinkB": 5}
        for line in (("white", "-", 3.4), (CYCLE, dash, 1.8)):  # a light rim, seen on any ground
            look: dict[str, Any] = dict(zip(("color", "linestyle", "linewidth"), line, strict=True))
            arrow = ConnectionPatch(points[here], points[here + 1], **ends, **style, **look, mutation_scale=11)
            figure.add_artist(arrow)
    same = seen.cells[0] == seen.cells[2]
    labels = [("S1 = S2" if same else "S1", 0, 7), ("Q1", 1, 7)] + [("S2", 2, -7)] * (not same)
    for name, number, up in labels:
        axes[number].plot(*points[number], "o", color="white", markeredgecolor="black", markersize=8, zorder=4)
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": CYCLE, "alpha": 0.9}
        place: dict[str, Any] = {
            "textcoords": "offset points",
            "ha": "center",
            "va": "bottom" if up > 0 else "top",
            "bbox": box,
        }
        label = Annotation(name, points[number], (0, up), axes[number].transData, fontsize=9, zorder=6, **place)
        figure.add_artist(label)


def _cell_legend(seen: State | None = None) -> list[Any]:
    kept, dropped = "kept, in $P_q$", "discarded"
    if seen is not None:
        selected = int(seen.selected.sum())
        kept, dropped = f"{selected} {kept}", f"{int(seen.candidates.sum()) - selected} {dropped}"
    style: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "markersize": 8}
    return [
        _object("the object, unknown to the network"),
        Line2D([], [], color=KEPT, marker="s", label=kept, **style),
        Line2D([], [], color=DROPPED, marker="X", label=dropped, **style),
    ]


def _answer_legend(seen: State | None = None) -> list[Any]:
    gained, lost = "gained by discarding", "lost by discarding"
    if seen is not None:
        gained += f": {(seen.mask & ~seen.unfiltered).sum()} px"
        lost += f": {(~seen.mask & seen.unfiltered).sum()} px"
    return [
        _object("the object"),
        Patch(color=KEPT, alpha=0.6, label="answer"),
        Patch(color=GAINED, alpha=0.6, label=gained),
        Patch(color=LOST, alpha=0.6, label=lost),
    ]


def _object(label: str) -> Line2D:
    return Line2D(
        [], [], color=OUTLINE, linewidth=2, path_effects=[withStroke(linewidth=4, foreground="0.2")], label=label
    )


def _legend(axis: Axes, handles: list[Any]) -> None:
    axis.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=1, frameon=False, fontsize=9,
        handletextpad=0.5, borderaxespad=0.2, labelspacing=0.25,
    )  # fmt: skip
