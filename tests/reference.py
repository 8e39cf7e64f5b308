"""Plain references, written from the equations and with other libraries' habits; slow on purpose."""

import math

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
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
