"""The method and its scoring as plain loops, written from the equations as the field writes them; slow on purpose."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dpnet.backbones import Backbone
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.model import DPNet, Head, shared_counts, soft_masks
from dpnet.modules import ASPPDecoder, MultiScaleFusion


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors."""
    return float(a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b)))


def confidence_set(F_s: np.ndarray, F_q: np.ndarray, y_s: np.ndarray) -> tuple[set[int], list[int]]:
    """Eq. 1 and 2 for one pair, as the text tells them: (C, the j* of each sequence that is consistent).

    F_s [C, N_s], F_q [C, N_q], y_s [N_s] with 0 and 1.
    """
    reached = []
    for start in range(F_s.shape[1]):
        if y_s[start] != 1:
            continue
        j_star, best = -1, -math.inf
        for j in range(F_q.shape[1]):
            similarity = cosine(F_s[:, start], F_q[:, j])
            if similarity > best:
                j_star, best = j, similarity
        i_star, best = -1, -math.inf
        for i in range(F_s.shape[1]):
            similarity = cosine(F_q[:, j_star], F_s[:, i])
            if similarity > best:
                i_star, best = i, similarity
        if y_s[i_star] == y_s[start]:
            reached.append(j_star)
    return set(reached), reached


Answer = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def segment(
    head: Head, F_s: torch.Tensor, y_s: torch.Tensor, F_q: torch.Tensor, C: torch.Tensor, beta: float
) -> Answer:
    """A one-shot head as Eq. 3-8 tell it: all that the paper concatenates is tiled and concatenated; no dropout.

    F_s, F_q [B, C_b, h, w], y_s [B, 1, h, w], candidates C [B, 1, h, w] -> logits and auxiliary logits
    [B, 2, h, w], and the discriminator's [B, 1, h, w].
    """
    R_s, R_q = (head.reduce(x).relu() for x in (F_s, F_q))
    P = (R_s * y_s).sum((2, 3)) / y_s.sum((2, 3))
    P_q, scores = P, None
    if head.comparison is not None:
        pairs = torch.cat([R_q, _tiled(P, R_q)], 1).permute(0, 2, 3, 1)
        scores = head.comparison.second(head.comparison.first(pairs).relu()).permute(0, 3, 1, 2)
        C = C & (scores.sigmoid() > beta)
    if head.variant.pseudo != "none":
        P_q = torch.where(C.any((2, 3)), (R_q * C).sum((2, 3)) / C.sum((2, 3)).clamp(min=1), P)
    if (pim := head.interaction) is not None:
        X = pim.collect(torch.cat([P, P_q], 1))
        X = (X - X.mean(1, keepdim=True)) / (X.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        scale = 1 + pim.alpha * pim.W_2(pim.W_1(X).relu()).sigmoid()
        P, P_q, R_q = scale * P, scale * P_q, scale[:, :, None, None] * R_q
    with_P, with_P_q = _fused(head.fusion[0], R_q, P), _fused(head.fusion[-1], R_q, P_q)
    return _decoded(head.decoder, torch.cat([with_P, with_P_q], 1)), _decoded(head.aux_decoder, with_P), scores


def _tiled(P: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return P[:, :, None, None].expand(-1, -1, *like.shape[2:])


def _fused(fusion: nn.Module, F_q: torch.Tensor, P: torch.Tensor) -> torch.Tensor:
    assert isinstance(fusion, MultiScaleFusion)
    total = torch.zeros_like(F_q)
    for level, layer in enumerate(fusion.convs):
        scaled = F.avg_pool2d(F_q, 2**level, ceil_mode=True, count_include_pad=False)
        mapped = layer(torch.cat([scaled, _tiled(P, scaled)], 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        total = total + F.interpolate(mapped, F_q.shape[2:], mode="bilinear", align_corners=True)
    return total.relu()


def _decoded(decoder: ASPPDecoder, x: torch.Tensor) -> torch.Tensor:
    pooled = decoder.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
    maps = [pooled, decoder.local(x), *(conv(x) for conv in decoder.dilated)]
    return decoder.classify(decoder.fuse(torch.cat(maps, 1).relu()).relu())


def loss(answer: Answer, target: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
    """Eq. 9-11 with weights of 1, void left out: target [B, S, S] with 0, 1 and 255, candidates C [B, 1, h, w]."""
    *branches, scores = answer
    total = torch.zeros(())
    for logits in branches:
        full = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=True)
        total = total + F.cross_entropy(full, target, ignore_index=255)
    if scores is not None:
        y = target[:, None, ::8, ::8]  # of 8k + 1 pixels, cells lie on 0, 8, 16, …
        cells = C & (y != 255)
        each = F.binary_cross_entropy_with_logits(scores, (y == 1).to(scores.dtype), reduction="none")
        total = total + ((each * cells).sum((1, 2, 3)) / cells.sum((1, 2, 3)).clamp(min=1)).mean()
    return total


def train_step(
    network: DPNet,
    optimizer: torch.optim.Optimizer,
    supports: torch.Tensor,
    masks: torch.Tensor,
    queries: torch.Tensor,
    target: torch.Tensor,
) -> float:
    """As the field's training scripts do: supports and queries through the backbone at each step, in fp32.

    supports, queries uint8 [B, 3, S, S]; masks and target [B, S, S] with 0, 1 and 255. Returns the loss.
    """
    with torch.no_grad():
        raw_s, raw_q = network.backbone(supports), network.backbone(queries)
    y_s = soft_masks(masks[:, None], raw_s.shape[-2:])
    return descend(network.backbone, network.head, optimizer, raw_s, raw_q, y_s, target)


def descend(
    backbone: Backbone,
    head: Head,
    optimizer: torch.optim.Optimizer,
    raw_s: torch.Tensor,
    raw_q: torch.Tensor,
    y_s: torch.Tensor,
    target: torch.Tensor,
) -> float:
    """A step of one head: raw_s, raw_q [B, C_b, h, w], y_s [B, 1, h, w], target as in `loss`. Returns the loss."""
    C = shared_counts(backbone, raw_s[:, None], raw_q, y_s, head.variant.pseudo).reshape(y_s.shape) > 0
    answer = segment(head, backbone.features(raw_s), y_s, backbone.features(raw_q), C, head.variant.beta)
    total = loss(answer, target, C)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return total.item()


def mean_iou(predictions: list[np.ndarray], targets: list[np.ndarray], classes: list[int], metric: str) -> float:
    """mIoU pixel by pixel: accumulate per class over all episodes, divide once, average over classes."""
    intersection, union = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    for prediction, target, c in zip(predictions, targets, classes, strict=True):
        for p, t in zip(prediction.ravel(), target.ravel(), strict=True):
            if t == 255:
                if metric == "pfenet":
                    continue
                t = 0
            intersection[c] += int(p == 1 and t == 1)
            union[c] += int(p == 1 or t == 1)
    return 100 * sum(intersection[c] / union[c] if union[c] else 0.0 for c in intersection) / len(intersection)


def decoded(
    benchmark: Benchmark, position: int, class_id: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image and its target from their files, squashed to a square, and the target at its own size."""
    entry = benchmark.entries[position]
    image = Image.open(benchmark.path(entry.image)).convert("RGB")
    label = Image.open(benchmark.path(entry.label))

    def target(picture: Image.Image) -> np.ndarray:
        ids = np.array(picture)
        return np.where(ids == 255, 255, (ids == class_id).astype(np.uint8)).astype(np.uint8)

    small = label.resize((size, size), Image.Resampling.NEAREST)
    pixels = np.array(image.resize((size, size), Image.Resampling.BILINEAR))
    return pixels, target(small), target(label)


def score_one_by_one(
    network: nn.Module,
    benchmark: Benchmark,
    listed: Sequence[Episode],
    size: int,
    betas: list[float],
    branch: str,
    scales: tuple[float, ...] = (1.0,),
) -> np.ndarray:
    """As the field's test scripts do: one episode at a time, files read and images encoded again for each.

    `network` is one variant, in fp32; each threshold is a pass of its own, and each scale encodes the supports
    again. Probabilities are averaged over scales of the query. Returns int64 [betas, E, 2, 3].
    """
    device = next(network.parameters()).device
    counts = np.zeros((len(betas), len(listed), 2, 3), np.int64)
    for b, beta in enumerate(betas):
        for e, episode in enumerate(listed):
            images, masks, probability = [], [], np.zeros(())
            for support in episode.supports:
                pixels, mask, _ = decoded(benchmark, support, episode.class_id, size)
                images.append(torch.from_numpy(pixels).permute(2, 0, 1))
                masks.append(torch.from_numpy(mask))
            for scale in scales:
                side = size if scale == 1 else 8 * round(scale * (size - 1) / 8) + 1
                query, _, truth = decoded(benchmark, episode.query, episode.class_id, side)
                with torch.no_grad():
                    output = network(
                        torch.stack(images)[None].to(device),
                        torch.stack(masks)[None].to(device),
                        torch.from_numpy(query).permute(2, 0, 1)[None].to(device),
                        beta=beta,
                    )
                logits = output.logits if branch == "main" else output.aux_logits
                full = F.interpolate(logits, truth.shape, mode="bilinear", align_corners=True)
                probability = probability + full.softmax(1)[0].cpu().numpy()
            prediction = probability.argmax(0)
            for p in range(2):
                for t, value in enumerate((0, 1, 255)):
                    counts[b, e, p, t] = int(((prediction == p) & (truth == value)).sum().item())
    return counts
