"""Counts on disk -> the paper's tables beside ours, with intervals; nothing here trains or needs the data."""

import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dpnet import experiments, paper, paths, presets
from dpnet.config import Evaluation, Run, Variant, Yardsticks
from dpnet.errors import DPNetError
from dpnet.experiments import Experiment, Row
from dpnet.metrics import METRICS, Metric, bootstrap, interval, mean_iou
from dpnet.store import Store, read_json

PAPER_METRIC: Metric = "canet"  # of the ablations, Tables 3-6
MEAN = "mean"
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD, momentum 0.9,"}
YARDSTICKS = {
    "prototype": "training-free prototype",
    "prototype-wrong": "training-free prototype, wrong support",
    "objects": "all labelled objects",
    "ceiling": "ground truth at feature resolution",
}


@dataclass(frozen=True)
class Scored:
    """What is scored: an evaluation of a variant, or (variant None) a yardstick by its name."""

    variant: Variant | None
    evaluation: str


class Samples(NamedTuple):
    """A value and its bootstrap resamples [R]; those of one fold and seed draw the same episodes."""

    value: float
    resamples: np.ndarray

    def minus(self, other: "Samples") -> "Samples":
        """The paired difference."""
        return Samples(self.value - other.value, self.resamples - other.resamples)


class Reader:
    """Reads one benchmark's results at one preset.

    Arguments:
        benchmark: its name.
        preset: its sizes.
        results: the folder of all results; None: the project's.
        seeds: how many, from 0.

    Raises:
        DPNetError: nothing is there.
    """

    def __init__(self, benchmark: str, preset: str, results: str | Path | None = None, seeds: int = 1) -> None:
        self.sizes = presets.get(benchmark, preset)
        self.benchmark, self.preset, self.seeds = benchmark, preset, range(seeds)
        self.store = Store(Path(results or paths.results()) / f"{benchmark}-{preset}")
        self._cache: dict[tuple[Scored, int | str, Metric], Samples | None] = {}

    @cached_property
    def about(self) -> dict[str, Any]:
        """What `benchmark.json` says: class names, folds, tested classes, numbers of images."""
        file = self.store.root / "benchmark.json"
        if not file.exists():
            raise DPNetError(
                f"no results of {self.benchmark} at {self.preset} ({file.parent.name}/ is not in the results "
                f"folder): run `make reproduce-table3 BENCHMARK={self.benchmark} PRESET={self.preset}`"
            )
        return read_json(file)

    @property
    def folds(self) -> list[int]:
        """The folds that the benchmark tests."""
        return [f for f, classes in enumerate(self.about["tested"]) if classes]

    @property
    def columns(self) -> list[int | str]:
        """The folds, then their mean."""
        return [*self.folds, MEAN]

    @property
    def comparable(self) -> bool:
        """Whether absolute values may be held against the paper's: its data, at its own schedule."""
        return self.benchmark in ("pascal", "coco") and self.preset == "paper"

    def thing(self, scored: Scored, fold: int, seed: int) -> Run | Yardsticks:
        """Whose counts they are."""
        if scored.variant is None:
            return experiments.yardsticks(self.benchmark, self.preset, fold, seed)
        return experiments.run(scored.variant, self.benchmark, self.preset, fold, seed)

    def of_row(self, row: Row, support: Literal["right", "wrong"] = "right") -> Scored:
        """What a table's row is, with right or wrong supports."""
        return Scored(row.variant, row.evaluation(self.sizes.episodes, support).id)

    def samples(self, scored: Scored, fold: int | str, metric: Metric) -> Samples | None:
        """Value and resamples of a cell.

        Arguments:
            scored: what.
            fold: a number, or "mean" over all folds of the benchmark.
            metric: "canet" or "pfenet".

        Returns:
            None where a run, or for the mean any run, is missing.
        """
        key = (scored, fold, metric)
        if key not in self._cache:
            self._cache[key] = self._mean(scored, metric) if fold == MEAN else self._fold(scored, int(fold), metric)
        return self._cache[key]

    def _mean(self, scored: Scored, metric: Metric) -> Samples | None:
        parts = [p for p in (self.samples(scored, f, metric) for f in self.folds) if p is not None]
        if len(parts) < len(self.folds):
            return None
        return Samples(float(np.mean([p.value for p in parts])), np.mean([p.resamples for p in parts], 0))

    def _fold(self, scored: Scored, fold: int, metric: Metric) -> Samples | None:
        values, resamples = [], []
        for seed in self.seeds:
            thing = self.thing(scored, fold, seed)
            if self.store.missing(thing, [scored.evaluation]):
                return None
            counts, classes = self.store.counts(thing, scored.evaluation)
            if not len(classes):
                return None
            values.append(mean_iou(counts, classes, metric))
            resamples.append(bootstrap(counts, classes, metric, seed=1000 * fold + seed))
        stacked = np.stack(resamples)
        if len(stacked) > 1:  # several seeds: they are resampled too
            drawn = np.random.default_rng(fold).integers(len(stacked), size=stacked.shape)
            stacked = np.take_along_axis(stacked, drawn, 0)
        return Samples(float(np.mean(values)), stacked.mean(0))

    def run_ids(self, scored: Scored, fold: int | str) -> str:
        """Ids of the runs behind a cell, joined by spaces."""
        folds = self.folds if fold == MEAN else [int(fold)]
        return " ".join(self.thing(scored, f, s).id for f in folds for s in self.seeds)

    def missing_folds(self, scored: Scored) -> list[int]:
        """The folds that keep a mean from existing."""
        return [f for f in self.folds if self.samples(scored, f, PAPER_METRIC) is None]


def table(
    number: int,
    benchmark: str = "shapes",
    preset: str = "quick",
    results: str | Path | None = None,
    seeds: int = 1,
) -> pd.DataFrame:
    """A table of the paper, ours beside it, from the runs on disk.

    Arguments:
        number: of the paper's table.
        benchmark: its name.
        preset: its sizes.
        results: the folder of all results; None: the project's.
        seeds: how many, from 0.

    Returns:
        tidy: the columns that name the row, then fold (a number or "mean"), metric, miou, low, high (95 %),
        paper, delta, status, runs.

    Raises:
        DPNetError: unknown names, or nothing is there.
    """
    return rows(Reader(benchmark, preset, results, seeds), experiments.get(f"table{number}"))


def rows(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """The tidy table of an experiment (see `table`)."""
    printed = paper.table(experiment.number).set_index(experiment.keys)
    found = []
    for row in experiment.rows:
        for fold in reader.columns:
            for metric in METRICS:
                column = MEAN if fold == MEAN else f"fold{fold}"
                theirs = printed.loc[tuple(row.key.values()), column] if metric == PAPER_METRIC else np.nan
                scored = reader.of_row(row)
                cell = _cell(reader.samples(scored, fold, metric))
                found.append(
                    {
                        **row.key,
                        "fold": str(fold),
                        "metric": metric,
                        **cell,
                        "paper": theirs,
                        **_against_paper(cell, theirs, reader.comparable),
                        "runs": reader.run_ids(scored, fold),
                    }
                )
    return pd.DataFrame(found)


def effects(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """Paired differences: the same episodes, the same cohort.

    Arguments:
        reader: the results.
        experiment: its effects, and its best row against the training-free prototype.

    Returns:
        tidy: effect, fold, metric, difference, low, high (95 %), paper, status, runs. The paper's value is
        compared in direction only.
    """
    printed = paper.table(experiment.number).set_index(experiment.keys)
    found = []
    best = experiment.rows[experiment.best]
    for name, of, over in [
        *((e.name, experiment.rows[e.of], experiment.rows[e.over]) for e in experiment.effects),
        (f"{best.label} over {YARDSTICKS['prototype']}", best, None),
    ]:
        a = reader.of_row(of)
        b = reader.of_row(over) if over else Scored(None, "prototype")
        for fold in reader.columns:
            for metric in METRICS:
                column = MEAN if fold == MEAN else f"fold{fold}"
                theirs = np.nan
                if over and metric == PAPER_METRIC:
                    first, second = (printed.loc[tuple(r.key.values()), column] for r in (of, over))
                    theirs = round(first - second, 1)
                one, other = reader.samples(a, fold, metric), reader.samples(b, fold, metric)
                cell = _cell(one.minus(other) if one and other else None)
                cell["difference"] = cell.pop("miou")
                found.append(
                    {
                        "effect": name,
                        "fold": str(fold),
                        "metric": metric,
                        **{k: cell[k] for k in ("difference", "low", "high")},
                        "paper": theirs,
                        "status": _direction(cell, theirs),
                        "runs": f"{reader.run_ids(a, fold)} - {reader.run_ids(b, fold)}",
                    }
                )
    return pd.DataFrame(found)


def yardsticks(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """What stands below the table: training-free, wrong support, all labelled objects, the ceiling.

    Arguments:
        reader: the results.
        experiment: its best row is repeated, with right and with wrong supports.

    Returns:
        tidy: yardstick, fold, metric, miou, low, high.
    """
    best = experiment.rows[experiment.best]
    lines = {
        best.label: reader.of_row(best),
        f"{best.label}, wrong support": reader.of_row(best, "wrong"),
        **{label: Scored(None, name) for name, label in YARDSTICKS.items()},
    }
    return pd.DataFrame(
        {
            "yardstick": label,
            "fold": str(fold),
            "metric": metric,
            **_cell(reader.samples(scored, fold, metric)),
        }
        for label, scored in lines.items()
        for fold in reader.columns
        for metric in METRICS
    )


def support_verdict(reader: Reader, experiment: Experiment) -> str:
    """In words: does the model read its support, or does it find salient things?"""
    best = experiment.rows[experiment.best]
    pairs = {
        fold: (
            reader.samples(reader.of_row(best), fold, "pfenet"),
            reader.samples(reader.of_row(best, "wrong"), fold, "pfenet"),
        )
        for fold in reader.columns
    }
    right, wrong = pairs.pop(MEAN)
    if right is None or wrong is None:
        return "Wrong-support control: not run on every fold."
    said = (
        f"With a wrong support the {best.label} model scores {wrong.value:.1f}, with the right one "
        f"{right.value:.1f} (PFENet metric, mean of folds)"
    )
    if right.value < 1:
        return f"{said}: it has learned nothing yet."
    shares = {f"fold {fold}": w.value / max(r.value, 1e-9) for fold, (r, w) in pairs.items() if r and w}
    near = [f"{fold} ({share:.0%})" for fold, share in shares.items() if share >= 0.5]
    if not near:
        return (
            f"{said}, {wrong.value / right.value:.0%} of it, and less than half on every fold: it reads its support."
        )
    return (
        f"{said}, {wrong.value / right.value:.0%} of it. On {', '.join(near)} the wrong support scores half of the "
        "right one or more: there it mostly finds salient things and ignores its support, whatever its mIoU."
    )


def missing(reader: Reader, experiment: Experiment) -> list[str]:
    """A sentence for each row whose mean does not exist, naming the folds."""
    found = []
    for row in experiment.rows:
        folds = reader.missing_folds(reader.of_row(row))
        if folds:
            listed = ", ".join(map(str, folds))
            found.append(f"{row.label}: no mean, since fold {listed} is not run (or its run is incomplete).")
    return found


def protocol(reader: Reader) -> str:
    """The setting that stands beside every number."""
    t, about = reader.sizes.training, reader.about
    rendered = reader.benchmark == "shapes"
    recipe = f", diversity {reader.sizes.recipe.diversity:g}" if rendered else ""
    shown = " (each shows the classes of one fold only)" if rendered else ""
    decay = f"polynomial decay (power {t.decay:g})" if t.decay else "fixed"
    evaluation = Evaluation(reader.sizes.episodes)
    novel = {"drop": "left out", "background": "kept, as background"}[t.novel]
    return (
        f"{reader.benchmark}{recipe}: {about['images']['train']} training and {about['images']['val']} test "
        f"images{shown}, folds {', '.join(map(str, reader.folds))}; training images with novel classes {novel}. "
        f"Backbone {t.backbone}, ImageNet weights, frozen; input {t.size}² squashed; head width {t.width}; "
        f"{OPTIMIZERS[t.optimizer]} {t.learning_rate:g}, {decay}, {t.steps:,} steps of {t.batch} episodes, "
        f"augmentation: {t.augment}, {t.precision}; last checkpoint. {evaluation.episodes} episodes per fold and "
        f"seed, {evaluation.shot} shot, class first; seeds: {len(reader.seeds)}; beta {Variant().beta:g} in "
        f"training, {evaluation.beta:g} in testing; scale 1; scored at each query's own size. Intervals: 95 %, "
        "bootstrap over episodes within classes" + (" and over seeds." if len(reader.seeds) > 1 else ".")
    )


def beside(reader: Reader, experiment: Experiment, metric: Metric = PAPER_METRIC) -> pd.DataFrame:
    """The table as the paper prints it, the paper's numbers to the right; "—" where nothing was run.

    Arguments:
        reader: the results.
        experiment: the table.
        metric: which of both; the paper's ablations use "canet", and have no numbers for the other.

    Returns:
        strings, one decimal; the mean with its interval.
    """
    tidy = rows(reader, experiment)
    tidy = tidy[tidy.metric == metric]
    ours = wide(tidy, experiment.keys, metric, intervals=(MEAN,))
    printed = paper.table(experiment.number)
    theirs = printed[[c for c in printed.columns if c not in experiment.keys]]
    for column in theirs if metric == PAPER_METRIC else ():
        ours[f"paper {column.replace('fold', '')}"] = [f"{v:.1f}" for v in theirs[column]]
    return ours.rename(columns={k: k.upper() for k in experiment.keys})


def wide(
    tidy: pd.DataFrame,
    keys: list[str],
    metric: Metric = PAPER_METRIC,
    intervals: tuple[str, ...] | None = None,
) -> pd.DataFrame:
    """A tidy table with a column per fold.

    Arguments:
        tidy: from `rows`, `effects` or `yardsticks`.
        keys: the columns that name a row.
        metric: which of both.
        intervals: folds shown with their interval; None: all.

    Returns:
        strings with one decimal; "—" where nothing was run.
    """
    value = "difference" if "difference" in tidy else "miou"
    chosen = tidy[tidy.metric == metric]

    def text(number: float, low: float, high: float, fold: str) -> str:
        if np.isnan(number):
            return "—"
        bounds = f" [{low:.1f}, {high:.1f}]" if intervals is None or fold in intervals else ""
        return (f"{number:+.1f}" if value == "difference" else f"{number:.1f}") + bounds

    shown: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in chosen.to_dict("records"):
        name = "mean" if row["fold"] == MEAN else f"fold {row['fold']}"
        line = shown.setdefault(tuple(row[k] for k in keys), {})
        line[name] = text(row[value], row["low"], row["high"], row["fold"])
    return pd.DataFrame([dict(zip(keys, key, strict=True)) | line for key, line in shown.items()])


def _cell(samples: Samples | None) -> dict[str, float]:
    if samples is None:
        return {"miou": np.nan, "low": np.nan, "high": np.nan}
    low, high = interval(samples.resamples)
    return {"miou": round(samples.value, 2), "low": round(low, 2), "high": round(high, 2)}


def _against_paper(cell: dict[str, float], theirs: float, comparable: bool) -> dict[str, Any]:
    if np.isnan(cell["miou"]):
        return {"delta": np.nan, "status": "not run"}
    if not comparable or np.isnan(theirs):
        return {"delta": np.nan, "status": "not comparable"}
    inside = cell["low"] <= theirs <= cell["high"]
    return {"delta": round(cell["miou"] - theirs, 2), "status": "reproduced" if inside else "differs"}


def _direction(cell: dict[str, float], theirs: float) -> str:
    if np.isnan(cell["difference"]):
        return "not run"
    ours = 1 if cell["low"] > 0 else -1 if cell["high"] < 0 else 0
    if np.isnan(theirs):
        return {1: "positive", -1: "negative", 0: "undecided"}[ours]
    if not ours:
        return "undecided"
    return "same direction" if ours == np.sign(theirs) else "opposite direction"


def scores(store: Store, runs: list[Run]) -> pd.DataFrame:
    """What was measured of some runs, both metrics, one decimal: columns variant, evaluation, canet, pfenet."""
    return pd.DataFrame(
        {
            "variant": run.variant.slug,
            "evaluation": name,
            **{m: "—" if found[m] is None else round(found[m], 1) for m in METRICS},
        }
        for run in runs
        for name, found in sorted(store.metrics(run)["evaluations"].items())
    )


def as_text(reader: Reader, experiment: Experiment) -> str:
    """A table for the terminal: ours beside the paper's, effects, yardsticks, protocol."""
    parts = [
        f"Table {experiment.number}. {experiment.title}: mIoU in %, CANet metric; ours, then the paper's "
        "(PASCAL-5i, ResNet-50)",
        beside(reader, experiment).to_string(index=False),
        "Paired effects (points, 95 % interval)",
        wide(effects(reader, experiment), ["effect"]).to_string(index=False),
        "Yardsticks, CANet metric",
        wide(yardsticks(reader, experiment), ["yardstick"], intervals=()).to_string(index=False),
        support_verdict(reader, experiment),
        *missing(reader, experiment),
        textwrap.fill(f"Protocol: {protocol(reader)}", 110),
    ]
    if not reader.comparable:
        parts.append("Not the paper's setting: compare directions, not values.")
    return "\n\n".join(parts)


def last_losses(store: Store, runs: list[Run]) -> pd.DataFrame:
    """The last point of some runs' loss curves: columns variant, step, L_seg, L_aux, L_dis."""
    last = [store.history(run)[-1] for run in runs]
    table = pd.DataFrame(last, columns=["step", "L_seg", "L_aux", "L_dis"]).round(2)
    table.insert(0, "variant", [run.variant.slug for run in runs])
    return table.astype({"step": int})


def effects_in_words(reader: Reader, experiment: Experiment) -> str:
    """What the paired effects allow to say of the mean over folds: a sentence each."""
    found = effects(reader, experiment).query(f"fold == '{MEAN}' and metric == '{PAPER_METRIC}'")
    words = {
        "same direction": "an effect in the paper's direction",
        "opposite direction": "an effect against the paper's direction",
        "undecided": "undecided: the interval contains zero",
        "positive": "better",
        "negative": "worse",
    }
    lines = []
    for row in found.to_dict("records"):
        if row["status"] == "not run":
            lines.append(f"{row['effect']}: not run.")
            continue
        theirs = "" if np.isnan(row["paper"]) else f"; the paper has {row['paper']:+.1f}"
        bounds = f"{row['difference']:+.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        lines.append(f"{row['effect']}: {bounds} points, {words[row['status']]}{theirs}.")
    return "\n".join(lines)


# What is written beside an executed notebook: suffix of the CSV's name -> what makes it.
TABLES = {"": rows, "_effects": effects, "_yardsticks": yardsticks}
