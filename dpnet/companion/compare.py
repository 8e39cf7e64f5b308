"""One's own results beside the published ones and the paper's, with a verdict for each row and effect.

The rule, as docs/reproduce.md states it: identical counts, or whether ours lies where one more training is expected.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
from scipy.stats import t

from dpnet import io
from dpnet.companion import results, tables
from dpnet.companion.experiments import Experiment
from dpnet.companion.results import MEAN, Scores
from dpnet.io import read_json

IDENTICAL, WITHIN, OUTSIDE = "identical", "within the spread of the published trainings", "outside it"
NO_SPREAD, NOT_PUBLISHED = "no spread published", "not published"
OTHER, NOT_RUN = "other data or preset", "not run"
VERDICTS = (IDENTICAL, WITHIN, OUTSIDE, NO_SPREAD, NOT_PUBLISHED, OTHER, NOT_RUN)


def prediction_interval(trainings: Sequence[float], more: int = 1) -> tuple[float, float]:
    """Where the mean of so many `more` trainings lies in 95 % of cases, by Student's t; NaN from one training."""
    if (n := len(trainings)) < 2:
        return np.nan, np.nan
    mean, half = np.mean(trainings), t.ppf(0.975, n - 1) * np.std(trainings, ddof=1) * np.sqrt(1 / n + 1 / more)
    return float(mean - half), float(mean + half)


@cache
def compared(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """A line per row and effect, mean of folds, paper's metric; empty where `scores` are the published ones; tidy.

    Columns: kind ("row" or "effect"), name, paper, published, low, high, trainings (the published, by seed), least,
    most (the interval of one more), yours, verdict.
    """
    folder = io.places().published
    if scores.store.root.parent == folder:
        return pd.DataFrame()
    published = _published(scores)
    known = means(published, experiment) if published else None
    lines = []
    for (kind, name), own in means(scores, experiment).iterrows():
        trainings = () if known is None else known.by_training[kind, name]
        least, most = prediction_interval(trainings, max(len(own.by_training), 1))
        if np.isnan(own.value):
            verdict = NOT_RUN
        elif published is None:
            verdict = OTHER
        elif trainings and all(_same(scores, published, run) for run in own.runs):
            verdict = IDENTICAL
        elif len(trainings) < 2:
            verdict = NO_SPREAD if trainings else NOT_PUBLISHED
        else:
            verdict = WITHIN if least <= own.value <= most else OUTSIDE
        theirs = known.loc[(kind, name), ["value", "low", "high"]] if known is not None else [np.nan] * 3
        lines.append([kind, name, own.paper, *theirs, trainings, least, most, own.value, verdict])
    columns = "kind name paper published low high trainings least most yours verdict"
    return pd.DataFrame(lines, columns=columns.split())


def _published(scores: Scores) -> Scores | None:
    """What is published of the same data at the same preset, all seeds."""
    folder = io.places().published
    if not (folder / scores.setting.name / "benchmark.json").exists():
        return None
    published = results.load(scores.setting, folder)
    return published if published.about["digest"] == scores.about["digest"] else None


def means(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """Each row and effect, mean of folds, paper's metric: value, low, high, by_training, paper, ids of the runs."""
    both = tables.headline(scores, experiment).rename(columns={"effect": "name", "difference": "value"})
    both = both.assign(kind="effect")
    if experiment.rows:
        rows = results.of_metric(results.rows(scores, experiment).query(f"fold == '{MEAN}'"), experiment)
        rows = rows.assign(kind="row", name=[row.label for row in experiment.rows], value=rows.miou)
        both = pd.concat([rows, both])
    runs = [[run for run in text.split() if run != "-"] for text in both.runs]
    each = [tuple(map(float, text.split())) for text in both.by_training]
    both = both.assign(runs=runs, by_training=each).set_index(["kind", "name"])
    return both[["value", "low", "high", "by_training", "paper", "runs"]]


def _same(scores: Scores, published: Scores, run: str) -> bool:
    """Whether a run's counts are those of the published run of the same id, in each way that both were scored."""
    file, other = (s.store.root / "runs" / run / "metrics.json" for s in (scores, published))
    if not other.exists():
        return False
    own, theirs = (read_json(f)["evaluations"] for f in (file, other))
    both = own.keys() & theirs.keys()
    return bool(both) and all(own[name]["counts"] == theirs[name]["counts"] for name in both)


def table(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """`compared` for people: paper, published with its interval, yours, verdict."""
    tidy = compared(scores, experiment)
    signs = tidy.kind.map({"row": "", "effect": "+"})
    spans = zip(tidy.published, tidy.low, tidy.high, signs, strict=True)
    return pd.DataFrame({
        "": tidy.name,
        "paper": [tables.decimal(*pair) for pair in zip(tidy.paper, signs, strict=True)],
        "published": [tables.spanned(*span) for span in spans],
        "trainings": [len(trainings) or tables.NOTHING for trainings in tidy.trainings],
        "yours": [tables.decimal(*pair) for pair in zip(tidy.yours, signs, strict=True)],
        "verdict": tidy.verdict,
    })  # fmt: skip


def closing(scores: Scores, experiment: Experiment) -> str:
    """The verdicts in one sentence."""
    verdicts = compared(scores, experiment).verdict
    counts = verdicts.value_counts().reindex(VERDICTS).dropna().astype(int)
    each = "; ".join(f"{verdict} ({count} of {len(verdicts)})" for verdict, count in counts.items())
    return f"Verdicts on your rows and effects: {each}."


def as_text(scores: Scores, experiment: Experiment) -> str:
    """The comparison for the terminal."""
    metric = tables.METRIC_NAMES[experiment.metric]
    title = f"{experiment.heading}, yours beside the published (mean of folds, {metric}; the paper's: its own data)"
    return "\n\n".join([title, table(scores, experiment).to_string(index=False), closing(scores, experiment)])
