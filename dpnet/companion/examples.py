"""Predictions that pictures show, and the rule by which their episodes are picked."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dpnet.config import Training
from dpnet.episodes import Episode
from dpnet.evaluate import Scene
from dpnet.model import Head, shared_counts
from dpnet.modules import resize
from dpnet.train import autocast


def first_of_each_class(episodes: Sequence[Episode]) -> list[int]:
    """The rule by which examples are picked: positions of the list's first episode of each class, by class."""
    classes = [e.class_id for e in episodes]
    return [classes.index(c) for c in sorted(set(classes))]


@torch.inference_mode()
def predictions(head: Head, scene: Scene, training: Training, chosen: Sequence[Episode], beta: float) -> list[Tensor]:
    """Masks of some one-shot episodes: uint8 [2, H, W] each, at the query's own size: auxiliary and main branch."""
    scene.load_labels(chosen)
    raw_s, masks = scene.supports(chosen, "right")
    raw_q, features = scene.raw([e.query for e in chosen]), scene.backbone.features
    counts = shared_counts(scene.backbone, raw_s, raw_q, masks, head.variant.pseudo)
    with autocast(training, scene.device):
        output = head(features(raw_s), masks, features(raw_q), counts, beta)
    both = torch.stack([output.aux_logits, output.logits], 1).float()
    differences = (both[:, :, 1] - both[:, :, 0])[:, None]
    sizes = [scene.target(e).shape for e in chosen]
    return [(resize(d, size)[0] > 0).to(torch.uint8).cpu() for d, size in zip(differences, sizes, strict=True)]
