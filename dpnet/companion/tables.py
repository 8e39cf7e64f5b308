"""What people read: wide tables, sentences and the protocol, made from the tidy results."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dpnet.companion import details, paper, results
from dpnet.companion.experiments import PAPER_METRIC, Experiment
from dpnet.companion.results import MEAN, Scores
from dpnet.companion.store import Store
from dpnet.config import Run
from dpnet.metrics import METRICS

METRIC_NAMES = {"canet": "CANet metric", "pfenet": "PFENet metric"}
NOTHING = "—"
HEADS = {"pim": "PIM", "msf": "MSF", "ccm": "CCM", "lambda1_aux": "λ1", "lambda2_dis": "λ2", "beta": "β"}
HEADS |= {"multiscale": "scales", "pseudo_prototype": "pseudo-prototype"}


def decimal(value: float, sign: str = "") -> str:
    """One decimal, or "—"."""
    return NOTHING if np.isnan(value) else f"{value:{sign}z.1f}"  # z: no "-0.0"


def spanned(value: float, low: float, high: float, sign: str = "") -> str:
    """One decimal with its interval (two, where an effect's bound would read 0.0), or "—"."""
    digits = 2 if sign and min(abs(low), abs(high)) < 0.05 else 1
    return NOTHING if np.isnan(value) else f"{value:{sign}z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"


def difference(row: Mapping[str, Any]) -> str:
    """A row of `results.effects` in short: the difference with its interval."""
    return spanned(row["difference"], row["low"], row["high"], "+")


def wide(tidy: pd.DataFrame, keys: list[str], intervals: Sequence[str] | None = None) -> pd.DataFrame:
    """A tidy table of `results` with a column per fold, as text; intervals of these folds only (None: of all)."""
    value, sign = ("difference", "+") if "difference" in tidy else ("miou", "")
    whole = [spanned(*cells, sign) for cells in zip(tidy[value], tidy.low, tidy.high, strict=True)]
    asked = tidy.fold.isin(tidy.fold if intervals is None else intervals)
    text = tidy[value].map(lambda number: decimal(number, sign)).mask(asked, pd.Series(whole, tidy.index))
    names = ("fold " + tidy.fold).where(tidy.fold != MEAN, MEAN)
    return paper.across(tidy.assign(text=text, name=names), keys, "name", "text")


def main(scores: Scores, experiment: Experiment) -> list[pd.DataFrame]:
    """What a target comes down to: ours beside the paper's; of Tables 1, 2 and 5 first in the paper's own form."""
    if not experiment.rows:
        return [reliability(scores)]
    own_form = {"table1": among, "table2": among, "table5": loss_weights}.get(experiment.name)
    first = [own_form(scores, experiment)] if own_form else []
    return [*first, beside(scores, experiment)]


def beside(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """The table as the paper prints it, under its own metric, the paper's numbers to the right."""
    table = wide(results.of_metric(results.rows(scores, experiment), experiment), experiment.keys, (MEAN,))
    papers = paper.by_row(experiment.table, experiment.keys)
    for fold in dict.fromkeys(key[-1] for key in papers):
        table[f"paper {fold}"] = [f"{papers[*row.key.values(), fold]:.1f}" for row in experiment.rows]
    return table.rename(columns=HEADS)


def printed(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """Our values in exactly the columns of the paper's table, the paper's metric, one decimal."""
    tidy = results.of_metric(results.rows(scores, experiment), experiment)
    return paper.printed(experiment.table, tidy.assign(miou=[round(value, 1) for value in tidy.miou]))


def among(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """Table 1 or 2 with ours as further lines below the paper's, in the paper's columns."""
    theirs, ours = paper.table(experiment.table), printed(scores, experiment)
    ours["method"] = f"ours ({scores.setting.benchmark}): " + ours.method
    both = pd.concat([theirs, ours], ignore_index=True)
    numbers = both.columns.difference(["method", "backbone", "shot"])
    return both.assign(**{column: both[column].map(decimal) for column in numbers})


def loss_weights(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """Table 5 as a matrix: λ2 down, λ1 across; ours, then the paper's in brackets."""
    tidy = results.rows(scores, experiment).query(f"metric == '{PAPER_METRIC}' and fold == '{MEAN}'")
    text = tidy.miou.map(decimal) + tidy.paper.map(" ({:.1f})".format)
    return tidy.rename(columns=HEADS).assign(text=text).pivot(index="λ2", columns="λ1", values="text")


def effects(scores: Scores, experiment: Experiment) -> list[pd.DataFrame]:
    """The paired effects, a table for each metric."""
    tidy = results.effects(scores, experiment)
    if any(row.metric for row in experiment.rows):
        return [wide(tidy, ["effect"])]
    return [wide(tidy[tidy.metric == metric], ["effect"]) for metric in METRICS]


def baselines(scores: Scores, experiment: Experiment, intervals: Sequence[str] | None = None) -> list[pd.DataFrame]:
    """What needs no training, and the control, a table for each metric."""
    tidy = results.baselines(scores, experiment)
    tidy = tidy.rename(columns={"yardstick": "baseline or control"})
    return [wide(tidy[tidy.metric == metric], ["baseline or control"], intervals) for metric in METRICS]


def by_queries(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """Rows and baselines on all queries, and on those alone that show one labelled class, or several (means)."""
    columns = []
    every, one, several = scores, replace(scores, showing="one"), replace(scores, showing="several")
    heads = {"all queries": every, "that show one class": one, "that show several": several}
    for head, some in heads.items():
        rows = results.of_metric(results.rows(some, experiment), experiment)
        rows = rows.assign(yardstick=np.repeat([row.label for row in experiment.rows], len(scores.columns)))
        below = results.of_metric(results.baselines(some, experiment), experiment)
        both = pd.concat([rows, below[~below.yardstick.isin(rows.yardstick)]]).query(f"fold == '{MEAN}'")
        texts = [spanned(*cells) for cells in both[["miou", "low", "high"]].to_numpy()]
        columns.append(pd.Series(texts, both.yardstick, name=head))
    return pd.concat(columns, axis=1).rename_axis("").reset_index()


def headline(scores: Scores, experiment: Experiment, folds: Sequence[str] = (MEAN,)) -> pd.DataFrame:
    """The effects in the mean over folds (or in some), each under the paper's metric or its rows' own."""
    every = results.effects(scores, experiment) if experiment.rows else details.gain(scores)
    return results.of_metric(every[every.fold.isin(folds)], experiment)


def reliability(scores: Scores) -> pd.DataFrame:
    """Fig. 3 in numbers: the candidates of both kinds of matching, means with intervals, "—" where not run."""
    tidy = details.matches(scores)
    heads = {"cells": "candidates per episode", "precision": "precision (%)", "recall": "recall (%)"}
    texts = {
        head: [spanned(*cells) for cells in tidy[[rate, f"{rate}_low", f"{rate}_high"]].to_numpy()]
        for rate, head in heads.items()
    }
    return tidy[["matches", "fold"]].assign(**texts)


def scores(store: Store, wanted: Mapping[Run, Sequence[str]]) -> pd.DataFrame:
    """What was measured in the wanted evaluations (by id), in both metrics."""
    return pd.DataFrame(
        {
            "variant": run.variant.slug,
            "evaluation": name,
            **{m: NOTHING if measured[m] is None else round(measured[m], 1) for m in METRICS},
        }
        for run, names in wanted.items()
        for name, measured in sorted(store.metrics(run)["evaluations"].items())
        if name in names
    )


def last_losses(store: Store, runs: Sequence[Run]) -> pd.DataFrame:
    """The last point of some runs' loss curves."""
    last = [[run.variant.slug, *store.history(run)[-1]] for run in runs]
    table = pd.DataFrame(last, columns=["variant", "step", "L_seg", "L_aux", "L_dis"])
    return table.round(2).astype({"step": int})


def markdown(table: pd.DataFrame) -> str:
    """A DataFrame as a table of Markdown."""
    cells = table.astype(str).map(lambda text: text.replace("|", "\\|")).to_numpy().tolist()
    lines = [[str(c) for c in table.columns], ["---"] * len(table.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
