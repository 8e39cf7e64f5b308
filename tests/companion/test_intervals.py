"""95 % intervals contain the truth in 95 % of cases, whichever noise is larger: the images' or the trainings'."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import t

from dpnet.companion import estimates
from dpnet.companion.estimates import Estimate, by_image, draws, estimate, queries, resampling
from dpnet.metrics import bootstrap, episode_counts, mean_iou

CLASSES = (20,) * 5  # images of each, as a fold of `shapes` has them
CASES = [(trainings, ratio) for trainings in (3, 5, 10) for ratio in (3, 1, 1 / 3)]


@cache
def experiments(trainings: int, ratio: float, times: int = 6000) -> list[Estimate]:
    """Estimates from a known law whose truth is 0: the mean's noise by the images is `ratio` times the trainings'.

    Images and trainings are crossed: an image is hard for all trainings, a training is good on all images, and half
    of a training's variance is how it does on single images.
    """
    rng, images = np.random.default_rng([trainings, round(ratio * 3)]), sum(CLASSES)
    weights = draws(CLASSES, 0)[:301]
    weights = weights / weights.sum(1, keepdims=True)
    estimated = []
    for _ in range(times):
        of_images = rng.normal(0, ratio * images**0.5, images)
        of_trainings = rng.normal(0, (trainings / 2) ** 0.5, (trainings, 1))
        values = of_images + of_trainings + rng.normal(0, (trainings / 2 * images) ** 0.5, (trainings, images))
        estimated.append(estimate(values @ weights.T))
    return estimated


def parts(estimated: list[Estimate]) -> np.ndarray:
    return np.array([(one.of_images, one.of_trainings) for one in estimated]).T


def coverage(estimated: list[Estimate], half: np.ndarray) -> float:
    return float(np.mean(np.abs([one.value for one in estimated]) <= half))


@pytest.mark.parametrize(("trainings", "ratio"), CASES)
def test_the_truth_lies_in_95_of_100_intervals(trainings: int, ratio: float) -> None:
    estimated = experiments(trainings, ratio)
    half = np.array([(one.high - one.low) / 2 for one in estimated])
    assert 0.92 <= coverage(estimated, half) <= 0.98
    assert parts(estimated).mean(1) == pytest.approx([ratio**2, 1], rel=0.12)  # no part counts what is the other's


@pytest.mark.parametrize(
    ("ratio", "of_images", "of_trainings"),
    [(1 / 3, 1.96, 1.96), (1 / 3, 1.96, 0), (3, 0, t.ppf(0.975, 2))],
    ids=["normal quantile", "without trainings", "without images"],
)
def test_three_trainings_would_show_a_wrong_rule(ratio: float, of_images: float, of_trainings: float) -> None:
    variances = parts(experiments(3, ratio))
    half = np.sqrt(of_images**2 * variances[0] + of_trainings**2 * variances[1])
    assert coverage(experiments(3, ratio), half) < 0.92


@pytest.mark.parametrize(("among", "least", "most"), [(15, 0.95, 1), (1, 0, 0.85)])
def test_the_best_of_fifteen_is_held_to_an_interval_of_fifteen(among: int, least: float, most: float) -> None:
    """Fifteen means whose truth is 0: the highest one's interval contains it, unless it is taken for the only one."""
    rng, contained = np.random.default_rng(0), []
    for _ in range(400):
        samples = rng.normal(0, 1, (15, 5, 1)) + rng.normal(0, 0.5, (15, 1, 101))
        best = samples[samples[:, :, 0].mean(1).argmax()]
        contained.append(estimate(best, among).low <= 0)
    assert least <= np.mean(contained) <= most


def test_one_training_has_the_interval_of_its_images_and_none_has_nothing() -> None:
    samples = np.random.default_rng(0).normal(5, 2, (1, 1 + estimates.RESAMPLES))
    one = estimate(samples)
    assert (one.value, one.trainings, one.of_trainings) == (samples[0, 0], 1, 0)
    assert one.high - one.low == pytest.approx(2 * 1.96 * samples[0, 1:].std(), rel=0.001)
    assert np.isnan(estimate(samples[:0]).low)


def test_as_many_trainings_are_needed_as_make_the_interval_of_the_effect_leave_out_zero() -> None:
    one = Estimate(0.3, -2.0, 2.6, 3, 0.25, 0.5)
    n = int(one.needed(1.5))
    half = [np.sqrt(1.96**2 * 0.25 + t.ppf(0.975, m - 1) ** 2 * 1.5 / m) for m in (n - 1, n)]
    assert half[1] < 1.5 < half[0]
    assert one.needed(0.97) == np.inf  # the images alone are too noisy
    assert one.needed(-1.5) == n
    assert one.needed(100) == estimates.ENOUGH


def test_an_image_is_drawn_with_all_its_episodes_within_its_class_and_alike_for_all_seeds() -> None:
    counts = np.random.default_rng(0).integers(10, 100, (6, 2, 3))
    order, classes = np.array([3, 1, 1, 0, 5, 2, 4]), np.array([1, 1, 1, 2, 2, 2])
    (first, second), of_images, weights = resampling(0, [(counts, classes), (counts[order], classes[order])])
    assert np.array_equal(first[order], second)
    assert np.array_equal(of_images[first], classes)
    assert np.array_equal(
        by_image(counts[order], second, 6)[first], counts * np.array([1, 2, 1, 1, 1, 1])[:, None, None]
    )
    assert (weights[0] == 1).all()
    assert (weights[1:, :3].sum(1) == 2).all()  # one fewer than there are, of each class
    assert (weights[1:, 3:].sum(1) == 2).all()
    assert weights[1:].std(0).min() > 0


def test_queries_are_told_apart_by_class_and_label_not_by_prediction() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 255], (3, 50), p=[0.5, 0.4, 0.1])[[0, 1, 0, 2, 1, 0]]
    counts = episode_counts(torch.tensor(rng.integers(0, 2, labels.shape)), torch.tensor(labels)).numpy()
    a, b, c, d, e, f = queries(counts, np.array([1, 1, 1, 1, 1, 2]))
    assert (a, b) == (c, e)
    assert len({a, b, d, f}) == 4
    assert f == 3  # by class


def test_intervals_of_mean_iou_contain_the_truth_however_often_images_recur() -> None:
    """An image is as hard as it is, each episode a little more or less."""
    rng, classes, hits = np.random.default_rng(0), np.ones(300, int), 0
    for trial in range(200):
        hardness, asked = rng.integers(20, 81, 30), np.concatenate([np.arange(30), rng.integers(0, 30, 270)])
        hit, counts = hardness[asked] + rng.integers(-15, 16, 300), np.zeros((300, 2, 3), np.int64)
        counts[:, 1, 1], counts[:, 0, 1] = hit, 100 - hit
        counts[:, 0, 0] = 1000 + asked  # no two images have the same background
        (query,), of_images, weights = resampling(trial, [(counts, classes)])
        one = estimate(bootstrap(by_image(counts, query, 30), of_images, "canet", weights)[None])
        assert one.value == pytest.approx(mean_iou(counts, classes))
        hits += one.low <= 50 <= one.high
    assert 180 <= hits <= 198
    as_trials = estimate(bootstrap(counts, classes, "canet", draws((300,), 0))[None])  # as if all were independent
    assert as_trials.of_images < one.of_images / 2
