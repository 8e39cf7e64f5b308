"""How far a mean can be trusted: it rests on the images that were photographed, and on the trainings one got."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

RESAMPLES = 2000  # of the bootstrap
ENOUGH = 3  # trainings for a verdict
TOO_FEW = f"needs {ENOUGH} seeds"  # the status of what has an interval, but no verdict yet
CountsOfSeed = tuple[np.ndarray, np.ndarray]  # int64 [E, 2, 3], and the class of each episode, int64 [E]


class Estimate(NamedTuple):
    """A mean over trainings with its 95 % interval, and the two parts of the mean's variance."""

    value: float
    low: float
    high: float
    trainings: int
    of_images: float  # other images, the same trainings
    of_trainings: float  # other trainings, the same images; 0 from one training, which cannot tell

    def needed(self, effect: float) -> float:
        """Trainings in all with which the interval of such an effect leaves out zero; inf: not with these images."""
        trainings = np.arange(ENOUGH, 1000)
        of_trainings = self.of_trainings * self.trainings / trainings
        enough = trainings[_half_width(self.of_images, of_trainings, trainings) < abs(effect)]
        return float(enough[0]) if len(enough) else np.inf


def estimate(samples: np.ndarray, among: int = 1) -> Estimate:
    """Mean and interval from `Scores.samples`, float64 [S, 1 + R]: each training's value, then its resamples.

    `among`: of how many means this one was picked for its value; all their intervals hold together (Bonferroni).
    Images and trainings are crossed. What other images change in all trainings alike (their covariance) is the
    images' part; what they change in one training alone already shows in the variance between trainings.
    """
    if not (trainings := len(samples)):
        return Estimate(np.nan, np.nan, np.nan, 0, np.nan, np.nan)
    covariance = np.atleast_2d(np.cov(samples[:, 1:]))
    alike = covariance[~np.eye(trainings, dtype=bool)] if trainings > 1 else covariance
    of_images = max(float(alike.mean()), 0.0)
    of_trainings = float(samples[:, 0].var(ddof=1)) / trainings if trainings > 1 else 0.0
    value, half = float(samples[:, 0].mean()), float(_half_width(of_images, of_trainings, trainings, among))
    return Estimate(value, value - half, value + half, trainings, of_images, of_trainings)


def _half_width(of_images: float, of_trainings: Any, trainings: Any, among: int = 1) -> np.ndarray:
    """Each part with its own quantile: hundreds of images, but few trainings (Banerjee 1960: at least 95 %)."""
    level = 1 - 0.025 / among
    quantiles = stdtrit(np.inf, level), stdtrit(np.maximum(np.subtract(trainings, 1), 1), level)
    return np.asarray(np.sqrt(quantiles[0] ** 2 * of_images + quantiles[1] ** 2 * of_trainings))


def cell(samples: np.ndarray, name: str = "miou", among: int = 1) -> dict[str, Any]:
    """A mean over trainings with its interval, three decimals; how many trainings, and the value of each."""
    ours, each = estimate(samples, among), " ".join(f"{value:.2f}" for value in samples[:, 0])
    of_mean = {name: round(ours.value, 3), "low": round(ours.low, 3), "high": round(ours.high, 3)}
    return of_mean | {"trainings": ours.trainings, "by_training": each}


def direction(difference: dict[str, Any], theirs: float) -> str:
    """In words how a difference, with its interval, lies to zero, and to what the paper has."""
    if np.isnan(difference["difference"]):
        return "not run"
    if difference["trainings"] < ENOUGH:
        return TOO_FEW
    ours = 1 if difference["low"] > 0 else -1 if difference["high"] < 0 else 0
    if not ours:
        return "undecided"
    if np.isnan(theirs) or not theirs:  # the paper has no direction there
        return "positive" if ours > 0 else "negative"
    return "same direction" if ours == np.sign(theirs) else "opposite direction"


def queries(counts: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Numbers of the query images of episodes, int64 [E], by class: class and pixels of its label tell one apart."""
    label = np.concatenate([classes[:, None], counts.sum(1)], 1)
    return np.unique(label, axis=0, return_inverse=True)[1].reshape(-1)


@lru_cache(64)  # every row of a table draws from the same few lists
def draws(images: tuple[int, ...], seed: int) -> np.ndarray:
    """How often each image of classes with so many images counts: once, then in each resample, float64 [1 + R, I].

    Images are drawn within their class, so none vanishes: one fewer than it has, with which the variance is unbiased.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(max(n - 1, 1), np.full(n, 1 / n), RESAMPLES) for n in images]
    return np.concatenate([np.ones((1, sum(images))), np.concatenate(drawn, 1)])


def resampling(fold: int, lists: Sequence[CountsOfSeed]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Numbers of the query images of each seed's episodes; each image's class [I]; its weights [1 + R, I]."""
    counts, classes = (np.concatenate(part) for part in zip(*lists, strict=True))
    query = queries(counts, classes)
    of_images = classes[np.unique(query, return_index=True)[1]]
    weights = draws(tuple(np.unique(of_images, return_counts=True)[1]), fold)
    return np.split(query, np.cumsum([len(own) for _, own in lists])[:-1]), of_images, weights


def by_image(values: np.ndarray, query: np.ndarray, images: int) -> np.ndarray:
    """Sums over each image's episodes: [E, ...] -> [I, ...]."""
    total = np.zeros((images, *values.shape[1:]), np.int64)
    np.add.at(total, query, values)
    return total
