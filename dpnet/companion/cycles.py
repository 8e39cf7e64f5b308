"""Fig. 3: the way of one support cell to the query and back, found by a rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dpnet.backbones import Backbone
from dpnet.config import VOID
from dpnet.data import cache
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.model import hard_masks, soft_masks
from dpnet.modules import cycle_matches


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
            under = _label_under(labels[query], (h, w), target)
            lands = "void" if under == VOID else "object" if under == episode.class_id else "elsewhere"
            cells = divmod(start, w), divmod(target, w), divmod(end, w)
            pair.append(Cycle(succeeds, number, cells, there, back, lands))
        return pair
    return []


def _label_under(label: Tensor, grid: tuple[int, int], cell: int) -> int:
    """The label of the pixel where a cell lies."""
    at = zip(divmod(cell, grid[1]), label.shape, grid, strict=True)
    return int(label[tuple(round(place * (pixels - 1) / (cells - 1)) for place, pixels, cells in at)])
