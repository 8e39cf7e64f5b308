"""Records on disk -> one tidy frame, a row per record and evaluation -> values with bootstrap resamples."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dpnet import io
from dpnet.companion.experiments import PAPER_METRIC, Experiment, Row
from dpnet.companion.presets import Setting
from dpnet.companion.store import Record, Store
from dpnet.config import Baselines, Recipe, Run, Training, Variant
from dpnet.io import DPNetError, read_json
from dpnet.metrics import Metric, bootstrap, draws, interval, mean_iou, queries

MEAN = "mean"
COLUMNS = [
    *("kind", "fold", "seed", "variant", "branch", "support", "shot", "beta", "scales", "diversity", "folder"),
    *("record", "evaluation"),  # what `Store.counts` is asked for
]
_EVALUATION = re.compile(
    r"(?P<branch>\w+)-(?P<support>\w+)-(?P<shot>\d+)shot-beta(?P<beta>[\d.e-]+)-x(?P<scales>[\d.,]+)-(?P<episodes>\d+)ep"
)
_PARTS = {"recipe": Recipe, "training": Training, "variant": Variant}  # of a record, dataclasses themselves
CountsOfSeed = tuple[np.ndarray, np.ndarray]  # int64 [E, 2, 3], and the class of each episode, int64 [E]


class Samples(NamedTuple):
    """A value and its bootstrap resamples [R]; those of one fold draw the same query images."""

    value: float
    resamples: np.ndarray


def combined(parts: Iterable[tuple[float, Samples | None]]) -> Samples | None:
    """A weighted sum of paired samples: 1 and -1 give a paired difference; None if any part is missing."""
    value, resamples = 0.0, np.zeros(1)
    for weight, part in parts:
        if part is None:
            return None
        value, resamples = value + weight * part.value, resamples + weight * part.resamples
    return Samples(value, resamples)


@dataclass(frozen=True, eq=False)
class Scores:
    """One benchmark's scores at one preset, from `load`.

    Arguments:
        setting: benchmark and sizes.
        frame: the columns `COLUMNS`, sorted by fold and seed. For baselines `variant` holds the name.
        store: where their counts are.
        seeds: those that are read.
        about: what `benchmark.json` says: class names, folds, tested classes, numbers of images.
    """

    setting: Setting
    frame: pd.DataFrame
    store: Store
    seeds: range
    about: dict[str, Any]
    _cache: dict[Any, Any] = field(default_factory=dict)

    @property
    def folds(self) -> list[int]:
        """The folds that the benchmark tests."""
        return _tested(self.about)

    @property
    def columns(self) -> list[str]:
        """The folds, then their mean."""
        return [*map(str, self.folds), MEAN]

    def of_seed(self, seed: int) -> "Scores":
        """The same, of one seed alone."""
        return replace(self, seeds=range(seed, seed + 1), _cache={})

    def comparable(self, experiment: Experiment) -> bool:
        """Whether absolute values may be compared with the paper's: its data, at its own schedule."""
        benchmark = "coco" if experiment.table == 2 else "pascal"
        return (self.setting.benchmark, self.setting.preset) == (benchmark, "paper")

    def select(self, **conditions: Any) -> pd.DataFrame:
        """The records of the seeds that are read, where columns have these values."""
        key = tuple(conditions.items())
        if key not in self._cache:
            same = np.logical_and.reduce([self.frame[column] == value for column, value in key])
            self._cache[key] = self.frame[same & self.frame.seed.isin(self.seeds)]
        return self._cache[key]

    def of_row(self, row: Row, support: Literal["right", "wrong"] = "right") -> pd.DataFrame:
        """The records behind a table's row."""
        return self.select(
            kind="Run",
            variant=row.variant.slug,
            branch=row.branch,
            support=support,
            shot=row.shot,
            beta=row.beta,
            scales=_scales(row.scales),
            diversity=self._diversity(row),
        )

    def baseline(self, name: str, row: Row) -> pd.DataFrame:
        """The records of a baseline on the same episodes as a row."""
        return self.select(kind=Baselines.kind, variant=name, shot=row.shot, diversity=self._diversity(row))

    def _diversity(self, row: Row) -> float:
        return self.setting.at(row.diversity).recipe.diversity

    def counts(self, records: pd.DataFrame, fold: int) -> list[CountsOfSeed]:
        """Counts and classes of a fold, for each seed; empty if a seed is missing, or has no episodes."""
        of_fold = records[records.fold == fold]
        lists = [self.store.counts(*pair) for pair in zip(of_fold.record, of_fold.evaluation, strict=True)]
        whole = len(lists) == len(self.seeds) and all(len(classes) for _, classes in lists)
        return lists if whole else []

    def samples(self, records: pd.DataFrame, fold: int | str, metric: Metric) -> Samples | None:
        """Value and resamples of a cell.

        Arguments:
            records: from `of_row` or `baseline`.
            fold: a number, or "mean" over all folds of the benchmark.
            metric: "canet" or "pfenet".

        Returns:
            None where a record, or for the mean any record, is missing.
        """
        key = (tuple(records.index), str(fold), metric)
        if key not in self._cache:
            if fold == MEAN:
                self._cache[key] = _mean([self.samples(records, f, metric) for f in self.folds])
            else:
                self._cache[key] = _sampled(int(fold), self.counts(records, int(fold)), metric)
        return self._cache[key]

    def run_ids(self, records: pd.DataFrame, fold: str) -> str:
        """Ids of the records behind a cell, joined by spaces."""
        folds = self.folds if fold == MEAN else [int(fold)]
        return " ".join(records[records.fold.isin(folds)].folder)

    def missing_folds(self, records: pd.DataFrame) -> list[int]:
        """The folds for whose want no mean exists."""
        return [f for f in self.folds if self.samples(records, f, PAPER_METRIC) is None]

    @cached_property
    def parameters(self) -> float:
        """Of the whole network, backbone and auxiliary head included, in millions; counted, not typed."""
        from dpnet.model import DPNet

        t = self.setting.training
        model = DPNet(t.backbone, None, width=t.width, dilations=t.dilations)
        return round(sum(p.numel() for p in model.parameters()) / 1e6, 1)


def once(make: Callable[[Scores, Experiment], pd.DataFrame]) -> Callable[[Scores, Experiment], pd.DataFrame]:
    """A target's frame is made once for some scores, since a report asks for it many times; nobody changes it."""

    @wraps(make)
    def remembered(scores: Scores, experiment: Experiment) -> pd.DataFrame:
        key = (make.__name__, experiment.name)
        if key not in scores._cache:
            scores._cache[key] = make(scores, experiment)
        return scores._cache[key]

    return remembered


def load(setting: Setting, results: Path | None = None, seeds: int | range | None = None) -> Scores:
    """Read what is on disk of a setting; records of another schedule or recipe (diversity aside) are left out.

    Arguments:
        setting: benchmark and sizes.
        results: the folder of all results; None: the project's.
        seeds: how many, from 0, or which; None: as many as the full model was scored with on all folds.

    Raises:
        DPNetError: nothing is there, or a file is corrupt.
    """
    store = Store((results or io.places().results) / setting.name)
    file = store.root / "benchmark.json"
    if not file.exists():
        raise DPNetError(
            f"no results of {setting.benchmark} at {setting.preset} ({setting.name}/ is not in the results folder): "
            f"run `make reproduce-table3 BENCHMARK={setting.benchmark} PRESET={setting.preset}`"
        )
    about = read_json(file)
    lines = [line for run in sorted(store.root.glob("runs/*/run.json")) for line in _lines(run, store, setting)]
    frame = pd.DataFrame(lines, columns=COLUMNS).sort_values(["fold", "seed"], kind="stable", ignore_index=True)
    if isinstance(seeds, int):
        seeds = range(seeds)
    every = Scores(setting, frame, store, seeds or range(10**6), about)
    if seeds is None:
        full = every.of_row(Row({}, "the full model"))
        there = [set(full[full.fold == fold].seed) for fold in every.folds]
        counted = (seed for seed in range(len(frame) + 1) if not all(seed in of_fold for of_fold in there))
        seeds = range(max(1, next(counted, 1)))  # at least one, so that what is not run is said of a seed
    return replace(every, seeds=seeds, _cache={})


def _lines(file: Path, store: Store, setting: Setting) -> Iterator[dict[str, Any]]:
    """A record's rows of the frame; none if it is not one of the setting's."""
    stored = read_json(file)
    try:
        record = _frozen({"Run": Run, Baselines.kind: Baselines}[stored["kind"]], stored)
    except (KeyError, TypeError):  # of a version with other kinds or fields
        return
    at = setting.at(record.recipe.diversity)
    if isinstance(record, Run):
        expected: Record = at.run(record.variant, record.fold, record.seed)
    else:
        expected = at.baselines(record.fold, record.seed, record.shot)
    if record != expected:
        return
    line = {"kind": stored["kind"], "fold": record.fold, "seed": record.seed, "diversity": record.recipe.diversity}
    line |= {"folder": file.parent.name, "record": record}
    for name in store.metrics(record)["evaluations"]:
        if isinstance(record, Baselines):
            yield line | {"variant": name, "shot": record.shot, "evaluation": name}
        elif (way := _EVALUATION.fullmatch(name)) and int(way["episodes"]) == setting.episodes:
            numbers = {"shot": int(way["shot"]), "beta": float(way["beta"])}
            yield line | {"variant": record.variant.slug, "evaluation": name} | way.groupdict() | numbers


def _frozen(kind: type, stored: dict[str, Any]) -> Any:
    """A dataclass from its JSON; fields that an older version lacked have their defaults."""
    values = {}
    for name, value in stored.items():
        if name in _PARTS:
            values[name] = _frozen(_PARTS[name], value)
        elif name not in ("id", "kind"):
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _scales(scales: tuple[float, ...]) -> str:
    return ",".join(f"{scale:g}" for scale in scales)


def _tested(about: dict[str, Any]) -> list[int]:
    return [fold for fold, classes in enumerate(about["tested"]) if classes]


def _mean(parts: list[Samples | None]) -> Samples | None:
    """Over folds; None if one is missing."""
    whole = [p for p in parts if p is not None]
    if len(whole) < len(parts):
        return None
    return Samples(float(np.mean([p.value for p in whole])), np.mean([p.resamples for p in whole], 0))


def _sampled(fold: int, lists: list[CountsOfSeed], metric: Metric) -> Samples | None:
    """The mean over seeds; with several, they are resampled too."""
    if not lists:
        return None
    values = [mean_iou(counts, classes, metric) for counts, classes in lists]
    pairs = zip(lists, resampling(fold, lists), strict=True)
    stacked = np.stack([bootstrap(*of_seed, metric, weights) for of_seed, weights in pairs])
    if len(stacked) > 1:
        drawn = np.random.default_rng(fold).integers(len(stacked), size=stacked.shape)
        stacked = np.take_along_axis(stacked, drawn, 0)
    return Samples(float(np.mean(values)), stacked.mean(0))


def resampling(fold: int, lists: list[CountsOfSeed]) -> list[np.ndarray]:
    """How often each resample draws each episode, for each seed: all draw the same images."""
    counts, classes = (np.concatenate(part) for part in zip(*lists, strict=True))
    weights = draws(classes, queries(counts, classes), fold)
    return np.split(weights, np.cumsum([len(own) for _, own in lists])[:-1], axis=1)


def cell(samples: Samples | None, name: str = "miou") -> dict[str, float]:
    """A value with its interval, two decimals."""
    if samples is None:
        return {name: np.nan, "low": np.nan, "high": np.nan}
    low, high = interval(samples.resamples)
    return {name: round(samples.value, 2), "low": round(low, 2), "high": round(high, 2)}


def direction(difference: dict[str, float], theirs: float) -> str:
    """In words how a difference, with its interval, lies to zero, and to what the paper has."""
    if np.isnan(difference["difference"]):
        return "not run"
    ours = 1 if difference["low"] > 0 else -1 if difference["high"] < 0 else 0
    if np.isnan(theirs) or not theirs:  # the paper has no direction there
        return {1: "positive", -1: "negative", 0: "undecided"}[ours]
    if not ours:
        return "undecided"
    return "same direction" if ours == np.sign(theirs) else "opposite direction"
