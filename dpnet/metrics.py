"""Counts per episode, and what follows from them: both metrics.

A row of counts is int64 [2, 3]: prediction (background, foreground) x target (background, foreground, void).
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dpnet.config import VOID

Metric = Literal["canet", "pfenet"]
METRICS: tuple[Metric, ...] = ("canet", "pfenet")
VALUES = "a prediction has values 0 and 1, a target 0, 1 and 255 (void)"


def confusion_counts(prediction: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of one prediction (0 or 1) against its target (0, 1 or 255), of any shape: int64 [2, 3]."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape")
    return episode_counts(prediction[None], target[None])[0]


def episode_counts(prediction: Tensor, target: Tensor) -> Tensor:
    """Count the pixels of E predictions [E, ...] against their targets [E, ...] at once: int64 [E, 2, 3]."""
    foreground = prediction == 1
    if prediction.dtype != torch.bool and not (foreground | (prediction == 0)).all():
        raise ValueError(VALUES)
    return counts_by_kind(foreground, pixel_kinds(target))


def pixel_kinds(target: Tensor) -> Tensor:
    """Which pixels of E targets [E, ...] are background, foreground and void: bool [3, E, ...]."""
    kinds = torch.stack([target == value for value in (0, 1, VOID)])
    if not kinds.any(0).all():
        raise ValueError(VALUES)
    return kinds


def counts_by_kind(foreground: Tensor, kinds: Tensor) -> Tensor:
    """`episode_counts` of predictions, bool [E, ...], against `pixel_kinds`, which many predictions may share."""
    whole, hit = (p.flatten(2).view(torch.uint8).sum(2, dtype=torch.int32) for p in (kinds, kinds & foreground))
    return torch.stack([whole - hit, hit]).permute(2, 0, 1).long()  # sums of bytes are faster than those of bool


def intersection_union(counts: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union of the foreground, int64 [...] each, of counts [..., 2, 3].

    "canet" takes void as background, so foreground on it is a false positive; "pfenet" leaves void out.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: choose from {', '.join(METRICS)}")
    hit, missed = counts[..., 1, 1], counts[..., 0, 1]
    wrong = counts[..., 1, 0] + (counts[..., 1, 2] if metric == "canet" else 0)
    return hit, hit + missed + wrong


def mean_iou(counts: Tensor | np.ndarray, classes: Tensor | np.ndarray, metric: Metric = "canet") -> float:
    """Mean intersection over union, 0..100: accumulated per class over all episodes, then divided, then averaged.

    `counts` int64 [E, 2, 3] are of episodes of `classes` int [E]; `metric` as in `intersection_union`. Without
    episodes the mean is NaN, and a class without any union counts as 0.
    """
    return float(bootstrap(np.asarray(counts), np.asarray(classes), metric, np.ones((1, len(counts))))[0])


def bootstrap(counts: np.ndarray, classes: np.ndarray, metric: Metric, weights: np.ndarray) -> np.ndarray:
    """`mean_iou` under each row of weights [R, E]: float64 [R]; equal weights pair results up."""
    # Sums of integers below 2^53 are exact in float64.
    hit, union = intersection_union(counts, metric)
    per_class = []
    for c in np.unique(classes):
        of_class = classes == c
        both = weights[:, of_class] @ np.stack([hit[of_class], union[of_class]], 1).astype(np.float64)
        per_class.append(both[:, 0] / np.maximum(both[:, 1], 1))
    return 100 * np.mean(per_class, 0) if per_class else np.full(len(weights), np.nan)
