"""Baselines: what needs no training, on the same episodes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dpnet.companion.store import Counts
from dpnet.config import Baselines, Pseudo
from dpnet.episodes import Episode
from dpnet.evaluate import Scene, in_batches, joined, score
from dpnet.io import progress
from dpnet.metrics import episode_counts
from dpnet.model import hard_masks, shared_counts, soft_masks
from dpnet.modules import masked_average
from dpnet.train import at_cells


@torch.inference_mode()
def measure(scene: Scene, wanted: Baselines) -> tuple[Counts, dict[str, list[Episode]]]:
    """What needs no training, on the same episodes.

    prototype: the query cell is nearer (cosine) to the mean of the support's foreground cells than to that
    of its background cells; prototype-wrong: the same with wrong supports; objects: all labelled objects;
    ceiling: the ground truth at feature resolution.

    Arguments:
        scene: the fold.
        wanted: which, and on how many episodes.

    Returns:
        name -> int64 [E, 2, 3]; and name -> its episodes.
    """
    every = scene.episodes(wanted.shot, wanted.episodes)
    scene.load_labels(every)
    lists = {n: [e for e in every if e.wrong_class or "wrong" not in n] for n in wanted.measured}
    counts: Counts = {}
    for name, chosen in lists.items():
        parts = []
        batches = in_batches(chosen)
        for rows in progress(batches, f"baseline: {name}", "batch"):
            batch = [chosen[i] for i in rows]
            if name == "objects":
                pairs = [(scene.objects(e), scene.target(e)) for e in batch]
                parts.append(torch.stack([episode_counts(p[None], t[None])[0] for p, t in pairs]))
            elif name == "ceiling":
                grid = scene.raw([batch[0].query]).shape[-2:]
                soft = [soft_masks(scene.target(e)[None, None], grid)[0] for e in batch]
                parts.append(score([torch.cat(soft).to(scene.device) - 0.5], scene.targets(batch)))
            elif name.startswith("matches-"):
                parts.append(_matched_cells(scene, batch, "cycle" if name.endswith("cycle") else "cosine"))
            else:
                parts.append(score([_nearer_foreground(scene, batch, name)], scene.targets(batch)))
        counts[name] = joined(parts, batches)
    return counts, lists


def _matched_cells(scene: Scene, batch: Sequence[Episode], kind: Pseudo) -> Tensor:
    """Cells that any support reaches, against the labels of the pixels where they lie: int64 [B, 2, 3]."""
    raw_s, masks = scene.supports(batch, "right")
    raw_q = scene.raw([e.query for e in batch])
    reached = (shared_counts(scene.backbone, raw_s, raw_q, masks, kind) > 0).any(1).cpu()
    truth = torch.cat([at_cells(scene.target(e)[None], raw_q.shape[-2:]) for e in batch])
    return episode_counts(reached, truth.flatten(1))


def _nearer_foreground(scene: Scene, batch: Sequence[Episode], name: str) -> Tensor:
    raw_s, masks = scene.supports(batch, "wrong" if name == "prototype-wrong" else "right")
    raw_q = scene.raw([e.query for e in batch])
    F_s = F.normalize(scene.backbone.comparison(raw_s).flatten(0, 1), dim=1)
    F_q = F.normalize(scene.backbone.comparison(raw_q), dim=1)
    hard = hard_masks(masks).flatten(0, 1)
    nearness = []
    for cells in (hard, ~hard):
        P = masked_average(F_s, cells.float()).unflatten(0, masks.shape[:2]).mean(1)
        nearness.append(torch.einsum("bcn,bc->bn", F_q, F.normalize(P, dim=1)))
    return (nearness[0] - nearness[1]).unflatten(1, raw_q.shape[-2:])
