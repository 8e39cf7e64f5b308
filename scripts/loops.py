"""The method and its scoring as plain loops, written from the equations as the field writes them; slow on purpose."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dpnet.data.index import Benchmark
from dpnet.episodes import Episode


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
