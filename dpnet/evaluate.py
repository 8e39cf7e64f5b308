"""One pass over a fold's episodes for all heads, thresholds, scales, branches and both metrics."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dpnet import backbones, episodes
from dpnet.backbones import Backbone
from dpnet.config import VOID, Baselines, Evaluation, Run
from dpnet.data import cache
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.io import progress
from dpnet.metrics import counts_by_kind, pixel_kinds
from dpnet.model import Head, Matched, shared_counts, soft_masks
from dpnet.modules import resize
from dpnet.train import autocast

BATCH = 20  # episodes


class Scene:
    """What the heads of a fold share while they are scored: lists, labels, frozen features of square inputs."""

    def __init__(self, benchmark: Benchmark, backbone: Backbone, size: int, fold: int, seed: int) -> None:
        self.benchmark, self.backbone, self.size, self.fold, self.seed = benchmark, backbone, size, fold, seed
        self.device = backbone.device
        self._banks: dict[int, cache.FeatureBank] = {}
        self._labels: dict[int, Tensor] = {}  # of queries, at their own size
        self._small: dict[int, Tensor] = {}  # of supports, at `size`

    def episodes(self, shot: int, count: int) -> list[Episode]:
        """The fold's list."""
        return episodes.test_episodes(self.benchmark, self.fold, shot, self.seed, count)

    def load_labels(self, chosen: Sequence[Episode]) -> None:
        """Decode each label that the episodes need, once."""
        queries = sorted({e.query for e in chosen} - self._labels.keys())
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda p: self.benchmark.label(self.benchmark.entries[p]), queries)
            self._labels |= {p: cache.sent(a, self.device.type) for p, a in zip(queries, decoded, strict=True)}
        supports = sorted({i for e in chosen for i in (*e.supports, *e.wrong_supports)} - self._small.keys())
        small = cache.resized_labels(self.benchmark, supports, self.size)
        self._small |= {p: label.to(self.device) for p, label in small.items()}

    def raw(self, positions: Sequence[int], scale: float = 1.0) -> Tensor:
        """Backbone features [n, C_b, h, w] of images, at a scale of the input (rounded to 8k + 1 pixels)."""
        size = self.size if scale == 1 else 8 * round(scale * (self.size - 1) / 8) + 1
        if size not in self._banks:
            encode, key, channels = self.backbone.encode_exactly, self.backbone.key, self.backbone.channels
            self._banks[size] = cache.features(self.benchmark, "val", size, encode, key, channels)
        return self._banks[size](positions, device=self.device.type)

    def supports(self, batch: Sequence[Episode], which: str) -> tuple[Tensor, Tensor]:
        """Supports of a batch: raw features [B, K, C_b, h, w], and their masks on the grid [B, K, h, w]."""
        pairs = [(e.class_id, e.supports) if which == "right" else (e.wrong_class, e.wrong_supports) for e in batch]
        raw = self.raw([i for _, supports in pairs for i in supports]).unflatten(0, (len(batch), -1))
        masks = torch.stack([torch.stack([cache.binary(self._small[i], c) for i in s]) for c, s in pairs])
        return raw, soft_masks(masks, raw.shape[-2:])

    def target(self, episode: Episode) -> Tensor:
        """The query's target at its own size: uint8 [H, W] with 0, 1, 255."""
        return cache.binary(self._labels[episode.query], episode.class_id)

    def targets(self, batch: Sequence[Episode]) -> list[tuple[list[int], Tensor]]:
        """A batch's targets, queries of one size together: their places in it, and `pixel_kinds` [3, n, H, W]."""
        each = [self.target(e) for e in batch]
        sizes = sorted({t.shape for t in each})
        together = [[i for i, t in enumerate(each) if t.shape == size] for size in sizes]
        return [(rows, pixel_kinds(torch.stack([each[i] for i in rows]))) for rows in together]

    def objects(self, episode: Episode) -> Tensor:
        """Every labelled object of the query at its own size: uint8 [H, W] with 0, 1."""
        label = self._labels[episode.query]
        return ((label > 0) & (label != VOID)).to(torch.uint8)


def scene_of(record: Run | Baselines, benchmark: Benchmark, device: str) -> Scene:
    """The scene in which a run, or baselines, are scored."""
    of = record.training if isinstance(record, Run) else record
    return Scene(benchmark, backbones.build(of.backbone).to(device), of.size, record.fold, record.seed)


@torch.inference_mode()
def evaluate(
    heads: Mapping[Run, Head], scene: Scene, wanted: Mapping[Run, Sequence[Evaluation]]
) -> tuple[dict[tuple[Run, Evaluation], np.ndarray], dict[Evaluation, list[Episode]]]:
    """Score heads in every way that is wanted, encoding each image once per scale.

    The counts are int64 [E, 2, 3] each; with them come each evaluation's E episodes.
    """
    counts: dict[tuple[Run, Evaluation], np.ndarray] = {}
    lists: dict[Evaluation, list[Episode]] = {}
    for shot, support, count in sorted({(e.shot, e.support, e.episodes) for es in wanted.values() for e in es}):
        # 1. What has the same supports shares a pass.
        key = shot, support, count
        asked = [(run, e) for run, es in wanted.items() for e in es if (e.shot, e.support, e.episodes) == key]
        chosen = scene.episodes(shot, count)
        if support == "wrong":  # a query that shows every tested class has no wrong support
            chosen = [e for e in chosen if e.wrong_class]
        scene.load_labels(chosen)
        # 2. The pass, a batch of episodes at a time.
        batches = in_batches(chosen)
        parts = [
            _score_batch(heads, scene, asked, support, [chosen[i] for i in rows])
            for rows in progress(batches, f"scoring fold {scene.fold}, {shot} shot, {support} support", "batch")
        ]
        # 3. Counts, in the list's order.
        for n, (run, evaluation) in enumerate(asked):
            counts[run, evaluation] = in_order([part[n] for part in parts], batches)
            lists[evaluation] = chosen
    return counts, lists


def _score_batch(
    heads: Mapping[Run, Head],
    scene: Scene,
    asked: Sequence[tuple[Run, Evaluation]],
    support: str,
    batch: Sequence[Episode],
) -> Tensor:
    """Counts of each evaluation that is asked for, in order: int64 [n, B, 2, 3]."""
    raw_s, masks = scene.supports(batch, support)
    F_s = scene.backbone.features(raw_s)
    prototypes: dict[Run, Tensor] = {}
    differences: dict[tuple[Run, float, float, str], Tensor] = {}  # run, scale, beta, branch -> [B, h, w]
    for scale in sorted({scale for _, e in asked for scale in e.scales}):
        # 1. Frozen, hence shared: the queries' features, and candidates of each kind.
        raw_q = scene.raw([e.query for e in batch], scale)
        F_q = scene.backbone.features(raw_q)
        at_scale = [(run, (e.beta, e.branch)) for run, e in asked if scale in e.scales]
        kinds = sorted({run.variant.pseudo for run, _ in at_scale})
        counts = {kind: shared_counts(scene.backbone, raw_s, raw_q, masks, kind) for kind in kinds}
        # 2. Each head's logits.
        for run in dict.fromkeys(run for run, _ in at_scale):
            pairs = [pair for other, pair in at_scale if other == run]
            # In fp32, or rounding would move cells across beta.
            if run not in prototypes:
                prototypes[run] = heads[run].prototypes(F_s, masks)
            matched = heads[run].match(prototypes[run], F_q, counts[run.variant.pseudo])
            with autocast(run.training, scene.device):
                for (beta, branch), difference in decode_distinct(heads[run], matched, pairs).items():
                    differences[run, scale, beta, branch] = difference
    # 3. Counts at each query's own size.
    targets = scene.targets(batch)
    scored = [score([differences[run, s, e.beta, e.branch] for s in e.scales], targets) for run, e in asked]
    return torch.stack(scored).cpu()  # one copy per batch


def decode_distinct(
    head: Head, matched: Matched, asked: Sequence[tuple[float, str]]
) -> dict[tuple[float, str], Tensor]:
    """Several thresholds and branches from one match of B episodes; what selects the same cells is decoded once.

    Pairs of beta and branch ("main" or "aux") -> foreground minus background logit, float32 [B, h, w].
    """
    decoded: dict[tuple[float, str], Tensor] = {}
    B, device = len(matched.F_q), matched.F_q.device
    for branch in sorted({branch for _, branch in asked}):
        betas = sorted({beta for beta, of in asked if of == branch})
        # 1. Each episode's selections that differ: where each is first, and which one each threshold's is.
        selected = torch.stack([head.select(matched, beta) for beta in betas]).flatten(0, 1)  # bool [T B, K, N]
        cells = np.column_stack([np.arange(len(selected)) % B, selected.flatten(1).cpu().numpy()])
        first, which = (torch.from_numpy(i).to(device) for i in np.unique(cells, True, True, axis=0)[1:])
        # 2. Decode them, as many at a time as there are episodes.
        parts = []
        for part in first.split(B):
            some = Matched(*(None if t is None else t[part % B] for t in matched))  # type: ignore[arg-type]
            with_P, with_P_q = head.fuse(some.F_q, some.P.mean(1), head.pseudo_prototypes(some, selected[part]))
            logits = head.decode(with_P, with_P_q) if branch == "main" else head.aux_decoder(with_P)
            parts.append((logits[:, 1] - logits[:, 0]).float())
        # 3. What each threshold asked for.
        decoded |= zip([(beta, branch) for beta in betas], torch.cat(parts)[which.flatten()].split(B), strict=True)
    return {pair: decoded[pair] for pair in asked}


def score(differences: list[Tensor], targets: Sequence[tuple[list[int], Tensor]]) -> Tensor:
    """Counts int64 [B, 2, 3] at the queries' own sizes; differences of logits are one [B, h, w] for each scale."""
    counts = torch.empty(len(differences[0]), 2, 3, dtype=torch.long, device=differences[0].device)
    for rows, kinds in targets:
        full = [resize(d[rows][:, None], kinds.shape[2:])[:, 0] for d in differences]
        # One scale: d > 0 is sigmoid(d) > 0.5 without its rounding.
        predicted = full[0] > 0 if len(full) == 1 else torch.stack([d.sigmoid() for d in full]).mean(0) > 0.5
        counts[rows] = counts_by_kind(predicted, kinds)
    return counts


def in_batches(chosen: Sequence[Episode]) -> list[list[int]]:
    """Positions of episodes, `BATCH` at a time, those of a batch with equally many supports."""
    kinds = [(len(e.supports), len(e.wrong_supports)) for e in chosen]
    batches = []
    for kind in sorted(set(kinds)):
        rows = [i for i, k in enumerate(kinds) if k == kind]
        batches += [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return batches


def in_order(parts: list[Tensor], batches: list[list[int]]) -> np.ndarray:
    """Counts of batches as int64 [E, 2, 3] in the list's order; E is 0 where no query has a wrong support."""
    counts = np.empty((sum(map(len, batches)), 2, 3), np.int64)
    for rows, part in zip(batches, parts, strict=True):
        counts[rows] = part.cpu().numpy()
    return counts
