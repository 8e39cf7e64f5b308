"""One pass over a fold's episodes for all heads, thresholds, scales, branches and both metrics."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dpnet import backbones, episodes
from dpnet.backbones import Backbone
from dpnet.config import VOID, Baselines, Evaluation, Run, Training
from dpnet.data import cache
from dpnet.data.cache import FeatureBank, binary
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.io import progress
from dpnet.metrics import episode_counts
from dpnet.model import Head, shared_counts, soft_masks
from dpnet.modules import resize
from dpnet.train import autocast

BATCH = 20  # episodes


class Scene:
    """What the heads of a fold share while they are scored: lists, labels, frozen features.

    Arguments:
        benchmark: the prepared data.
        backbone: encodes each image once per scale.
        name: of the backbone.
        size: side of the square input in pixels.
        fold: whose novel classes are tested.
        seed: of the episode list.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        benchmark: Benchmark,
        backbone: Backbone,
        name: str,
        size: int,
        fold: int,
        seed: int,
        device: str,
    ) -> None:
        self.benchmark, self.backbone, self.name, self.size = benchmark, backbone, name, size
        self.fold, self.seed, self.device = fold, seed, device
        self._banks: dict[int, FeatureBank] = {}
        self._labels: dict[int, Tensor] = {}
        self._small: dict[int, Tensor] = {}

    def episodes(self, shot: int, count: int) -> list[Episode]:
        """The fold's list."""
        return episodes.test_episodes(self.benchmark, self.fold, shot, self.seed, count)

    def load_labels(self, chosen: Sequence[Episode]) -> None:
        """Decode each label that the episodes need, once."""
        queries = sorted({e.query for e in chosen} - self._labels.keys())
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda p: self.benchmark.label(self.benchmark.entries[p]), queries)
            self._labels |= {p: torch.from_numpy(a) for p, a in zip(queries, decoded, strict=True)}
        supports = sorted({i for e in chosen for i in (*e.supports, *e.wrong_supports)} - self._small.keys())
        self._small |= cache.resized_labels(self.benchmark, supports, self.size)

    def target(self, episode: Episode) -> Tensor:
        """The query's target at its native size: uint8 [H, W] with 0, 1, 255."""
        return binary(self._labels[episode.query], episode.class_id)

    def targets(self, batch: Sequence[Episode]) -> list[tuple[list[int], Tensor]]:
        """The targets of a batch, queries of one size together: their places in it, and uint8 [n, H, W]."""
        each = [self.target(e) for e in batch]
        sizes = sorted({t.shape for t in each})
        together = [[i for i, t in enumerate(each) if t.shape == size] for size in sizes]
        return [(rows, torch.stack([each[i] for i in rows]).to(self.device)) for rows in together]

    def objects(self, episode: Episode) -> Tensor:
        """Every labelled object of the query at its native size: uint8 [H, W] with 0, 1."""
        label = self._labels[episode.query]
        return ((label > 0) & (label != VOID)).to(torch.uint8)

    def raw(self, positions: Sequence[int], scale: float = 1.0) -> Tensor:
        """Backbone features [n, C_b, h, w] of images, at a scale of the input (rounded to 8k + 1 pixels)."""
        size = self.size if scale == 1 else 8 * round(scale * (self.size - 1) / 8) + 1
        if size not in self._banks:
            self._banks[size] = cache.kept(self.benchmark, self.backbone, self.name, size, "val", mirror=False)
        return self._banks[size](positions).to(self.device)

    def supports(self, batch: Sequence[Episode], which: str) -> tuple[Tensor, Tensor]:
        """Supports of a batch: raw features [B, K, C_b, h, w], and their masks on the grid [B, K, h, w]."""
        chosen = [(e.class_id, e.supports) if which == "right" else (e.wrong_class, e.wrong_supports) for e in batch]
        flat = [i for _, supports in chosen for i in supports]
        raw = self.raw(flat).unflatten(0, (len(batch), -1))
        masks = torch.stack([torch.stack([binary(self._small[i], c) for i in s]) for c, s in chosen])
        return raw, soft_masks(masks.to(self.device), raw.shape[-2:])


@torch.inference_mode()
def evaluate(
    heads: Mapping[Run, Head], scene: Scene, wanted: Mapping[Run, Sequence[Evaluation]]
) -> tuple[dict[tuple[Run, Evaluation], np.ndarray], dict[Evaluation, list[Episode]]]:
    """Score heads in every way that is asked for, encoding each image once per scale.

    Arguments:
        heads: of runs on the same features.
        scene: the fold.
        wanted: run -> ways of scoring.

    Returns:
        (run, evaluation) -> int64 [E, 2, 3]; and evaluation -> its episodes.
    """
    results: dict[tuple[Run, Evaluation], np.ndarray] = {}
    lists: dict[Evaluation, list[Episode]] = {}
    for shot, support, count in sorted({(e.shot, e.support, e.episodes) for w in wanted.values() for e in w}):
        group = {
            run: [e for e in evaluations if (e.shot, e.support, e.episodes) == (shot, support, count)]
            for run, evaluations in wanted.items()
        }
        chosen = scene.episodes(shot, count)
        if support == "wrong":  # a query that shows every tested class has no wrong support
            chosen = [e for e in chosen if e.wrong_class]
        scene.load_labels(chosen)
        parts: dict[tuple[Run, Evaluation], list[Tensor]] = {(r, e): [] for r, es in group.items() for e in es}
        batches = in_batches(chosen)
        for rows in progress(batches, f"scoring fold {scene.fold}, {shot} shot, {support} support", "batch"):
            batch = [chosen[i] for i in rows]
            for which, counts in _score_batch(heads, scene, group, support, batch).items():
                parts[which].append(counts)
        results |= {which: joined(counts, batches) for which, counts in parts.items()}
        lists |= {evaluation: chosen for _, evaluation in parts}
    return results, lists


def _score_batch(
    heads: Mapping[Run, Head],
    scene: Scene,
    group: Mapping[Run, list[Evaluation]],
    support: str,
    batch: list[Episode],
) -> dict[tuple[Run, Evaluation], Tensor]:
    """Counts of each run in each way, int64 [B, 2, 3]."""
    raw_s, masks = scene.supports(batch, support)
    F_s = scene.backbone.features(raw_s)
    queries = [e.query for e in batch]
    differences: dict[tuple[Run, float, float, str], Tensor] = {}  # run, scale, beta, branch -> [B, h, w]
    counts: dict[tuple[float, str], Tensor] = {}
    prototypes: dict[Run, Tensor] = {}
    for scale in sorted({s for es in group.values() for e in es for s in e.scales}):
        raw_q = scene.raw(queries, scale)
        F_q = scene.backbone.features(raw_q)
        for run, head in heads.items():
            asked = list(dict.fromkeys((e.beta, e.branch) for e in group[run] if scale in e.scales))
            if not asked:
                continue
            kind = head.variant.pseudo
            if (scale, kind) not in counts:
                counts[scale, kind] = shared_counts(scene.backbone, raw_s, raw_q, masks, kind)
            with autocast(run.training, scene.device):
                if run not in prototypes:
                    prototypes[run] = head.prototypes(F_s, masks)
                matched = head.match(prototypes[run], F_q, counts[scale, kind])
                for (beta, branch), difference in head.sweep(matched, asked).items():
                    differences[run, scale, beta, branch] = difference
    asked_for = [(run, e) for run, evaluations in group.items() for e in evaluations]
    targets = scene.targets(batch)
    scored = [score([differences[n, s, e.beta, e.branch] for s in e.scales], targets) for n, e in asked_for]
    on_host = torch.stack(scored).cpu()  # one copy per batch
    return dict(zip(asked_for, on_host, strict=True))


def in_batches(chosen: Sequence[Episode]) -> list[list[int]]:
    """Positions of episodes, `BATCH` at a time, those of a batch with equally many supports."""
    kinds = [(len(e.supports), len(e.wrong_supports)) for e in chosen]
    found = []
    for kind in sorted(set(kinds)):
        rows = [i for i, k in enumerate(kinds) if k == kind]
        found += [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return found


def joined(parts: list[Tensor], batches: list[list[int]]) -> np.ndarray:
    """int64 [E, 2, 3] in the list's order; E is 0 where no query lacks any tested class: no wrong support."""
    result = np.empty((sum(map(len, batches)), 2, 3), np.int64)
    for rows, part in zip(batches, parts, strict=True):
        result[rows] = part.cpu().numpy()
    return result


def score(differences: list[Tensor], targets: Sequence[tuple[list[int], Tensor]]) -> Tensor:
    """Resize predictions to each query's native size, average over scales, and count.

    Arguments:
        differences: foreground minus background logit, one [B, h, w] per scale.
        targets: of the B episodes, from `Scene.targets`.

    Returns:
        int64 [B, 2, 3], where the logits are.
    """
    first, *_ = differences
    result = torch.empty(len(first), 2, 3, dtype=torch.long, device=first.device)
    for rows, target in targets:
        full = [resize(d[rows][:, None], target.shape[1:])[:, 0] for d in differences]
        # One scale: sigmoid(d) > 0.5 is d > 0, to the last bit.
        predicted = full[0] > 0 if len(full) == 1 else torch.stack([d.sigmoid() for d in full]).mean(0) > 0.5
        result[rows] = episode_counts(predicted, target)
    return result


def class_ids(chosen: Sequence[Episode]) -> np.ndarray:
    """The class of each episode, int64 [E]."""
    return np.array([e.class_id for e in chosen], np.int64)


@torch.inference_mode()
def predictions(head: Head, scene: Scene, training: Training, chosen: Sequence[Episode], beta: float) -> list[Tensor]:
    """Masks of some episodes.

    Arguments:
        head: trained.
        scene: the fold.
        training: for the precision.
        chosen: one-shot episodes.
        beta: the discriminator's threshold.

    Returns:
        uint8 [2, H, W] per episode, at the query's native size: auxiliary and main branch.
    """
    scene.load_labels(chosen)
    raw_s, masks = scene.supports(chosen, "right")
    raw_q = scene.raw([e.query for e in chosen])
    counts = shared_counts(scene.backbone, raw_s, raw_q, masks, head.variant.pseudo)
    features_of = scene.backbone.features
    with autocast(training, scene.device):
        output = head(features_of(raw_s), masks, features_of(raw_q), counts, beta)
    found = []
    for i, episode in enumerate(chosen):
        both = torch.stack([output.aux_logits[i], output.logits[i]]).float()
        full = resize((both[:, 1] - both[:, 0])[None], scene.target(episode).shape)[0]
        found.append((full > 0).to(torch.uint8).cpu())
    return found


def first_of_each_class(listed: Sequence[Episode]) -> list[int]:
    """The rule by which examples are picked: the list's first episode of each class, by class -> positions."""
    classes = [e.class_id for e in listed]
    return [classes.index(c) for c in sorted(set(classes))]


def scene_of(record: Run | Baselines, benchmark: Benchmark, device: str) -> Scene:
    """The scene in which a run, or baselines, are scored."""
    if isinstance(record, Run):
        name, size = record.training.backbone, record.training.size
    else:
        name, size = record.backbone, record.size
    backbone = backbones.build(name).to(device)
    return Scene(benchmark, backbone, name, size, record.fold, record.seed, device)
