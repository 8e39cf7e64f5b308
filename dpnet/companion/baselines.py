"""Baselines: what needs no training, on the same episodes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dpnet.companion.store import Counts
from dpnet.config import Baselines, Pseudo
from dpnet.episodes import Episode
from dpnet.evaluate import Scene, in_batches, in_order, score
from dpnet.io import progress
from dpnet.metrics import episode_counts
from dpnet.model import hard_masks, shared_counts, soft_masks
from dpnet.modules import masked_average
from dpnet.train import at_cells


@torch.inference_mode()
def measure(scene: Scene, wanted: Baselines) -> tuple[Counts, dict[str, list[Episode]]]:
    """Score what needs no training: name -> counts int64 [E, 2, 3]; and name -> its episodes."""
    every = scene.episodes(wanted.shot, wanted.episodes)
    scene.load_labels(every)
    lists = {name: [e for e in every if e.wrong_class or "wrong" not in name] for name in wanted.measured}
    counts: Counts = {}
    for name, chosen in lists.items():
        batches = in_batches(chosen)
        rows_of_batches = progress(batches, f"baseline: {name}", "batch")
        counts[name] = in_order([MEASURES[name](scene, [chosen[i] for i in r]) for r in rows_of_batches], batches)
    return counts, lists


def _prototype(scene: Scene, batch: Sequence[Episode], support: str = "right") -> Tensor:
    """The query cell is nearer (cosine) to the support's mean foreground cell than to its mean background cell."""
    raw_s, masks = scene.supports(batch, support)
    raw_q = scene.raw([e.query for e in batch])
    F_s = F.normalize(scene.backbone.comparison(raw_s).flatten(0, 1), dim=1)
    F_q = F.normalize(scene.backbone.comparison(raw_q), dim=1)
    hard = hard_masks(masks).flatten(0, 1)
    nearness = []
    for cells in (hard, ~hard):
        P = masked_average(F_s, cells.float()).unflatten(0, masks.shape[:2]).mean(1)
        nearness.append(torch.einsum("bcn,bc->bn", F_q, F.normalize(P, dim=1)))
    difference = (nearness[0] - nearness[1]).unflatten(1, raw_q.shape[-2:])
    return score([difference], scene.targets(batch))


def _objects(scene: Scene, batch: Sequence[Episode]) -> Tensor:
    """All labelled objects."""
    return torch.cat([episode_counts(scene.objects(e)[None], scene.target(e)[None]) for e in batch])


def _ceiling(scene: Scene, batch: Sequence[Episode]) -> Tensor:
    """The ground truth at feature resolution."""
    grid = scene.raw([batch[0].query]).shape[-2:]
    soft = torch.cat([soft_masks(scene.target(e)[None, None], grid)[0] for e in batch])
    return score([soft.to(scene.device) - 0.5], scene.targets(batch))


def _matches(scene: Scene, batch: Sequence[Episode], kind: Pseudo) -> Tensor:
    """Cells that any support reaches, against the labels of the pixels where they lie."""
    raw_s, masks = scene.supports(batch, "right")
    raw_q = scene.raw([e.query for e in batch])
    reached = (shared_counts(scene.backbone, raw_s, raw_q, masks, kind) > 0).any(1)
    truth = torch.cat([at_cells(scene.target(e)[None], raw_q.shape[-2:]) for e in batch])
    return episode_counts(reached, truth.flatten(1))


MEASURES: dict[str, Callable[[Scene, Sequence[Episode]], Tensor]] = {  # -> int64 [B, 2, 3]
    "prototype": _prototype,
    "prototype-wrong": lambda scene, batch: _prototype(scene, batch, "wrong"),
    "objects": _objects,
    "ceiling": _ceiling,
    "matches-cosine": lambda scene, batch: _matches(scene, batch, "cosine"),
    "matches-cycle": lambda scene, batch: _matches(scene, batch, "cycle"),
}
