"""Both metrics from int64 counts, against a pixel loop and torchmetrics (invariant 6); intervals."""

import loops
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import BinaryJaccardIndex

from dpnet import metrics
from dpnet.metrics import bootstrap, confusion_counts, draws, episode_counts, interval, mean_iou, queries


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


def many(rng: np.random.Generator, images: int, episodes: int, spread: int) -> np.ndarray:
    """Counts of episodes of some images: an image is as hard as it is, each episode `spread` more or less."""
    hardness = rng.integers(20, 81, images)
    asked = np.concatenate([np.arange(images), rng.integers(0, images, episodes - images)])
    hit = hardness[asked] + rng.integers(-spread, spread + 1, episodes)
    counts = np.zeros((episodes, 2, 3), np.int64)
    counts[:, 1, 1], counts[:, 0, 1] = hit, 100 - hit
    counts[:, 0, 0] = 1000 + asked  # no two images have the same background
    return counts


@pytest.mark.parametrize(("images", "episodes"), [(60, 60), (30, 300)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(images: int, episodes: int) -> None:
    """Lists from a known law: the 95 % interval holds the true value in most of 200, however often images recur."""
    rng, ones = np.random.default_rng(0), np.ones(episodes, int)
    hits, narrow = 0, 0
    for trial in range(200):
        counts = many(rng, images, episodes, 15)
        (low, high), (least, most) = (
            interval(bootstrap(counts, ones, "canet", draws(ones, query, trial)))
            for query in (queries(counts, ones), np.arange(episodes))
        )
        hits += low <= 50 <= high
        narrow += least <= 50 <= most
    assert 180 <= hits <= 198
    assert images == episodes or narrow < 150  # as if episodes were independent trials


def test_an_image_is_drawn_with_all_its_episodes_within_its_class() -> None:
    classes = np.array([1, 1, 1, 2, 2, 2, 2])
    query = np.array([0, 0, 1, 2, 3, 3, 4])
    weights = draws(classes, query, 0)
    assert np.array_equal(weights[:, [0, 4]], weights[:, [1, 5]])  # the episodes of images 0 and 3
    assert (weights[:, [0, 2]].sum(1) == 2).all()  # as many images as there are, of each class
    assert (weights[:, [3, 4, 6]].sum(1) == 3).all()
    assert weights.std(0).min() > 0


def test_queries_are_told_apart_by_class_and_label_not_by_prediction() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 255], (3, 50), p=[0.5, 0.4, 0.1])[[0, 1, 0, 2, 1, 0]]
    counts = episode_counts(torch.tensor(rng.integers(0, 2, labels.shape)), torch.tensor(labels)).numpy()
    a, b, c, d, e, f = queries(counts, np.array([1, 1, 1, 1, 1, 2]))
    assert (a, b) == (c, e)
    assert len({a, b, d, f}) == 4


def test_the_bootstrap_pairs_up_and_brackets_the_value() -> None:
    prediction, target, classes = masks(3, 50)
    counts = episode_counts(prediction, target).numpy()
    better = counts.copy()
    better[:, :, 1] = np.stack([0 * counts[:, 0, 1], counts[:, :, 1].sum(1)], 1)  # all that was missed is hit

    def drawn(of: np.ndarray, seed: int) -> np.ndarray:
        return bootstrap(of, classes, "canet", draws(classes, queries(of, classes), seed))

    assert np.array_equal(drawn(counts, 0), drawn(counts, 0))
    assert not np.array_equal(drawn(counts, 0), drawn(counts, 1))
    low, high = interval(drawn(counts, 0))
    assert low < mean_iou(counts, classes) < high
    assert np.std(drawn(better, 0) - drawn(counts, 0)) < np.std(drawn(better, 1) - drawn(counts, 0))
