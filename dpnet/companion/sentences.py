"""What is said beside a table: what its numbers rest on, whether the model reads its support, the protocol."""

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from dpnet.companion import results, tables
from dpnet.companion.estimates import ENOUGH, TOO_FEW
from dpnet.companion.experiments import Experiment
from dpnet.companion.results import MEAN, Scores
from dpnet.config import Evaluation, Variant
from dpnet.metrics import METRICS

OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD, momentum 0.9,"}
HARDLY = 0.8  # share of the right support's score from which a wrong one is nearly as good


def as_text(scores: Scores, experiment: Experiment) -> str:
    """A target for the terminal: ours beside the paper's, effects, baselines, protocol."""
    parts: list[str | pd.DataFrame] = [f"{experiment.heading}. {experiment.title}", experiment.note]
    if experiment.rows:
        metric = tables.METRIC_NAMES[experiment.metric]
        theirs = ", then the paper's (its own benchmark, ResNet-50)" if experiment.table else ""
        below = tables.baselines(scores, experiment, ())[METRICS.index(experiment.metric)]
        effects = tables.wide(tables.headline(scores, experiment, scores.columns), ["effect"])
        parts += [f"mIoU in %, {metric}; ours{theirs}", tables.beside(scores, experiment)]
        parts += ["Paired effects (95 % interval)", effects, f"Baselines, {metric}", below]
        parts += [*rests(scores, experiment), support_verdict(scores, experiment), *missing(scores, experiment)]
    else:
        parts.append(tables.reliability(scores))
    parts.append(f"Protocol: {protocol(scores, experiment)}")
    if not scores.comparable(experiment):
        parts.append("Not the paper's setting: compare directions, not values.")
    texts = (textwrap.fill(p, 110) if isinstance(p, str) else p.to_string(index=False) for p in parts)
    return "\n\n".join(texts)


def support_verdict(scores: Scores, experiment: Experiment) -> str:
    """In words: does the model read its support?"""
    best, some = experiment.best, results.with_control(scores, experiment)
    if not some.lacking:
        return "Wrong-support control: none, since a fold tests a single class."
    right, wrong = (
        np.array([some.estimate([(1.0, some.of_row(best, support))], f, "pfenet").value for f in some.columns])
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
    by_fold = [f"fold {fold} {share:.0%}" for fold, share in zip(scores.folds, shares, strict=True)]
    near = [name for name, share in zip(by_fold, shares, strict=True) if share >= HARDLY]
    reads = f"It reads its support least on fold {scores.folds[int(np.argmax(shares))]}."
    if near:
        reads = f"Where that is near 100 % ({', '.join(near)}), it hardly reads which class is asked for."
    return f"{both}: {share:.0%} of it ({', '.join(by_fold)}). {reads}"


def trainings(scores: Scores, experiment: Experiment) -> int:
    """How many trainings a target's means rest on: those that all its rows have."""
    some = results.shared(scores, experiment)
    parts = [some.of_row(row) for row in experiment.rows] or [some.baseline("matches-cycle")]
    return max(some.trainings([(1.0, part)], MEAN) for part in parts)


def rests(scores: Scores, experiment: Experiment) -> list[str]:
    """In words: what the means rest on, and how many trainings would tell the undecided effects."""
    several = trainings(scores, experiment)
    if not experiment.rows:
        return [f"Nothing is trained here: each number is the mean over {several} lists of episodes."]
    some = results.shared(scores, experiment)
    ours = some.estimate([(1.0, some.of_row(experiment.best))], MEAN, experiment.metric)
    if ours.trainings < 2:
        few = f"Each number is from one training: its interval is for other images only, a verdict {TOO_FEW}."
        return [few] if several else []
    share = ours.of_images / max(ours.of_images + ours.of_trainings, 1e-12)
    text = (
        f"Each number is the mean of {several} trainings. Of the variance behind the interval of the mean of "
        f"“{experiment.best.label}”, {share:.0%} is from the images and {1 - share:.0%} from the trainings."
    )
    texts, excluded, may_be = [text], list[str](), list[str]()
    for row in tables.headline(scores, experiment).dropna(subset="needed").itertuples():
        inside, name = row.low <= row.paper <= row.high, f"{row.effect} ({row.paper:+.1f})"
        if (number := needed(row.needed, row.trainings)) != tables.NOTHING or not inside:
            (may_be if inside else excluded).append(f"{name}: {number}" if inside else name)
    if excluded:
        texts.append(f"Undecided, but an effect as large as the paper's is excluded: {'; '.join(excluded)}.")
    if may_be:
        texts.append(f"Trainings in all that would tell an effect of the paper's size: {'; '.join(may_be)}.")
    return texts + _other_metric(scores, experiment)


def _other_metric(scores: Scores, experiment: Experiment) -> list[str]:
    """A sentence for the effects that come out otherwise under the metric that the paper's table does not use."""
    every = results.effects(scores, experiment).query(f"fold == '{MEAN}' and trainings >= {ENOUGH}")
    every = every[every.effect.isin([effect.name for effect in experiment.effects])]
    every = every.assign(sign=(every.low > 0).astype(int) - (every.high < 0))
    (other,) = {*METRICS} - {experiment.metric}
    own, others = (every[every.metric == metric].set_index("effect") for metric in (experiment.metric, other))
    both = own.index.intersection(others.index)  # none where each row has a metric of its own
    each = [f"{e} {tables.difference(others.loc[e])}" for e in both if own.sign[e] != others.sign[e]]
    return [f"It comes out otherwise under the {tables.METRIC_NAMES[other]}: {'; '.join(each)}."] if each else []


def needed(number: float, trainings: int) -> str:
    """How many trainings would tell an undecided effect of the paper's size; "—" where these are enough."""
    if np.isinf(number):
        return "not with these images"
    return f"{number:.0f}" if number > trainings else tables.NOTHING


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
    over = ", and other trainings." if several > 1 else ", not other trainings."
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
