"""What people read: wide tables, sentences and the protocol, made from the tidy results."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dpnet.companion import details, paper, results
from dpnet.companion.estimates import TOO_FEW
from dpnet.companion.experiments import PAPER_METRIC, Experiment
from dpnet.companion.results import MEAN, Scores
from dpnet.companion.store import Store
from dpnet.config import Evaluation, Run, Variant
from dpnet.metrics import METRICS

METRIC_NAMES = {"canet": "CANet metric", "pfenet": "PFENet metric"}
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD, momentum 0.9,"}
NOTHING = "—"
HEADS = {"pim": "PIM", "msf": "MSF", "ccm": "CCM", "lambda1_aux": "λ1", "lambda2_dis": "λ2", "beta": "β"}
HEADS |= {"multiscale": "scales", "pseudo_prototype": "pseudo-prototype"}


def decimal(value: float, sign: str = "") -> str:
    """One decimal, or "—"."""
    return NOTHING if np.isnan(value) else f"{value:{sign}.1f}"


def spanned(value: float, low: float, high: float, sign: str = "") -> str:
    """One decimal with its interval, or "—"."""
    return NOTHING if np.isnan(value) else f"{value:{sign}.1f} [{low:.1f}, {high:.1f}]"


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
    return paper.printed(experiment.table, tidy.assign(miou=tidy.miou.round(1)))


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
    return [wide(tidy[tidy.metric == metric], ["yardstick"], intervals) for metric in METRICS]


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


def as_text(scores: Scores, experiment: Experiment) -> str:
    """A target for the terminal: ours beside the paper's, effects, baselines, protocol."""
    parts: list[str | pd.DataFrame] = [f"{experiment.heading}. {experiment.title}", experiment.note]
    if experiment.rows:
        metric = METRIC_NAMES[experiment.metric]
        theirs = ", then the paper's (its own benchmark, ResNet-50)" if experiment.table else ""
        below = baselines(scores, experiment, ())[METRICS.index(experiment.metric)]
        effects = wide(headline(scores, experiment, scores.columns), ["effect"])
        parts += [f"mIoU in %, {metric}; ours{theirs}", beside(scores, experiment)]
        parts += ["Paired effects (95 % interval)", effects, f"Baselines, {metric}", below]
        parts += [*rests(scores, experiment), support_verdict(scores, experiment), *missing(scores, experiment)]
    else:
        parts.append(reliability(scores))
    parts.append(f"Protocol: {protocol(scores, experiment)}")
    if not scores.comparable(experiment):
        parts.append("Not the paper's setting: compare directions, not values.")
    texts = (textwrap.fill(p, 110) if isinstance(p, str) else p.to_string(index=False) for p in parts)
    return "\n\n".join(texts)


def reliability(scores: Scores) -> pd.DataFrame:
    """Fig. 3 in numbers: the candidates of both kinds of matching, means with intervals, "—" where not run."""
    tidy = details.matches(scores)
    heads = {"cells": "candidates per episode", "precision": "precision (%)", "recall": "recall (%)"}
    texts = {
        head: [spanned(*cells) for cells in tidy[[rate, f"{rate}_low", f"{rate}_high"]].to_numpy()]
        for rate, head in heads.items()
    }
    return tidy[["matches", "fold"]].assign(**texts)


def support_verdict(scores: Scores, experiment: Experiment) -> str:
    """In words: does the model read its support?"""
    best = experiment.best
    right, wrong = (
        np.array([scores.estimate([(1.0, scores.of_row(best, support))], f, "pfenet").value for f in scores.columns])
        for support in ("right", "wrong")
    )
    if np.isnan(right[-1] + wrong[-1]):
        return "Wrong-support control: not run on every fold."
    both = (
        f"With a wrong support the model ({best.label}) scores {wrong[-1]:.1f}, with the right one "
        f"{right[-1]:.1f} (PFENet metric, mean of folds)"
    )
    if right[-1] < 1:
        return f"{both}: it has learned nothing yet."
    *shares, share = wrong / np.maximum(right, 1e-9)
    near = [f"fold {fold} ({share:.0%})" for fold, share in zip(scores.folds, shares, strict=True) if share >= 0.5]
    if not near:
        return f"{both}, {share:.0%} of it, and less than half on every fold: it reads its support."
    return (
        f"{both}, {share:.0%} of it. On {', '.join(near)} a support of another class does half "
        "as well as the right one, or better: there it hardly reads which class is asked for, whatever its mIoU."
    )


def trainings(scores: Scores, experiment: Experiment) -> str:
    """How many trainings a target's means rest on, as 10 or 3 to 10; "0" where nothing was run."""
    parts = [scores.of_row(row) for row in experiment.rows] or [scores.baseline("matches-cycle")]
    counts = {scores.trainings([(1.0, part)], MEAN) for part in parts} - {0} or {0}
    return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"


def rests(scores: Scores, experiment: Experiment) -> list[str]:
    """In words: what the means rest on, and how many trainings would tell the undecided effects."""
    several = trainings(scores, experiment)
    if not experiment.rows:
        return [f"Nothing is trained here: each number is the mean over {several} lists of episodes."]
    ours = scores.estimate([(1.0, scores.of_row(experiment.best))], MEAN, experiment.metric)
    if ours.trainings < 2:
        few = f"Each number is from one training: its interval is for other images only, a verdict {TOO_FEW}."
        return [few] if several != "0" else []
    share = ours.of_images / max(ours.of_images + ours.of_trainings, 1e-12)
    text = (
        f"Each number is the mean of {several} trainings. Of the variance behind the interval of the mean of "
        f"“{experiment.best.label}”, {share:.0%} is from the images and {1 - share:.0%} from the trainings."
    )
    lines = headline(scores, experiment).dropna(subset="needed").to_dict("records")
    numbers = ["these are enough" if row["needed"] <= row["trainings"] else needed(row["needed"]) for row in lines]
    each = [f"{row['effect']} ({row['paper']:+.1f}): {n}" for row, n in zip(lines, numbers, strict=True)]
    told = "Trainings in all that would tell an effect of the paper's size from none: "
    return [text, f"{told}{'; '.join(each)}."] if each else [text]


def needed(number: float) -> str:
    """How many trainings would tell an undecided effect, "—" of others."""
    return NOTHING if np.isnan(number) else "not with these images" if np.isinf(number) else f"{number:.0f}"


def missing(scores: Scores, experiment: Experiment) -> list[str]:
    """A sentence for the rows whose mean does not exist for want of the same folds, naming them."""
    by_folds: dict[str, list[str]] = {}
    for row in experiment.rows:
        if folds := scores.missing_folds(scores.of_row(row)):
            by_folds.setdefault(", ".join(map(str, folds)), []).append(row.label)
    sentences = []
    for names, labels in by_folds.items():
        which = ", ".join(labels) if len(labels) < 5 else f"{len(labels)} of {len(experiment.rows)} rows"
        sentences.append(f"{which}: no mean, since fold {names} is not run (or its run is incomplete).")
    return sentences


def protocol(scores: Scores, experiment: Experiment) -> str:
    """The setting that stands beside every number."""
    setting, images, t = scores.setting, scores.about["images"], scores.setting.training
    recipe, one_fold = "", ""
    if setting.benchmark == "shapes":
        diversity = setting.recipe.diversity
        usual = (diversity if row.diversity is None else row.diversity for row in experiment.rows)
        recipe = f", diversity {_listed(usual, diversity)}"
        one_fold = " (each shows the classes of one fold only)"
    novel = {"drop": "left out", "background": "kept, as background"}[t.novel]
    decay = f"polynomial decay (power {t.decay:g})" if t.decay else "fixed"
    scales = " or ".join(dict.fromkeys("+".join(f"{s:g}" for s in row.scales) for row in experiment.rows)) or "1"
    several = trainings(scores, experiment)
    over = ", and other trainings." if several not in ("0", "1") else ", not other trainings."
    return (
        f"{setting.benchmark}{recipe}: {images['train']} training and {images['val']} test "
        f"images{one_fold}, folds {_tested(scores.about)}; training images with novel classes {novel}. "
        f"Backbone {t.backbone}, ImageNet weights, frozen; input {t.size}² squashed; head width {t.width}; "
        f"{OPTIMIZERS[t.optimizer]} {t.learning_rate:g}, {decay}, {t.steps:,} steps of {t.batch} episodes, "
        f"augmentation: {t.augment}, {t.precision}; last checkpoint. "
        f"{setting.episodes} episodes per fold and seed, {_shots(scores, experiment)}, class first; "
        f"seeds: {several}; beta {Variant().beta:g} in training, "
        f"{_listed((row.beta for row in experiment.rows), Evaluation.beta)} in testing; scale "
        f"{scales}; scored at each query's own size. Intervals: 95 %, other query images, drawn within classes"
        f"{over}"
    )


def _shots(scores: Scores, experiment: Experiment) -> str:
    """Supports per episode, and the classes that have too few images for that."""
    shots = sorted({str(row.shot) for row in experiment.rows})
    few = {c: n for shot in shots for c, n in scores.about["scarce"].get(shot, {}).items()}
    fewer = "".join(f" ({c}: {n} supports, it has no more test images)" for c, n in few.items())
    return f"{', '.join(shots) or '1'} shot{fewer}"


def _tested(about: dict[str, Any]) -> str:
    """The folds; where not every class of every fold is tested, also which."""
    folds = [(fold, ", ".join(about["classes"][c - 1] for c in of)) for fold, of in enumerate(about["tested"]) if of]
    whole = about["tested"] == about["folds"]
    return ", ".join(f"{fold}" if whole else f"{fold} ({classes})" for fold, classes in folds)


def _listed(values: Iterable[float], usual: float) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values)) or [usual])


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
