"""The paper's tables beside ours: records on disk -> one tidy frame -> values with 95 % intervals -> tidy tables."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import count, product, takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from dpnet import io
from dpnet.companion import estimates, experiments, paper, presets
from dpnet.companion.estimates import ENOUGH, RESAMPLES, TOO_FEW, CountsOfSeed, Estimate, cell, direction
from dpnet.companion.experiments import Experiment, Row
from dpnet.companion.presets import Setting
from dpnet.companion.store import Record, Store
from dpnet.config import Variant
from dpnet.io import DPNetError, read_json
from dpnet.metrics import METRICS, Metric, bootstrap
from dpnet.model import DPNet

MEAN = "mean"
FULL_MODEL = Row({}, "the full model")
BASELINES = {
    "prototype": "training-free prototype",
    "prototype-wrong": "training-free prototype, wrong support",
    "objects": "all labelled objects",
    "ceiling": "ground truth at feature resolution",
}
SHOT = re.compile(r"-(\d+)shot-")  # in the id of an evaluation
COLUMNS = ["fold", "seed", "variant", "shot", "diversity", "folder", "record", "evaluation"]
Selection = tuple[tuple[str, Any], ...]  # columns of the frame, and the values that are selected
Sum = Sequence[tuple[float, Selection]]  # of rows, with their weights


@dataclass(frozen=True, eq=False)
class Scores:
    """One benchmark's scores at one preset, from `load`."""

    setting: Setting
    frame: pd.DataFrame  # a row per record and evaluation (or baseline, of variant ""), sorted by fold and seed
    store: Store  # where their counts are
    seeds: range  # those that are read, where they are there: each is another training
    about: dict[str, Any]  # what `benchmark.json` says: class names, folds, tested classes, numbers of images
    showing: Literal["", "one", "several"] = ""  # only queries with so many labelled classes
    lacking: bool = False  # only queries that lack a class of their fold, and so have a wrong support

    @property
    def folds(self) -> list[int]:
        """The folds that the benchmark tests."""
        return [fold for fold, classes in enumerate(self.about["tested"]) if classes]

    @property
    def columns(self) -> list[str]:
        """The folds, then their mean."""
        return [*map(str, self.folds), MEAN]

    def comparable(self, experiment: Experiment) -> bool:
        """Whether absolute values may be compared with the paper's: its data, at its own schedule."""
        benchmark = "coco" if experiment.table == 2 else "pascal"
        return (self.setting.benchmark, self.setting.preset) == (benchmark, "paper")

    def of_row(self, row: Row, support: Literal["right", "wrong"] = "right") -> Selection:
        """What selects the records behind a table's row."""
        evaluation = row.evaluation(self.setting.episodes, support).id
        of_variant = ("variant", row.variant.slug), ("evaluation", evaluation), ("shot", row.shot)
        return *of_variant, ("diversity", self._diversity(row))

    def baseline(self, name: str, row: Row = FULL_MODEL) -> Selection:
        """What selects a baseline's records on the same episodes as a row."""
        return ("evaluation", name), ("shot", row.shot), ("diversity", self._diversity(row))

    def _diversity(self, row: Row) -> float:
        return self.setting.at(row.diversity).recipe.diversity

    def records(self, selection: Selection) -> pd.DataFrame:
        """The selected rows of the frame, of the seeds that are read."""
        same = np.logical_and.reduce([self.frame[column] == value for column, value in selection])
        return self.frame[same & self.frame.seed.isin(self.seeds)]

    @lru_cache(2048)  # noqa: B019 (there are few `Scores`, each needed to the end)
    def counts(self, selection: Selection, fold: int) -> list[CountsOfSeed]:
        """Counts and classes of a fold, for each seed, up to the first that is missing or has no episodes."""
        records = self.records(selection)
        of_fold = records[records.fold == fold].set_index("seed")[["record", "evaluation"]].T.to_dict("list")
        seeds = list(takewhile(of_fold.__contains__, self.seeds))
        lists = [self.store.counts(*of_fold[seed]) for seed in seeds]
        if self.showing or self.lacking:
            asked = [self._asked(fold, seed, dict(selection)) for seed in seeds]
            lists = [(counts[a], classes[a]) for (counts, classes), a in zip(lists, asked, strict=True)]
        return list(takewhile(lambda of_seed: len(of_seed[1]) > 0, lists))

    def _asked(self, fold: int, seed: int, selection: dict[str, Any]) -> np.ndarray:
        """Which episodes of a selection are read: see `showing` and `lacking`."""
        wrong, asked = "wrong" in selection["evaluation"], []
        for _, query, _, other, _ in self.store.episodes(fold, seed, selection["shot"], self.setting.episodes):
            if other or not wrong:  # with a wrong support there are no others
                right = not self.showing or (self.about["shows"][query] > 1) == (self.showing == "several")
                asked.append(right and bool(other or not self.lacking))
        return np.array(asked, bool)

    def trainings(self, parts: Sum, fold: int | str) -> int:
        """How many seeds all parts of a sum have, for the mean on every fold."""
        return min(len(self.counts(selection, f)) for _, selection in parts for f in self._of(fold))

    def samples(self, parts: Sum, fold: int | str, metric: Metric) -> np.ndarray:
        """A cell or a weighted sum in each training: its value, then resamples of the images, float64 [S, 1 + R].

        Images are drawn alike for all parts and seeds, so that 1 and -1 give a paired difference.
        """
        trainings = self.trainings(parts, fold)
        of_folds = [
            [w * _samples(self, selection, f, trainings, metric) for w, selection in parts] for f in self._of(fold)
        ]
        return np.asarray(np.sum(of_folds, 1).mean(0))

    def estimate(self, parts: Sum, fold: int | str, metric: Metric) -> Estimate:
        """`samples` as a mean over trainings with its interval."""
        return estimates.estimate(self.samples(parts, fold, metric))

    def cells(self, parts: Sum, metrics: Sequence[Metric], name: str = "miou") -> Iterator[dict[str, Any]]:
        """`samples` on each fold and in their mean, as lines of a tidy table that call the value by a name."""
        for fold, metric in product(self.columns, metrics):
            yield {"fold": fold, "metric": metric, **cell(self.samples(parts, fold, metric), name)}

    def runs(self, parts: Sum, fold: int | str) -> str:
        """Ids of the records behind `samples`, joined by spaces; a minus between the parts."""
        seeds, texts = self.seeds[: self.trainings(parts, fold)], []
        for _, selection in parts:
            records = self.records(selection)
            texts.append(" ".join(records[records.fold.isin(self._of(fold)) & records.seed.isin(seeds)].folder))
        return " - ".join(texts)

    def _of(self, fold: int | str) -> list[int]:
        return self.folds if fold == MEAN else [int(fold)]

    def missing_folds(self, selection: Selection) -> list[int]:
        """The folds for whose want no mean exists."""
        return [fold for fold in self.folds if not self.counts(selection, fold)]


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


def _lines(file: Path, store: Store, setting: Setting) -> Iterator[tuple[Any, ...]]:
    """A record's rows of the frame; none if it is not one of the setting's."""
    stored = read_json(file)
    try:
        at, fold, seed = setting.at(stored["recipe"]["diversity"]), stored["fold"], stored["seed"]
        variant = Variant(**stored["variant"]) if stored["kind"] == "Run" else None
        record: Record = at.run(variant, fold, seed) if variant else at.baselines(fold, seed, stored["shot"])
    except (KeyError, TypeError):  # of a version with other kinds or fields
        return
    if record.id == stored["id"]:
        slug = variant.slug if variant else ""
        for name in store.metrics(record)["evaluations"]:
            shot = int(SHOT.findall(name)[0]) if variant else stored["shot"]
            yield fold, seed, slug, shot, at.recipe.diversity, file.parent.name, record, name


@cache
def shared(scores: Scores, experiment: Experiment) -> Scores:
    """The scores with those seeds alone that all rows of an experiment have, so that its rows can be compared."""
    numbers = {scores.trainings([(1.0, scores.of_row(row))], MEAN) for row in experiment.rows} - {0}
    few = min(numbers, default=len(scores.seeds))  # a row that is not run on every fold takes none from the others
    return scores if few == len(scores.seeds) else replace(scores, seeds=range(few))


@cache
def with_control(scores: Scores, experiment: Experiment) -> Scores:
    """`shared`, on the queries that have a wrong support; on all where a fold tests a single class, so none has."""
    return replace(shared(scores, experiment), lacking=all(len(of) != 1 for of in scores.about["tested"]))


@lru_cache(1024)  # a report asks for the same cells many times
def _samples(scores: Scores, selection: Selection, fold: int, trainings: int, metric: Metric) -> np.ndarray:
    lists = scores.counts(selection, fold)[:trainings]
    if not lists:
        return np.empty((0, 1 + RESAMPLES))
    query, classes, weights = estimates.resampling(fold, lists)
    of_images = [estimates.by_image(counts, own, len(classes)) for (counts, _), own in zip(lists, query, strict=True)]
    return np.stack([bootstrap(counts, classes, metric, weights) for counts in of_images])


def table(
    number: int,
    benchmark: str = "shapes",
    preset: str = "quick",
    results: str | Path | None = None,
    seeds: int | None = None,
) -> pd.DataFrame:
    """A table of the paper, ours beside it, from the runs in a results folder (None: the project's).

    Tidy: the columns that name the row, then fold (a number or "mean"), metric, miou (the mean over trainings), low,
    high (95 %), trainings, by_training, paper, delta, status, runs; `seeds`: how many are read, None: all.
    """
    setting = presets.resolve(benchmark, preset)
    return rows(load(setting, Path(results) if results else None, seeds), experiments.get(f"table{number}"))


@cache
def rows(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """The tidy table of an experiment (see `table`); Tables 1 and 2 also say backbone and parameters."""
    papers, model, lines = paper.by_row(experiment.table, experiment.keys), {}, []
    scores = shared(scores, experiment)
    if experiment.table in (1, 2):
        training = scores.setting.training
        network = DPNet(training.backbone, None, width=training.width, dilations=training.dilations)
        millions = round(sum(p.numel() for p in network.parameters()) / 1e6, 1)
        model = {"backbone": training.backbone, "params_m": millions}
    for row in experiment.rows:
        parts = [(1.0, scores.of_row(row))]
        for line in scores.cells(parts, row.metrics):
            fold, compared = line["fold"], line["metric"] == (row.metric or experiment.metric)
            theirs = papers.get((*row.key.values(), fold), np.nan) if compared else np.nan
            more = {"paper": theirs, "delta": np.nan, "status": "", "runs": scores.runs(parts, fold)}
            lines.append({**row.key, **model, **line, **more})
    return against_paper(pd.DataFrame(lines), scores.comparable(experiment))


def against_paper(tidy: pd.DataFrame, comparable: bool) -> pd.DataFrame:
    """The table with delta and status: whether the paper's value lies in our interval, where they are comparable."""
    compared = tidy.miou.notna() & tidy.paper.notna() & comparable
    conditions = [tidy.miou.isna(), ~compared, tidy.trainings < ENOUGH, tidy.paper.between(tidy.low, tidy.high)]
    status = np.select(conditions, ["not run", "not comparable", TOO_FEW, "reproduced"], "differs")
    return tidy.assign(delta=(tidy.miou - tidy.paper).round(2).where(compared), status=status)


@cache
def effects(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """What the table is meant to show, as sums over the same episodes; then our best rows over no training; tidy."""
    papers, lines, scores = paper.by_row(experiment.table, experiment.keys), [], shared(scores, experiment)

    def add(name: str, parts: Sum, like: Row, theirs: dict[str, float], unstated: float) -> None:
        """A sum of rows like one, beside what the paper has by fold, or else anywhere."""
        for line in scores.cells(parts, like.metrics, "difference"):
            fold, metric = line["fold"], line["metric"]
            stated = theirs.get(fold, np.nan) if metric == (like.metric or experiment.metric) else np.nan
            line["status"] = direction(line, unstated if np.isnan(stated) else stated)
            if line["status"] == "undecided" and abs(stated) > 0:
                line["needed"] = scores.estimate(parts, fold, metric).needed(stated)
            lines.append({"effect": name, **line, "paper": stated, "runs": scores.runs(parts, fold)})

    for effect in experiment.effects:
        rows = [(weight, experiment.rows[i]) for i, weight in effect.weights.items()]
        keys = [(weight, row.key.values()) for weight, row in rows]
        theirs = {f: round(sum(w * papers.get((*key, f), np.nan) for w, key in keys), 1) for f in scores.columns}
        if effect.stated:
            theirs[MEAN] = effect.stated["coco" if scores.setting.benchmark == "coco" else "pascal"]
        unstated = 1.0 if effect.claim else np.nan  # a claim without a number is one that the effect is positive
        add(effect.name, [(weight, scores.of_row(row)) for weight, row in rows], rows[0][1], theirs, unstated)
    for row in experiment.controlled_rows:
        over = [(1.0, scores.of_row(row)), (-1.0, scores.baseline("prototype", row))]
        add(f"{row.label} over {BASELINES['prototype']}", over, row, {}, np.nan)
    columns = "effect fold metric difference low high trainings by_training paper status needed runs"
    return pd.DataFrame(lines, columns=columns.split())


@cache
def baselines(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """What stands below the table: controlled rows with right and wrong supports, and what is not trained; tidy.

    All lines are of the same queries (see `with_control`).
    """
    scores = with_control(scores, experiment)
    selections: dict[str, tuple[Selection, tuple[Metric, ...]]] = {}
    controlled = experiment.controlled_rows
    for context in dict.fromkeys((row.shot, row.diversity) for row in controlled):
        alike = [row for row in controlled if (row.shot, row.diversity) == context]
        for row in alike:
            selections[row.label] = scores.of_row(row), row.metrics
            selections[f"{row.label}, wrong support"] = scores.of_row(row, "wrong"), row.metrics
        for name, label in BASELINES.items():
            selections[label + suffix(experiment, alike[0])] = scores.baseline(name, alike[0]), METRICS
    return pd.DataFrame(
        {"yardstick": label, **line}
        for label, (selection, metrics) in selections.items()
        for line in scores.cells([(1.0, selection)], metrics)
    )


def suffix(experiment: Experiment, row: Row) -> str:
    """What tells a row's baselines from those of other shots or diversities in the same table."""
    if len({(r.shot, r.diversity) for r in experiment.controlled_rows}) == 1:
        return ""
    return f", {row.shot} shot" if row.diversity is None else f", diversity {row.diversity:g}"


def of_metric(tidy: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """The rows under the paper's metric; where each row of the table has its own, all."""
    return tidy if any(row.metric for row in experiment.rows) else tidy[tidy.metric == experiment.metric]
