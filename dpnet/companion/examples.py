"""Predictions that are stored for pictures: the first episode of each class, and those that Fig. 4 shows."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from dpnet.companion.experiments import qualitative_examples
from dpnet.companion.store import Counts, Store
from dpnet.config import Evaluation, Run, Training, Variant
from dpnet.episodes import Episode
from dpnet.evaluate import Scene
from dpnet.io import write
from dpnet.model import Head, shared_counts
from dpnet.modules import resize
from dpnet.train import autocast

RENDERED = ("shapes",)  # benchmarks whose pictures are ours to publish
FILE = "examples.npz"


def load_examples(store: Store, run: Run) -> dict[int, np.ndarray]:
    """Stored predictions of a run: episode -> uint8 [2, H, W], auxiliary and main branch."""
    with np.load(store.folder(run) / FILE) as stored:
        side = run.recipe.size
        masks = np.unpackbits(stored["masks"], axis=-1, count=side * side).reshape(-1, 2, side, side)
        return dict(zip(stored["episodes"].tolist(), masks, strict=True))


def save_examples(
    store: Store, run: Run, head: Head, scene: Scene, one_shot: Sequence[Episode], counts: Counts
) -> None:
    """Predict and store; `counts` are those that are not in the store yet, by evaluation."""
    chosen = set(first_of_each_class(one_shot))
    pair = [Evaluation(len(one_shot), branch=branch).id for branch in ("aux", "main")]
    if run.variant == Variant() and counts.keys() >= set(store.missing(run, pair)):
        without, with_ = (counts[name] if name in counts else store.counts(run, name)[0] for name in pair)
        classes = np.array([e.class_id for e in one_shot])
        chosen |= {episode for _, _, episode, *_ in qualitative_examples(without, with_, classes)}
    numbers = sorted(chosen)
    masks = predictions(head, scene, run.training, [one_shot[n] for n in numbers], Evaluation.beta)
    packed = np.packbits(torch.stack(masks).flatten(2).numpy(), axis=-1)
    np.savez_compressed(buffer := BytesIO(), episodes=np.array(numbers), masks=packed)
    write(store.folder(run) / FILE, buffer.getvalue())


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
    matched = head.match(head.prototypes(features(raw_s), masks), features(raw_q), counts)  # in fp32, as in scoring
    with autocast(training, scene.device):
        output = head.segment(matched, beta)
    both = torch.stack([output.aux_logits, output.logits], 1).float()
    differences = (both[:, :, 1] - both[:, :, 0])[:, None]
    sizes = [scene.target(e).shape for e in chosen]
    return [(resize(d, size)[0] > 0).to(torch.uint8).cpu() for d, size in zip(differences, sizes, strict=True)]
