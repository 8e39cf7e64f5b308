"""A small benchmark, short trainings and heads that answer something: what the tests of this folder share."""

import dataclasses
from collections.abc import Iterable

import torch

from dpnet.companion import presets
from dpnet.config import Recipe, Run, Variant
from dpnet.evaluate import Scene
from dpnet.model import Head, shared_counts

RECIPE = Recipe(size=65, diversity=0.2, train=60, val=60, seed=1)
TRAINING = dataclasses.replace(presets.resolve("shapes", "tiny").training, steps=6, width=8, dropout=0.2)
BASE, FULL = Variant(pim=False, msf=False, pseudo="none"), Variant()


def run(variant: Variant, **changes: object) -> Run:
    return Run("shapes", RECIPE, dataclasses.replace(TRAINING, **changes), fold=0, seed=0, variant=variant)  # type: ignore[arg-type]


@torch.no_grad()
def balance(heads: Iterable[Head], scene: Scene) -> None:
    """Set biases so that about half of each picture is foreground, and half of the cells pass at beta = 0.5."""
    listed = scene.episodes(1, 8)
    scene.load_labels(listed)
    raw_s, masks = scene.supports(listed, "right")
    raw_q = scene.raw([e.query for e in listed])
    for head in heads:
        out = head(raw_s, masks, raw_q, shared_counts(scene.backbone, raw_s, raw_q, masks, head.variant.pseudo), 0.2)
        for decoder, logits in ((head.decoder, out.logits), (head.aux_decoder, out.aux_logits)):
            decoder.classify.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
        if head.comparison is not None and out.scores is not None:
            head.comparison.second.bias -= out.scores.median()
