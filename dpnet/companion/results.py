"""The paper's tables beside ours, with intervals, from the scores on disk; nothing here trains or needs the data."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpnet.companion import details, experiments, paper, presets
from dpnet.companion.experiments import Effect, Experiment, Row
from dpnet.companion.scores import MEAN, Scores, cell, combined, direction, load, once
from dpnet.metrics import METRICS, Metric

BASELINES = {
    "prototype": "training-free prototype",
    "prototype-wrong": "training-free prototype, wrong support",
    "objects": "all labelled objects",
    "ceiling": "ground truth at feature resolution",
}

Parts = list[tuple[float, pd.DataFrame]]  # of a sum: a weight, and the records behind a row


def table(
    number: int,
    benchmark: str = "shapes",
    preset: str = "quick",
    results: str | Path | None = None,
    seeds: int | None = None,
) -> pd.DataFrame:
    """A table of the paper, ours beside it, from the runs on disk.

    Arguments:
        number: of the paper's table.
        benchmark: its name.
        preset: its sizes.
        results: the folder of all results; None: the project's.
        seeds: how many, from 0; None: as many as are there.

    Returns:
        tidy: the columns that name the row, then fold (a number or "mean"), metric, miou, low, high (95 %),
        paper, delta, status, runs.

    Raises:
        DPNetError: unknown names, or nothing is there.
    """
    setting = presets.resolve(benchmark, preset)
    return rows(load(setting, Path(results) if results else None, seeds), experiments.get(f"table{number}"))


@once
def rows(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """The tidy table of an experiment (see `table`); Tables 1 and 2 also say backbone and parameters."""
    printed = _printed(experiment)
    model = {}
    if experiment.table in (1, 2):
        model = {"backbone": scores.setting.training.backbone, "params_m": scores.parameters}
    lines = []
    for row in experiment.rows:
        records = scores.of_row(row)
        for fold, metric in _cells(scores, row):
            ours = cell(scores.samples(records, fold, metric))
            theirs = np.nan
            if metric == (row.metric or experiment.metric):
                theirs = printed.get((*row.key.values(), fold), np.nan)
            lines.append(
                {
                    **row.key,
                    **model,
                    "fold": fold,
                    "metric": metric,
                    **ours,
                    "paper": theirs,
                    **_against_paper(ours, theirs, scores.comparable(experiment)),
                    "runs": scores.run_ids(records, fold),
                }
            )
    return pd.DataFrame(lines)


def printed(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """Our values in exactly the columns of the paper's table, the paper's metric, one decimal."""
    tidy = of_metric(rows(scores, experiment), experiment, experiment.metric)
    assert experiment.table is not None
    return paper.printed(experiment.table, tidy.assign(miou=tidy.miou.round(1)))


@once
def effects(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """What the table is meant to show, as sums over the same episodes; then our best rows over no training.

    Returns:
        tidy: effect, fold, metric, difference, low, high (95 %), paper, status, runs. The paper's value is
        compared in direction only.
    """
    lines = []
    for name, row, parts, theirs, claimed in _sums(scores, experiment):
        for fold, metric in _cells(scores, row):
            ours = cell(combined((w, scores.samples(r, fold, metric)) for w, r in parts), "difference")
            stated = theirs.get(fold, np.nan) if row.metric or metric == experiment.metric else np.nan
            # A claim without a number is one that the effect is positive.
            status = direction(ours, 1.0 if claimed and np.isnan(stated) else stated)
            about = {"paper": stated, "status": status}
            about["runs"] = " - ".join(scores.run_ids(records, fold) for _, records in parts)
            lines.append({"effect": name, "fold": fold, "metric": metric, **ours, **about})
    return pd.DataFrame(lines)


def _sums(scores: Scores, experiment: Experiment) -> Iterator[tuple[str, Row, Parts, dict[str, float], bool]]:
    """Of each effect its name, one of its rows, what is added, the paper's values by fold, and if it is claimed."""
    for effect in experiment.effects:
        pairs = [(weight, experiment.rows[i]) for i, weight in effect.weights.items()]
        parts = [(weight, scores.of_row(row)) for weight, row in pairs]
        yield effect.name, pairs[0][1], parts, _papers_effect(scores, experiment, effect), bool(effect.claim)
    for row in experiment.controlled_rows:
        parts = [(1.0, scores.of_row(row)), (-1.0, scores.baseline("prototype", row))]
        yield f"{row.label} over {BASELINES['prototype']}", row, parts, {}, False


def _papers_effect(scores: Scores, experiment: Experiment, effect: Effect) -> dict[str, float]:
    """What the paper has for an effect, by fold: from its table's cells; the mean also as its text states it."""
    cells = _printed(experiment)
    pairs = [(weight, experiment.rows[i].key.values()) for i, weight in effect.weights.items()]
    theirs = {f: round(sum(w * cells.get((*key, f), np.nan) for w, key in pairs), 1) for f in scores.columns}
    if effect.stated is not None:
        theirs[MEAN] = effect.stated["coco" if scores.setting.benchmark == "coco" else "pascal"]
    return theirs


@once
def baselines(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """What stands below the table: the controlled rows with right and wrong supports, and what is not trained.

    Returns:
        tidy: yardstick (the baseline's label), fold, metric, miou, low, high.
    """
    by_label: dict[str, tuple[pd.DataFrame, tuple[Metric, ...]]] = {}
    controlled = experiment.controlled_rows
    for context in dict.fromkeys((row.shot, row.diversity) for row in controlled):
        alike = [row for row in controlled if (row.shot, row.diversity) == context]
        for row in alike:
            by_label[row.label] = scores.of_row(row), _metrics(row)
            by_label[f"{row.label}, wrong support"] = scores.of_row(row, "wrong"), _metrics(row)
        for name, label in BASELINES.items():
            by_label[label + suffix(experiment, alike[0])] = scores.baseline(name, alike[0]), METRICS
    return pd.DataFrame(
        {"yardstick": label, "fold": fold, "metric": metric, **cell(scores.samples(records, fold, metric))}
        for label, (records, metrics) in by_label.items()
        for fold, metric in product(scores.columns, metrics)
    )


def suffix(experiment: Experiment, row: Row) -> str:
    """What tells a row's baselines from those of other shots or diversities in the same table."""
    if len({(r.shot, r.diversity) for r in experiment.controlled_rows}) == 1:
        return ""
    return f", {row.shot} shot" if row.diversity is None else f", diversity {row.diversity:g}"


def of_metric(tidy: pd.DataFrame, experiment: Experiment, metric: Metric) -> pd.DataFrame:
    """The rows of one metric; where each row of the table has its own, all."""
    own = any(row.metric for row in experiment.rows)
    return tidy if own else tidy[tidy.metric == metric]


def papers_pair(scores: Scores, experiment: Experiment) -> list[Scores]:
    """The scores; and of the paper's two benchmarks the other one, if its runs are there too."""
    other = {"pascal": "coco", "coco": "pascal"}.get(scores.setting.benchmark)
    folder = scores.store.root.parent
    if other is None or not (folder / f"{other}-{scores.setting.preset}" / "benchmark.json").exists():
        return [scores]
    second = load(presets.resolve(other, scores.setting.preset), folder, len(scores.seeds))
    whole = not any(second.missing_folds(second.of_row(row)) for row in experiment.rows)
    return [scores, second] if whole else [scores]


def tables(scores: Scores, experiment: Experiment) -> dict[str, pd.DataFrame]:
    """What is written beside an executed notebook: suffix of the CSV's name -> its content."""
    if not experiment.rows:
        return {"": details.matches(scores)}
    made = {
        "": rows(scores, experiment),
        "_effects": effects(scores, experiment),
        "_yardsticks": baselines(scores, experiment),
    }
    if experiment.table is not None:
        made["_printed"] = printed(scores, experiment)
    if experiment.name == "fig4":
        of_folds = [details.qualitative_examples(scores, experiment, fold).assign(fold=fold) for fold in scores.folds]
        made["_looks"] = pd.concat(of_folds)
    return made


def _cells(scores: Scores, row: Row) -> Iterator[tuple[str, Metric]]:
    return product(scores.columns, _metrics(row))


def _metrics(row: Row) -> tuple[Metric, ...]:
    return METRICS if row.metric is None else (row.metric,)


def _printed(experiment: Experiment) -> dict[tuple[Any, ...], float]:
    """The paper's cells: (values that name the row, fold) -> mIoU; empty where it prints none."""
    if experiment.table is None:
        return {}
    return dict(paper.cells(experiment.table).set_index([*experiment.keys, "fold"])["miou"].to_dict())


def _against_paper(ours: dict[str, float], theirs: float, comparable: bool) -> dict[str, Any]:
    if np.isnan(ours["miou"]):
        return {"delta": np.nan, "status": "not run"}
    if not comparable or np.isnan(theirs):
        return {"delta": np.nan, "status": "not comparable"}
    inside = ours["low"] <= theirs <= ours["high"]
    return {"delta": round(ours["miou"] - theirs, 2), "status": "reproduced" if inside else "differs"}
