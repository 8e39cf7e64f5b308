"""Fig. 3: the way of one support cell to the query and back, found by a rule, and its picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from torch.nn import functional as F

from dpnet.backbones import Backbone
from dpnet.companion.figures import COLOURS, outlined
from dpnet.config import VOID
from dpnet.data import cache
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.model import hard_masks, soft_masks
from dpnet.modules import cycle_matches
from dpnet.train import at_cells


@dataclass(frozen=True)
class Cycle:
    """From S_1 on the support's foreground to Q_1 on the query, and back to S_2."""

    succeeds: bool  # S_2 lies on the foreground too
    episode: int  # its position in the list
    cells: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # (row, column) of S_1, Q_1, S_2 on the grid
    forward: np.ndarray  # float [h, w], cosine of every query cell to S_1
    backward: np.ndarray  # float [h, w], cosine of every support cell to Q_1
    lands: str  # what lies under Q_1: "object", "elsewhere" or "void"; it decides nothing


@torch.inference_mode()
def find(benchmark: Benchmark, backbone: Backbone, size: int, listed: Sequence[Episode]) -> list[Cycle]:
    """A success and a failure (Eq. 1, 2) of the first episode that has both; of each kind the most central cell."""
    for number, episode in enumerate(listed):
        support, query = episode.supports[0], episode.query
        raw = backbone(cache.resized_images(benchmark, [support, query], size))
        h, w = raw.shape[-2:]
        F_s, F_q = F.normalize(backbone.comparison(raw).float().flatten(2), dim=1)
        labels = cache.resized_labels(benchmark, [support, query], size)
        mask = cache.binary(labels[support], episode.class_id)[None, None]
        foreground = hard_masks(soft_masks(mask, (h, w)))[0, 0]
        forward, backward = (m[0] for m in cycle_matches(F_s[None], F_q[None]))
        affinity = F_s.T @ F_q
        ends = backward[forward]  # S_2 of each support cell
        places = torch.stack([torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)], 1).float()
        distance = (places - places[foreground].mean(0)).norm(dim=1)  # from the object's centre
        kinds = [foreground & foreground[ends], foreground & ~foreground[ends]]
        if not all(kind.any() for kind in kinds):
            continue
        pair = []
        for succeeds, kind in zip((True, False), kinds, strict=True):
            start = int(distance.where(kind, torch.inf).argmin())
            target, end = int(forward[start]), int(ends[start])
            there, back = (m.reshape(h, w).numpy() for m in (affinity[start], affinity[:, target]))
            under = int(at_cells(cache.binary(labels[query], episode.class_id)[None], (h, w)).flatten()[target])
            lands = {0: "elsewhere", 1: "object", VOID: "void"}[under]
            cells = divmod(start, w), divmod(target, w), divmod(end, w)
            pair.append(Cycle(succeeds, number, cells, there, back, lands))
        return pair
    return []


def drawn(benchmark: Benchmark, listed: Sequence[Episode], pair: Sequence[Cycle]) -> Figure:
    """Fig. 3: S_1 on the support, Q_1 on the query, S_2 back; colour is similarity to the cell before."""
    figure, axes = plt.subplots(len(pair), 3, figsize=(9.6, 3.15 * len(pair)), layout="constrained", squeeze=False)
    titles = (
        "$S_1$: a cell of the support's object",
        "$Q_1$: the most similar in the query",
        "$S_2$: the most similar back in the support",
    )
    for line, cycle in zip(axes, pair, strict=True):
        episode = listed[cycle.episode]
        support, query = (benchmark.entries[i] for i in (episode.supports[0], episode.query))
        panels = zip(line, (support, query, support), (None, cycle.forward, cycle.backward), titles, strict=True)
        both = np.stack([cycle.forward, cycle.backward])
        limits = both.min(), both.max()
        for axis, entry, similarity, title in panels:
            label = benchmark.label(entry)
            height, width = label.shape
            image = benchmark.image(entry)
            if similarity is not None:  # colour is similarity's
                image = image.mean(2, keepdims=True).repeat(3, 2)
            axis.imshow(outlined(image, label == episode.class_id, dim=similarity is None))
            if similarity is not None:
                style = {"cmap": "cividis", "alpha": 0.5, "vmin": limits[0], "vmax": limits[1]}
                extent = (0, width - 1, height - 1, 0)
                coloured = axis.imshow(similarity, extent=extent, interpolation="bilinear", **style)
            axis.set_title(title, fontsize=9)
        _join_cells(figure, line, cycle, [benchmark.label(entry).shape for entry in (support, query, support)])
        figure.colorbar(coloured, ax=line, label="cosine to the cell before", pad=0.01)
        way_back = "success: $S_2$ on the object" if cycle.succeeds else "failure: $S_2$ off the object"
        line[0].set_ylabel(way_back, fontsize=9)
    plt.setp(axes, xticks=[], yticks=[])
    return figure


def _join_cells(figure: Figure, line: Sequence[Axes], cycle: Cycle, sizes: Sequence[tuple[int, ...]]) -> None:
    """A dot at each cell, and arrows from one to the next."""
    h, w = cycle.forward.shape
    points = [
        (column * (width - 1) / (w - 1), row * (height - 1) / (h - 1))
        for (row, column), (height, width) in zip(cycle.cells, sizes, strict=True)
    ]
    for axis, point in zip(line, points, strict=True):
        axis.plot(*point, "o", color="white", mec="black", markersize=9, mew=1.5, clip_on=False)
    style: dict[str, Any] = {"arrowstyle": "-|>", "color": COLOURS[1], "linewidth": 1.8, "shrinkA": 6, "shrinkB": 6}
    for i in range(2):
        figure.add_artist(
            ConnectionPatch(points[i], points[i + 1], "data", "data", axesA=line[i], axesB=line[i + 1], **style)
        )
