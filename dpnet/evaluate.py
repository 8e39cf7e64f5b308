"""One pass over a fold's episodes for all heads, thresholds, scales, branches and both metrics."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dpnet import backbones, episodes
from dpnet.backbones import Backbone
from dpnet.companion.store import Counts, Store
from dpnet.config import VOID, Evaluation, Pseudo, Run, Training, Yardsticks
from dpnet.data import cache
from dpnet.data.cache import FeatureBank, binary
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.io import progress
from dpnet.metrics import METRICS, episode_counts, mean_iou
from dpnet.model import Head, hard_masks, shared_counts, soft_masks
from dpnet.modules import masked_average, resize
from dpnet.train import at_cells, autocast

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
    heads: Mapping[str, Head], scene: Scene, training: Training, wanted: Mapping[str, Sequence[Evaluation]]
) -> tuple[dict[str, Counts], dict[str, list[Episode]]]:
    """Score heads in every way that is asked for, encoding each image once per scale.

    Arguments:
        heads: run id -> head, all on the same features.
        scene: the fold.
        training: for the precision.
        wanted: run id -> ways of scoring.

    Returns:
        run id -> evaluation id -> int64 [E, 2, 3]; and evaluation id -> its episodes.
    """
    results: dict[str, Counts] = {name: {} for name in heads}
    lists: dict[str, list[Episode]] = {}
    for shot, support, count in sorted({(e.shot, e.support, e.episodes) for w in wanted.values() for e in w}):
        group = {
            name: [e for e in evaluations if (e.shot, e.support, e.episodes) == (shot, support, count)]
            for name, evaluations in wanted.items()
        }
        chosen = scene.episodes(shot, count)
        if support == "wrong":  # a query that shows every tested class has no wrong support
            chosen = [e for e in chosen if e.wrong_class]
        scene.load_labels(chosen)
        parts: dict[tuple[str, str], list[Tensor]] = {(n, e.id): [] for n, es in group.items() for e in es}
        batches = _batches(chosen)
        for rows in progress(batches, f"scoring fold {scene.fold}, {shot} shot, {support} support", "batch"):
            batch = [chosen[i] for i in rows]
            for which, found in _score_batch(heads, scene, training, group, support, batch).items():
                parts[which].append(found)
        for (name, evaluation), counted in parts.items():
            results[name][evaluation] = _joined(counted, batches)
        lists |= {evaluation: chosen for _, evaluation in parts}
    return results, lists


def _score_batch(
    heads: Mapping[str, Head],
    scene: Scene,
    training: Training,
    group: Mapping[str, list[Evaluation]],
    support: str,
    batch: list[Episode],
) -> dict[tuple[str, str], Tensor]:
    """(run id, evaluation id) -> int64 [B, 2, 3]."""
    raw_s, masks = scene.supports(batch, support)
    F_s = scene.backbone.features(raw_s)
    queries = [e.query for e in batch]
    differences: dict[tuple[str, float, float, str], Tensor] = {}  # head, scale, beta, branch -> [B, h, w]
    counts: dict[tuple[float, str], Tensor] = {}
    prototypes: dict[str, Tensor] = {}
    for scale in sorted({s for es in group.values() for e in es for s in e.scales}):
        raw_q = scene.raw(queries, scale)
        F_q = scene.backbone.features(raw_q)
        for name, head in heads.items():
            asked = list(dict.fromkeys((e.beta, e.branch) for e in group[name] if scale in e.scales))
            if not asked:
                continue
            kind = head.variant.pseudo
            if (scale, kind) not in counts:
                counts[scale, kind] = shared_counts(scene.backbone, raw_s, raw_q, masks, kind)
            with autocast(training, scene.device):
                if name not in prototypes:
                    prototypes[name] = head.prototypes(F_s, masks)
                matched = head.match(prototypes[name], F_q, counts[scale, kind])
                for (beta, branch), difference in head.sweep(matched, asked).items():
                    differences[name, scale, beta, branch] = difference
    asked_for = [(name, e) for name, evaluations in group.items() for e in evaluations]
    targets = scene.targets(batch)
    scored = [score([differences[n, s, e.beta, e.branch] for s in e.scales], targets) for n, e in asked_for]
    on_host = torch.stack(scored).cpu()  # one copy per batch
    return {(name, e.id): counted for (name, e), counted in zip(asked_for, on_host, strict=True)}


def _batches(chosen: Sequence[Episode]) -> list[list[int]]:
    """Positions of episodes, `BATCH` at a time, those of a batch with equally many supports."""
    kinds = [(len(e.supports), len(e.wrong_supports)) for e in chosen]
    found = []
    for kind in sorted(set(kinds)):
        rows = [i for i, k in enumerate(kinds) if k == kind]
        found += [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return found


def _joined(parts: list[Tensor], batches: list[list[int]]) -> np.ndarray:
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


@torch.inference_mode()
def measure_yardsticks(scene: Scene, wanted: Yardsticks) -> tuple[Counts, dict[str, list[Episode]]]:
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
        batches = _batches(chosen)
        for rows in progress(batches, f"yardstick: {name}", "batch"):
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
        counts[name] = _joined(parts, batches)
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


def summary(counts: Counts, lists: dict[str, list[Episode]], benchmark: Benchmark) -> dict[str, dict[str, object]]:
    """What `metrics.json` says of each evaluation: the list it was scored on, and both metrics.

    Arguments:
        counts: name -> int64 [E, 2, 3].
        lists: name -> episodes.
        benchmark: for the ids of images.

    Returns:
        name -> {episodes, data, canet, pfenet}.
    """
    about: dict[str, dict[str, object]] = {}
    for name, table in counts.items():
        classes = class_ids(lists[name])
        about[name] = {
            "episodes": episodes.digest(episodes.to_json(benchmark, lists[name])),
            "data": benchmark.digest[:16],
            **{metric: round(mean_iou(table, classes, metric), 4) if len(table) else None for metric in METRICS},
        }
    return about


def class_ids(chosen: Sequence[Episode]) -> np.ndarray:
    """The class of each episode, int64 [E]."""
    return np.array([e.class_id for e in chosen], np.int64)


def finish(
    store: Store,
    benchmark: Benchmark,
    thing: Run | Yardsticks,
    counts: Counts,
    lists: dict[str, list[Episode]],
) -> None:
    """Keep the counts and scores of a run or of yardsticks."""
    classes = {name: class_ids(lists[name]) for name in counts}
    store.finish(thing, counts, classes, summary(counts, lists, benchmark))


def scene_of(thing: Run | Yardsticks, benchmark: Benchmark, device: str) -> Scene:
    """The scene in which a run, or yardsticks, are scored."""
    if isinstance(thing, Run):
        name, size = thing.training.backbone, thing.training.size
    else:
        name, size = thing.backbone, thing.size
    backbone = backbones.build(name).to(device)
    return Scene(benchmark, backbone, name, size, thing.fold, thing.seed, device)


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
