"""The paper's tables beside ours: records on disk -> one tidy frame -> values with 95 % intervals -> tidy tables."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import count, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dpnet import io
from dpnet.companion import experiments, paper, presets
from dpnet.companion.experiments import PAPER_METRIC, Experiment, Row
from dpnet.companion.presets import Setting
from dpnet.companion.store import Record, Store
from dpnet.config import Variant
from dpnet.io import DPNetError, read_json
from dpnet.metrics import METRICS, RESAMPLES, Metric, bootstrap, draws, interval, queries
from dpnet.model import DPNet

MEAN = "mean"
FULL_MODEL = Row({}, "the full model")
BASELINES = {
    "prototype": "training-free prototype",
    "prototype-wrong": "training-free prototype, wrong support",
    "objects": "all labelled objects",
    "ceiling": "ground truth at feature resolution",
}
COLUMNS = ["fold", "seed", "variant", "shot", "diversity", "folder", "record", "evaluation"]
Selection = tuple[tuple[str, Any], ...]  # columns of the frame, and the values that are selected
CountsOfSeed = tuple[np.ndarray, np.ndarray]  # int64 [E, 2, 3], and the class of each episode, int64 [E]


@dataclass(frozen=True, eq=False)
class Scores:
    """One benchmark's scores at one preset, from `load`."""

    setting: Setting
    frame: pd.DataFrame  # a row per record and evaluation (or baseline, of variant ""), sorted by fold and seed
    store: Store  # where their counts are
    seeds: range  # those that are read
    about: dict[str, Any]  # what `benchmark.json` says: class names, folds, tested classes, numbers of images

    @property
    def folds(self) -> list[int]:
        """The folds that the benchmark tests."""
        return [fold for fold, classes in enumerate(self.about["tested"]) if classes]

    @property
    def columns(self) -> list[str]:
        """The folds, then their mean."""
        return [*map(str, self.folds), MEAN]

    def of_seed(self, seed: int) -> "Scores":
        """The same, of one seed alone."""
        return replace(self, seeds=range(seed, seed + 1))

    def comparable(self, experiment: Experiment) -> bool:
        """Whether absolute values may be compared with the paper's: its data, at its own schedule."""
        benchmark = "coco" if experiment.table == 2 else "pascal"
        return (self.setting.benchmark, self.setting.preset) == (benchmark, "paper")

    def of_row(self, row: Row, support: Literal["right", "wrong"] = "right") -> Selection:
        """What selects the records behind a table's row."""
        evaluation = row.evaluation(self.setting.episodes, support).id
        return ("variant", row.variant.slug), ("evaluation", evaluation), ("diversity", self._diversity(row))

    def baseline(self, name: str, row: Row = FULL_MODEL) -> Selection:
        """What selects a baseline's records on the same episodes as a row."""
        return ("evaluation", name), ("shot", row.shot), ("diversity", self._diversity(row))

    def _diversity(self, row: Row) -> float:
        return self.setting.at(row.diversity).recipe.diversity

    def records(self, selection: Selection) -> pd.DataFrame:
        """The selected rows of the frame, of the seeds that are read."""
        same = np.logical_and.reduce([self.frame[column] == value for column, value in selection])
        return self.frame[same & self.frame.seed.isin(self.seeds)]

    def counts(self, selection: Selection, fold: int) -> list[CountsOfSeed]:
        """Counts and classes of a fold, for each seed; empty if a seed is missing, or has no episodes."""
        records = self.records(selection)
        of_fold = records[records.fold == fold]
        lists = [self.store.counts(*pair) for pair in zip(of_fold.record, of_fold.evaluation, strict=True)]
        whole = len(lists) == len(self.seeds) and all(len(classes) for _, classes in lists)
        return lists if whole else []

    def samples(self, selection: Selection, fold: int | str, metric: Metric) -> np.ndarray:
        """A cell's value, then its bootstrap resamples (paired within a fold), float64 [1 + R]; NaN if not run."""
        if fold == MEAN:
            return np.asarray(np.mean([self.samples(selection, f, metric) for f in self.folds], 0))
        return _samples(self, selection, int(fold), metric)

    def run_ids(self, selection: Selection, fold: str) -> str:
        """Ids of the records behind a cell, joined by spaces."""
        records = self.records(selection)
        return " ".join(records[records.fold.isin(self.folds if fold == MEAN else [int(fold)])].folder)

    def missing_folds(self, selection: Selection) -> list[int]:
        """The folds for whose want no mean exists."""
        return [fold for fold in self.folds if np.isnan(self.samples(selection, fold, PAPER_METRIC)[0])]


def load(setting: Setting, results: Path | None = None, seeds: int | None = None) -> Scores:
    """What is on disk of a setting; `seeds`: how many, None: those that the full model has on every fold."""
    store = Store((results or io.places().results) / setting.name)
    file = store.root / "benchmark.json"
    if not file.exists():
        raise DPNetError(
            f"no results of {setting.benchmark} at {setting.preset} ({setting.name}/ is not in the results folder): "
            f"run `make reproduce-table3 BENCHMARK={setting.benchmark} PRESET={setting.preset}`"
        )
    lines = [line for run in sorted(store.root.glob("runs/*/run.json")) for line in _lines(run, store, setting)]
    frame = pd.DataFrame(lines, columns=COLUMNS).sort_values(["fold", "seed"], kind="stable", ignore_index=True)
    every = Scores(setting, frame, store, range(len(frame)), read_json(file))
    if seeds is None:
        full = every.records(every.of_row(FULL_MODEL))
        whole = {seed for seed, of_seed in full.groupby("seed").fold if {*every.folds} <= {*of_seed}}
        seeds = max(1, next(seed for seed in count() if seed not in whole))  # what is not run is said of one
    return replace(every, seeds=range(seeds))


def _lines(file: Path, store: Store, setting: Setting) -> Iterator[dict[str, Any]]:
    """A record's rows of the frame; none if it is not one of the setting's."""
    stored = read_json(file)
    try:
        at, fold, seed = setting.at(stored["recipe"]["diversity"]), stored["fold"], stored["seed"]
        if stored["kind"] == "Run":
            variant, shot = Variant(**stored["variant"]), 0
            record: Record = at.run(variant, fold, seed)
        else:
            variant, shot = None, stored["shot"]
            record = at.baselines(fold, seed, shot)
    except (KeyError, TypeError):  # of a version with other kinds or fields
        return
    if record.id == stored["id"]:
        for name in store.metrics(record)["evaluations"]:
            slug = variant.slug if variant else ""
            row = (fold, seed, slug, shot, at.recipe.diversity, file.parent.name, record, name)
            yield dict(zip(COLUMNS, row, strict=True))


def resampling(fold: int, lists: list[CountsOfSeed]) -> list[np.ndarray]:
    """How often each episode counts, for each seed: once, then in each resample, of the same images: [1 + R, E]."""
    counts, classes = (np.concatenate(part) for part in zip(*lists, strict=True))
    weights = np.concatenate([np.ones((1, len(classes))), draws(classes, queries(counts, classes), fold)])
    return np.split(weights, np.cumsum([len(own) for _, own in lists])[:-1], axis=1)


@lru_cache(4096)  # a report asks for the same cells many times
def _samples(scores: Scores, selection: Selection, fold: int, metric: Metric) -> np.ndarray:
    """The mean over seeds; with several, they are resampled too."""
    lists = scores.counts(selection, fold)
    if not lists:
        return np.full(1 + RESAMPLES, np.nan)
    pairs = zip(lists, resampling(fold, lists), strict=True)
    stacked = np.stack([bootstrap(*of_seed, metric, weights) for of_seed, weights in pairs])
    if len(stacked) > 1:
        drawn = np.random.default_rng(fold).integers(len(stacked), size=stacked[:, 1:].shape)
        stacked[:, 1:] = np.take_along_axis(stacked[:, 1:], drawn, 0)
    return np.asarray(stacked.mean(0))


def cell(samples: np.ndarray, name: str = "miou") -> dict[str, float]:
    """A value with its interval, two decimals."""
    low, high = interval(samples[1:])
    return {name: round(float(samples[0]), 2), "low": round(low, 2), "high": round(high, 2)}


def direction(difference: dict[str, float], theirs: float) -> str:
    """In words how a difference, with its interval, lies to zero, and to what the paper has."""
    if np.isnan(difference["difference"]):
        return "not run"
    ours = 1 if difference["low"] > 0 else -1 if difference["high"] < 0 else 0
    if not ours:
        return "undecided"
    if np.isnan(theirs) or not theirs:  # the paper has no direction there
        return "positive" if ours > 0 else "negative"
    return "same direction" if ours == np.sign(theirs) else "opposite direction"


def table(
    number: int,
    benchmark: str = "shapes",
    preset: str = "quick",
    results: str | Path | None = None,
    seeds: int | None = None,
) -> pd.DataFrame:
    """A table of the paper, ours beside it, from the runs in a results folder (None: the project's).

    Tidy: the columns that name the row, then fold (a number or "mean"), metric, miou, low, high (95 %), paper, delta,
    status, runs.
    """
    setting = presets.resolve(benchmark, preset)
    return rows(load(setting, Path(results) if results else None, seeds), experiments.get(f"table{number}"))


@cache
def rows(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """The tidy table of an experiment (see `table`); Tables 1 and 2 also say backbone and parameters."""
    papers, model, lines = paper.by_row(experiment.table, experiment.keys), {}, []
    if experiment.table in (1, 2):
        training = scores.setting.training
        network = DPNet(training.backbone, None, width=training.width, dilations=training.dilations)
        millions = round(sum(p.numel() for p in network.parameters()) / 1e6, 1)
        model = {"backbone": training.backbone, "params_m": millions}
    for row in experiment.rows:
        selection = scores.of_row(row)
        for fold, metric in product(scores.columns, _metrics(row)):
            line = {**row.key, **model, "fold": fold, "metric": metric}
            line |= cell(scores.samples(selection, fold, metric))
            compared = metric == (row.metric or experiment.metric)
            line["paper"] = papers.get((*row.key.values(), fold), np.nan) if compared else np.nan
            lines.append(line | {"delta": np.nan, "status": "", "runs": scores.run_ids(selection, fold)})
    return against_paper(pd.DataFrame(lines), scores.comparable(experiment))


def against_paper(tidy: pd.DataFrame, comparable: bool) -> pd.DataFrame:
    """The table with delta and status: whether the paper's value lies in our interval, where they are comparable."""
    compared = tidy.miou.notna() & tidy.paper.notna() & comparable
    conditions = [tidy.miou.isna(), ~compared, tidy.paper.between(tidy.low, tidy.high)]
    status = np.select(conditions, ["not run", "not comparable", "reproduced"], "differs")
    return tidy.assign(delta=(tidy.miou - tidy.paper).round(2).where(compared), status=status)


@cache
def effects(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """What the table is meant to show, as sums over the same episodes; then our best rows over no training; tidy."""
    papers, lines = paper.by_row(experiment.table, experiment.keys), []
    for effect in experiment.effects:
        parts = [(weight, experiment.rows[i]) for i, weight in effect.weights.items()]
        keys = [(weight, row.key.values()) for weight, row in parts]
        theirs = {f: round(sum(w * papers.get((*key, f), np.nan) for w, key in keys), 1) for f in scores.columns}
        if effect.stated:
            theirs[MEAN] = effect.stated["coco" if scores.setting.benchmark == "coco" else "pascal"]
        # A claim without a number is one that the effect is positive.
        unstated, metric = 1.0 if effect.claim else np.nan, parts[0][1].metric or experiment.metric
        selections = [(weight, scores.of_row(row)) for weight, row in parts]
        for line in _sums(scores, selections, _metrics(parts[0][1])):
            stated = theirs[line["fold"]] if line["metric"] == metric else np.nan
            status = direction(line, unstated if np.isnan(stated) else stated)
            lines.append({"effect": effect.name, **line, "paper": stated, "status": status})
    for row in experiment.controlled_rows:
        name, prototype = f"{row.label} over {BASELINES['prototype']}", scores.baseline("prototype", row)
        for line in _sums(scores, [(1.0, scores.of_row(row)), (-1.0, prototype)], _metrics(row)):
            lines.append({"effect": name, **line, "paper": np.nan, "status": direction(line, np.nan)})
    columns = ["effect", "fold", "metric", "difference", "low", "high", "paper", "status", "runs"]
    return pd.DataFrame(lines, columns=columns)


def _sums(
    scores: Scores, parts: list[tuple[float, Selection]], metrics: tuple[Metric, ...]
) -> Iterator[dict[str, Any]]:
    """A weighted sum in each cell: 1 and -1 give a paired difference."""
    for fold, metric in product(scores.columns, metrics):
        whole = sum((w * scores.samples(selection, fold, metric) for w, selection in parts), np.zeros(1))
        runs = " - ".join(scores.run_ids(selection, fold) for _, selection in parts)
        yield {"fold": fold, "metric": metric, **cell(whole, "difference"), "runs": runs}


@cache
def baselines(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """What stands below the table: controlled rows with right and wrong supports, and what is not trained; tidy."""
    selections: dict[str, tuple[Selection, tuple[Metric, ...]]] = {}
    controlled = experiment.controlled_rows
    for context in dict.fromkeys((row.shot, row.diversity) for row in controlled):
        alike = [row for row in controlled if (row.shot, row.diversity) == context]
        for row in alike:
            selections[row.label] = scores.of_row(row), _metrics(row)
            selections[f"{row.label}, wrong support"] = scores.of_row(row, "wrong"), _metrics(row)
        for name, label in BASELINES.items():
            selections[label + suffix(experiment, alike[0])] = scores.baseline(name, alike[0]), METRICS
    return pd.DataFrame(
        {"yardstick": label, "fold": fold, "metric": metric, **cell(scores.samples(selection, fold, metric))}
        for label, (selection, metrics) in selections.items()
        for fold, metric in product(scores.columns, metrics)
    )


def suffix(experiment: Experiment, row: Row) -> str:
    """What tells a row's baselines from those of other shots or diversities in the same table."""
    if len({(r.shot, r.diversity) for r in experiment.controlled_rows}) == 1:
        return ""
    return f", {row.shot} shot" if row.diversity is None else f", diversity {row.diversity:g}"


def of_metric(tidy: pd.DataFrame, experiment: Experiment, metric: Metric | None = None) -> pd.DataFrame:
    """The rows of one metric (None: the paper's); where each row of the table has its own, all."""
    own = any(row.metric for row in experiment.rows)
    return tidy if own else tidy[tidy.metric == (metric or experiment.metric)]


def _metrics(row: Row) -> tuple[Metric, ...]:
    return METRICS if row.metric is None else (row.metric,)
