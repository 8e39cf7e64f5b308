"""What people read: wide tables, sentences and the protocol, made from the tidy results."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dpnet.companion import details, paper, results
from dpnet.companion.experiments import PAPER_METRIC, Experiment
from dpnet.companion.scores import MEAN, Scores
from dpnet.companion.store import Store
from dpnet.config import Evaluation, Run, Variant
from dpnet.metrics import METRICS, Metric

METRIC_NAMES = {"canet": "CANet metric", "pfenet": "PFENet metric"}
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD, momentum 0.9,"}
SYMBOLS = {"pim": "PIM", "msf": "MSF", "ccm": "CCM", "lambda1_aux": "λ1", "lambda2_dis": "λ2", "beta": "β"}
NOTHING = "—"


def main(scores: Scores, experiment: Experiment) -> list[pd.DataFrame]:
    """What a target comes down to: ours beside the paper's; of Tables 1, 2 and 5 first in the paper's own form."""
    if not experiment.rows:
        return [reliability(scores)]
    own_form = {"table1": among, "table2": among, "table5": loss_weights}.get(experiment.name)
    first = [own_form(scores, experiment)] if own_form else []
    return [*first, beside(scores, experiment)]


def other_metric(scores: Scores, experiment: Experiment) -> list[pd.DataFrame]:
    """The same under the metric that the paper does not use there; nothing where each row has its own."""
    other: Metric = "canet" if experiment.metric == "pfenet" else "pfenet"
    if any(row.metric for row in experiment.rows):
        return []
    if experiment.name == "table5":
        return [loss_weights(scores, experiment, other)]
    return [beside(scores, experiment, other)]


def beside(scores: Scores, experiment: Experiment, metric: Metric | None = None) -> pd.DataFrame:
    """The table as the paper prints it (under its own metric, or another), the paper's numbers to the right."""
    metric = metric or experiment.metric
    tidy = results.of_metric(results.rows(scores, experiment), experiment, metric)
    table = wide(tidy, experiment.keys, None, intervals=(MEAN,))
    if experiment.table is not None and metric == experiment.metric:
        theirs = paper.cells(experiment.table).set_index([*experiment.keys, "fold"])["miou"].to_dict()
        for fold in dict.fromkeys(key[-1] for key in theirs):
            table[f"paper {fold}"] = [f"{theirs[*row.key.values(), fold]:.1f}" for row in experiment.rows]
    return table.rename(columns=SYMBOLS | {"multiscale": "scales", "pseudo_prototype": "pseudo-prototype"})


def among(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """Table 1 or 2 with ours as further lines below the paper's, in the paper's columns."""
    assert experiment.table is not None
    theirs, ours = paper.table(experiment.table), results.printed(scores, experiment)
    ours["method"] = f"ours ({scores.setting.benchmark}): " + ours.method
    both = pd.concat([theirs, ours], ignore_index=True)
    for column in both.columns.difference(["method", "backbone", "shot"]):
        both[column] = [_decimal(v) for v in both[column]]
    return both


def loss_weights(scores: Scores, experiment: Experiment, metric: Metric = PAPER_METRIC) -> pd.DataFrame:
    """Table 5 as a matrix: λ2 down, λ1 across; ours, then the paper's in brackets."""
    tidy = results.rows(scores, experiment).query(f"metric == '{metric}' and fold == '{MEAN}'")
    text = [_decimal(v) for v in tidy.miou]
    if metric == PAPER_METRIC:
        text = [f"{ours} ({theirs:.1f})" for ours, theirs in zip(text, tidy.paper, strict=True)]
    cells = tidy.assign(text=text, λ1=tidy.lambda1_aux, λ2=tidy.lambda2_dis)
    return cells.pivot(index="λ2", columns="λ1", values="text")


def wide(
    tidy: pd.DataFrame,
    keys: list[str],
    metric: Metric | None = PAPER_METRIC,
    intervals: tuple[str, ...] | None = None,
) -> pd.DataFrame:
    """A tidy table with a column per fold: strings with one decimal, "—" where nothing was run.

    Arguments:
        tidy: from `results.rows`, `effects` or `baselines`.
        keys: the columns that name a row.
        metric: which of both; None: whatever there is.
        intervals: folds with their interval; None: all.
    """
    value, sign = ("difference", "+") if "difference" in tidy else ("miou", "")
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in tidy[tidy.metric == metric].to_dict("records") if metric else tidy.to_dict("records"):
        line = lines.setdefault(tuple(row[k] for k in keys), {})
        text = _decimal(row[value], sign)
        if text != NOTHING and (intervals is None or row["fold"] in intervals):
            text += _bounds(row)
        line["mean" if row["fold"] == MEAN else f"fold {row['fold']}"] = text
    return pd.DataFrame([dict(zip(keys, key, strict=True)) | line for key, line in lines.items()])


def _decimal(value: float, sign: str = "") -> str:
    return NOTHING if np.isnan(value) else f"{value:{sign}.1f}"


def _bounds(row: Mapping[str, float], name: str = "") -> str:
    return f" [{row[f'{name}low']:.1f}, {row[f'{name}high']:.1f}]"


def difference(row: Mapping[str, Any]) -> str:
    """A row of `results.effects` in short: the difference with its interval."""
    return NOTHING if row["status"] == "not run" else _decimal(row["difference"], "+") + _bounds(row)


def effects(scores: Scores, experiment: Experiment) -> list[pd.DataFrame]:
    """The paired effects, a table for each metric."""
    tidy = results.effects(scores, experiment)
    if any(row.metric for row in experiment.rows):
        return [wide(tidy, ["effect"], None)]
    return [wide(tidy, ["effect"], metric) for metric in METRICS]


def baselines(scores: Scores, experiment: Experiment) -> list[pd.DataFrame]:
    """What needs no training, and the control, a table for each metric."""
    return [wide(results.baselines(scores, experiment), ["yardstick"], metric) for metric in METRICS]


def as_text(scores: Scores, experiment: Experiment) -> str:
    """A target for the terminal: ours beside the paper's, effects, baselines, protocol."""
    parts = [f"{experiment.heading}. {experiment.title}", textwrap.fill(experiment.note, 110)]
    if experiment.rows:
        source = ", then the paper's (its own benchmark, ResNet-50)" if experiment.table else ""
        effects = results.of_metric(results.effects(scores, experiment), experiment, experiment.metric)
        baselines = results.baselines(scores, experiment)
        parts += [
            f"mIoU in %, {METRIC_NAMES[experiment.metric]}; ours{source}",
            beside(scores, experiment).to_string(index=False),
            "Paired effects (95 % interval)",
            wide(effects, ["effect"], None).to_string(index=False),
            f"Baselines, {METRIC_NAMES[experiment.metric]}",
            wide(baselines, ["yardstick"], experiment.metric, intervals=()).to_string(index=False),
            support_verdict(scores, experiment),
            *missing(scores, experiment),
        ]
    else:
        parts.append(reliability(scores).to_string(index=False))
    parts.append(textwrap.fill(f"Protocol: {protocol(scores, experiment)}", 110))
    if not scores.comparable(experiment):
        parts.append("Not the paper's setting: compare directions, not values.")
    return "\n\n".join(parts)


def reliability(scores: Scores) -> pd.DataFrame:
    """Fig. 3 in numbers: the candidates of both kinds of matching, means with intervals, "—" where not run."""
    names = {"cells": "candidates per episode", "precision": "precision (%)", "recall": "recall (%)"}

    def text(row: dict[str, Any], name: str) -> str:
        return NOTHING if np.isnan(row[name]) else _decimal(row[name]) + _bounds(row, f"{name}_")

    return pd.DataFrame(
        {k: row[k] for k in ("matches", "fold")} | {title: text(row, name) for name, title in names.items()}
        for row in details.matches(scores).to_dict("records")
    )


def effects_in_words(scores: Scores, experiment: Experiment) -> str:
    """What the paired effects allow to say of the mean over folds: a list in Markdown, a sentence each."""
    units = {e.name: e.unit for e in experiment.effects}
    words = {
        "same direction": "an effect in the paper's direction",
        "opposite direction": "an effect against the paper's direction",
        "undecided": "undecided: the interval contains zero",
        "positive": "better",
        "negative": "worse",
    }
    lines = []
    for row in headline(scores, experiment).to_dict("records"):
        if row["status"] == "not run":
            lines.append(f"- {row['effect']}: not run.")
            continue
        theirs = "" if np.isnan(row["paper"]) else f"; the paper has {row['paper']:+.1f}"
        unit = units.get(row["effect"], "points")
        lines.append(f"- {row['effect']}: {difference(row)} {unit}, {words[row['status']]}{theirs}.")
    return "\n".join(lines)


def headline(scores: Scores, experiment: Experiment, folds: Sequence[str] = (MEAN,)) -> pd.DataFrame:
    """The effects in the mean over folds (or in some), each under the paper's metric or its rows' own."""
    every = results.effects(scores, experiment)
    return results.of_metric(every[every.fold.isin(folds)], experiment, experiment.metric)


def by_class(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """`details.by_class` with a column per row of the table: strings, one decimal."""
    tidy = details.by_class(scores, experiment)
    keys = ["class", "fold", "images", "episodes"]
    table = tidy.assign(iou=tidy.iou.map(_decimal)).pivot_table(
        index=keys, columns="row", values="iou", aggfunc="first", sort=False
    )
    return table.reset_index().rename_axis(columns=None)


def pairs(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """`details.pairs` for people: what the wrong support reaches, as a share of the right one; strings."""
    tidy = details.pairs(scores, experiment)
    share = [f"{100 * w / r:.0f} %" if r >= 1 else NOTHING for r, w in zip(tidy.right, tidy.wrong, strict=True)]
    table = tidy.assign(share=share, **{k: tidy[k].map("{:.1f}".format) for k in ("right", "wrong")})
    return table.rename(columns={"class": "query of", "support": "wrong support of", "share": "wrong of right"})


def support_verdict(scores: Scores, experiment: Experiment) -> str:
    """In words: does the model read its support?"""
    best = experiment.best
    right, wrong = (
        [scores.samples(scores.of_row(best, support), fold, "pfenet") for fold in scores.columns]
        for support in ("right", "wrong")
    )
    if right[-1] is None or wrong[-1] is None:
        return "Wrong-support control: not run on every fold."
    both = (
        f"With a wrong support the model ({best.label}) scores {wrong[-1].value:.1f}, with the right one "
        f"{right[-1].value:.1f} (PFENet metric, mean of folds)"
    )
    if right[-1].value < 1:
        return f"{both}: it has learned nothing yet."
    shares = {f: w.value / max(r.value, 1e-9) for f, r, w in zip(scores.folds, right, wrong, strict=False) if r and w}
    near = [f"fold {fold} ({share:.0%})" for fold, share in shares.items() if share >= 0.5]
    both += f", {wrong[-1].value / right[-1].value:.0%} of it"
    if not near:
        return f"{both}, and less than half on every fold: it reads its support."
    return (
        f"{both}. On {', '.join(near)} a support of another class does half "
        "as well as the right one, or better: there it hardly reads which class is asked for, whatever its mIoU."
    )


def missing(scores: Scores, experiment: Experiment) -> list[str]:
    """A sentence for the rows whose mean does not exist for want of the same folds, naming them."""
    by_folds: dict[str, list[str]] = {}
    for row in experiment.rows:
        if folds := scores.missing_folds(scores.of_row(row)):
            by_folds.setdefault(", ".join(map(str, folds)), []).append(row.label)
    many = f"of {len(experiment.rows)} rows"
    return [
        f"{', '.join(labels) if len(labels) < 5 else f'{len(labels)} {many}'}: no mean, since fold {folds} is not "
        "run (or its run is incomplete)."
        for folds, labels in by_folds.items()
    ]


def protocol(scores: Scores, experiment: Experiment) -> str:
    """The setting that stands beside every number."""
    setting, about = scores.setting, scores.about
    rendered = setting.benchmark == "shapes"
    usual = setting.recipe.diversity
    diversities = _listed(usual if row.diversity is None else row.diversity for row in experiment.rows)
    recipe = f", diversity {diversities or f'{usual:g}'}" if rendered else ""
    one_fold = " (each shows the classes of one fold only)" if rendered else ""
    novel = {"drop": "left out", "background": "kept, as background"}[setting.training.novel]
    betas = _listed(row.beta for row in experiment.rows) or f"{Evaluation.beta:g}"
    scales = " or ".join(dict.fromkeys("+".join(f"{s:g}" for s in row.scales) for row in experiment.rows)) or "1"
    over = " and over seeds." if len(scores.seeds) > 1 else ", not over trainings."
    return (
        f"{setting.benchmark}{recipe}: {about['images']['train']} training and {about['images']['val']} test "
        f"images{one_fold}, folds {_tested(about)}; training images with novel classes {novel}. "
        f"{_schedule(scores)} {setting.episodes} episodes per fold and seed, {_shots(scores, experiment)}, class "
        f"first; seeds: {len(scores.seeds)}; beta {Variant().beta:g} in training, {betas} in testing; scale "
        f"{scales}; scored at each query's own size. Intervals: 95 %, bootstrap over query images within classes"
        f"{over}"
    )


def _schedule(scores: Scores) -> str:
    t = scores.setting.training
    decay = f"polynomial decay (power {t.decay:g})" if t.decay else "fixed"
    return (
        f"Backbone {t.backbone}, ImageNet weights, frozen; input {t.size}² squashed; head width {t.width}; "
        f"{OPTIMIZERS[t.optimizer]} {t.learning_rate:g}, {decay}, {t.steps:,} steps of {t.batch} episodes, "
        f"augmentation: {t.augment}, {t.precision}; last checkpoint."
    )


def _shots(scores: Scores, experiment: Experiment) -> str:
    """Supports per episode, and the classes that have too few images for that."""
    shots = {str(row.shot) for row in experiment.rows}
    few = {c: n for shot in sorted(shots) for c, n in scores.about["scarce"].get(shot, {}).items()}
    fewer = "".join(f" ({c}: {n} supports, it has no more test images)" for c, n in few.items())
    return f"{_listed(row.shot for row in experiment.rows) or '1'} shot{fewer}"


def _tested(about: dict[str, Any]) -> str:
    """The folds; where not every class of every fold is tested, also which."""
    tested = [(fold, classes) for fold, classes in enumerate(about["tested"]) if classes]
    if about["tested"] == about["folds"]:
        return ", ".join(f"{fold}" for fold, _ in tested)
    return ", ".join(f"{fold} ({', '.join(about['classes'][c - 1] for c in classes)})" for fold, classes in tested)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{v:g}" for v in sorted(set(values)))


def scores(store: Store, wanted: Mapping[Run, Sequence[str]]) -> pd.DataFrame:
    """What was measured in the wanted evaluations (by id): columns variant, evaluation, canet, pfenet."""
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
    """The last point of some runs' loss curves: columns variant, step, L_seg, L_aux, L_dis."""
    last = [store.history(run)[-1] for run in runs]
    table = pd.DataFrame(last, columns=["step", "L_seg", "L_aux", "L_dis"]).round(2)
    table.insert(0, "variant", [run.variant.slug for run in runs])
    return table.astype({"step": int})
