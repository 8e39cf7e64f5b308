"""Both metrics from int64 counts, against a pixel loop and torchmetrics (invariant 6)."""

import loops
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import BinaryJaccardIndex

from dpnet import metrics
from dpnet.metrics import confusion_counts, episode_counts, mean_iou


def masks(seed: int, episodes: int, side: int = 6) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    prediction = torch.tensor(rng.integers(0, 2, (episodes, side, side)))
    target = torch.tensor(rng.choice([0, 1, 255], (episodes, side, side), p=[0.5, 0.4, 0.1]))
    return prediction, target, rng.integers(1, 4, episodes)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from(["canet", "pfenet"]))
def test_mean_iou_equals_a_pixel_loop(seed: int, episodes: int, metric: str) -> None:
    prediction, target, classes = masks(seed, episodes)
    expected = loops.mean_iou(list(prediction.numpy()), list(target.numpy()), classes.tolist(), metric)
    counts = episode_counts(prediction, target)
    assert counts.dtype == torch.int64
    assert mean_iou(counts, classes, metric) == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["canet", "pfenet"])
def test_equal_to_torchmetrics_on_the_same_pixels(metric: str) -> None:
    prediction, target, _ = masks(1, 30, 40)
    theirs = BinaryJaccardIndex(ignore_index=255 if metric == "pfenet" else None)
    known = target if metric == "pfenet" else target.where(target != 255, 0)
    value = 100 * theirs(prediction, known).item()
    ours = mean_iou(episode_counts(prediction, target), np.ones(30, int), metric)  # type: ignore[arg-type]
    assert ours == pytest.approx(value, abs=1e-4)


def test_counts_by_hand() -> None:
    prediction, target = torch.tensor([[1, 1, 0], [0, 1, 1]]), torch.tensor([[1, 0, 1], [0, 255, 1]])
    counts = confusion_counts(prediction, target)
    assert counts.tolist() == [[1, 1, 0], [1, 2, 1]]
    assert torch.equal(counts, confusion_counts(prediction.flatten().bool(), target.flatten().to(torch.uint8)))


def test_it_accumulates_before_it_divides() -> None:
    """One small and one large object: the mean of IoUs would be 50, the pooled IoU is 1 / 100."""
    counts = np.zeros((2, 2, 3), np.int64)
    counts[0, 1, 1], counts[1, 0, 1] = 2**40, 99 * 2**40  # IoU 1 and 0, of more pixels than float32 counts
    assert mean_iou(counts, np.array([7, 7])) == pytest.approx(1.0)
    assert mean_iou(counts, np.array([7, 8])) == pytest.approx(50.0)  # of two classes: averaged


def test_other_values_shapes_and_metrics_are_errors() -> None:
    for prediction, target in (([0, 2], [0, 1]), ([0, 1], [0, 7]), ([0, 1], [0, -1]), ([-1, 1], [0, 1])):
        with pytest.raises(ValueError, match="0, 1 and 255"):
            confusion_counts(torch.tensor(prediction), torch.tensor(target))
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_counts(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="unknown metric"):
        metrics.intersection_union(np.zeros((1, 2, 3)), "iou")  # type: ignore[arg-type]
