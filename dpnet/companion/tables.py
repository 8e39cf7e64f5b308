"""What people read: wide tables, sentences and the protocol, made from the tidy results."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dpnet.companion import paper, results
from dpnet.companion.experiments import Experiment
from dpnet.companion.results import MEAN, PAPER_METRIC, Reader
from dpnet.companion.store import Store
from dpnet.config import Evaluation, Run, Variant
from dpnet.metrics import METRICS, Metric

METRIC_NAMES = {"canet": "CANet metric", "pfenet": "PFENet metric"}
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD, momentum 0.9,"}


def beside(reader: Reader, experiment: Experiment, metric: Metric | None = None) -> pd.DataFrame:
    """The table as the paper prints it, the paper's numbers to the right; "—" where nothing was run.

    Arguments:
        reader: the results.
        experiment: the table.
        metric: which of both; None: the one that the paper uses there.

    Returns:
        strings, one decimal; the mean with its interval.
    """
    metric = metric or experiment.metric
    tidy = results.of_metric(results.rows(reader, experiment), experiment, metric)
    shown = wide(tidy, experiment.keys, None, intervals=(MEAN,))
    if experiment.table is not None and metric == experiment.metric:
        theirs = paper.cells(experiment.table).set_index([*experiment.keys, "fold"])["miou"].to_dict()
        for fold in dict.fromkeys(key[-1] for key in theirs):
            shown[f"paper {fold}"] = [f"{theirs[*row.key.values(), fold]:.1f}" for row in experiment.rows]
    short = {"pim": "PIM", "msf": "MSF", "ccm": "CCM", "lambda1_aux": "λ1", "lambda2_dis": "λ2", "beta": "β"}
    return shown.rename(columns=short | {"multiscale": "scales", "pseudo_prototype": "pseudo-prototype"})


def among(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """Table 1 or 2 with ours as further lines below the paper's.

    Arguments:
        reader: the results.
        experiment: one of both tables.

    Returns:
        strings in the paper's columns; ours are named, with their backbone and counted parameters.
    """
    assert experiment.table is not None
    theirs, ours = paper.table(experiment.table), results.printed(reader, experiment)
    ours["method"] = f"ours ({reader.benchmark}): " + ours.method
    both = pd.concat([theirs, ours], ignore_index=True)
    for column in both.columns.difference(["method", "backbone", "shot"]):
        both[column] = ["—" if np.isnan(v) else f"{v:.1f}" for v in both[column]]
    return both


def loss_weights(reader: Reader, experiment: Experiment, metric: Metric = PAPER_METRIC) -> pd.DataFrame:
    """Table 5 as a matrix: λ2 down, λ1 across; ours, then the paper's in brackets."""
    tidy = results.rows(reader, experiment).query(f"metric == '{metric}' and fold == '{MEAN}'")
    text = [
        ("—" if np.isnan(v) else f"{v:.1f}") + (f" ({theirs:.1f})" if metric == PAPER_METRIC else "")
        for v, theirs in zip(tidy.miou, tidy.paper, strict=True)
    ]
    cells = tidy.assign(text=text, λ1=tidy.lambda1_aux, λ2=tidy.lambda2_dis)
    return cells.pivot(index="λ2", columns="λ1", values="text")


def wide(
    tidy: pd.DataFrame,
    keys: list[str],
    metric: Metric | None = PAPER_METRIC,
    intervals: tuple[str, ...] | None = None,
) -> pd.DataFrame:
    """A tidy table with a column per fold.

    Arguments:
        tidy: from `rows`, `effects` or `yardsticks`.
        keys: the columns that name a row.
        metric: which of both; None: whatever there is.
        intervals: folds shown with their interval; None: all.

    Returns:
        strings with one decimal; "—" where nothing was run.
    """
    value = "difference" if "difference" in tidy else "miou"
    chosen = tidy if metric is None else tidy[tidy.metric == metric]

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


def as_text(reader: Reader, experiment: Experiment) -> str:
    """A target for the terminal: ours beside the paper's, effects, yardsticks, protocol."""
    parts = [f"{experiment.heading}. {experiment.title}", textwrap.fill(experiment.note, 110)]
    if experiment.rows:
        source = ", then the paper's (its own benchmark, ResNet-50)" if experiment.table else ""
        parts += [
            f"mIoU in %, {METRIC_NAMES[experiment.metric]}; ours{source}",
            beside(reader, experiment).to_string(index=False),
            "Paired effects (95 % interval)",
            wide(
                results.of_metric(results.effects(reader, experiment), experiment, experiment.metric),
                ["effect"],
                None,
            ).to_string(index=False),
            f"Baselines, {METRIC_NAMES[experiment.metric]}",
            wide(results.yardsticks(reader, experiment), ["yardstick"], experiment.metric, intervals=()).to_string(
                index=False
            ),
            support_verdict(reader, experiment),
            *missing(reader, experiment),
        ]
    else:
        parts.append(reliability(reader).to_string(index=False))
    parts.append(textwrap.fill(f"Protocol: {protocol(reader, experiment)}", 110))
    if not reader.comparable(experiment):
        parts.append("Not the paper's setting: compare directions, not values.")
    return "\n\n".join(parts)


def reliability(reader: Reader) -> pd.DataFrame:
    """Fig. 3 in numbers: the candidates of both kinds of matching, means with intervals, "—" where not run."""
    tidy = results.matches(reader)

    def text(row: dict[str, Any], name: str) -> str:
        if np.isnan(row[name]):
            return "—"
        return f"{row[name]:.1f} [{row[f'{name}_low']:.1f}, {row[f'{name}_high']:.1f}]"

    names = {"cells": "candidates per episode", "precision": "precision (%)", "recall": "recall (%)"}
    return pd.DataFrame(
        {"matches": row["matches"], "fold": row["fold"], **{shown: text(row, name) for name, shown in names.items()}}
        for row in tidy.to_dict("records")
    )


def effects_in_words(reader: Reader, experiment: Experiment) -> str:
    """What the paired effects allow to say of the mean over folds: a sentence each."""
    units = {e.name: e.unit for e in experiment.effects}
    words = {
        "same direction": "an effect in the paper's direction",
        "opposite direction": "an effect against the paper's direction",
        "undecided": "undecided: the interval contains zero",
        "positive": "better",
        "negative": "worse",
    }
    lines = []
    for row in headline(reader, experiment).to_dict("records"):
        if row["status"] == "not run":
            lines.append(f"{row['effect']}: not run.")
            continue
        theirs = "" if np.isnan(row["paper"]) else f"; the paper has {row['paper']:+.1f}"
        bounds = f"{row['difference']:+.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        unit = units.get(row["effect"], "points")
        lines.append(f"{row['effect']}: {bounds} {unit}, {words[row['status']]}{theirs}.")
    return "\n".join(lines)


def headline(reader: Reader, experiment: Experiment, folds: Sequence[str] = (MEAN,)) -> pd.DataFrame:
    """The effects in the mean over folds (or in some), each under the paper's metric or its rows' own."""
    found = results.effects(reader, experiment)
    found = found[found.fold.isin(folds)]
    return results.of_metric(found, experiment, experiment.metric)


def by_class(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """`results.by_class` with a column per row of the table: strings, one decimal."""
    tidy = results.by_class(reader, experiment)
    keys = ["class", "fold", "images", "episodes"]
    shown = tidy.assign(iou=tidy.iou.map("{:.1f}".format)).pivot_table(
        index=keys, columns="row", values="iou", aggfunc="first", sort=False
    )
    return shown.reset_index().rename_axis(columns=None)


def pairs(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """`results.pairs` for people: what the wrong support reaches, as a share of the right one; strings."""
    found = results.pairs(reader, experiment)
    share = [f"{100 * w / r:.0f} %" if r >= 1 else "—" for r, w in zip(found.right, found.wrong, strict=True)]
    shown = found.assign(share=share, **{k: found[k].map("{:.1f}".format) for k in ("right", "wrong")})
    return shown.rename(columns={"class": "query of", "support": "wrong support of", "share": "wrong of right"})


def support_verdict(reader: Reader, experiment: Experiment) -> str:
    """In words: does the model read its support?"""
    best = experiment.best
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
        f"With a wrong support the model ({best.label}) scores {wrong.value:.1f}, with the right one "
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
        f"{said}, {wrong.value / right.value:.0%} of it. On {', '.join(near)} a support of another class does half "
        "as well as the right one, or better: there it hardly reads which class is asked for, whatever its mIoU."
    )


def missing(reader: Reader, experiment: Experiment) -> list[str]:
    """A sentence for the rows whose mean does not exist for want of the same folds, naming them."""
    found: dict[str, list[str]] = {}
    for row in experiment.rows:
        folds = reader.missing_folds(reader.of_row(row))
        if folds:
            found.setdefault(", ".join(map(str, folds)), []).append(row.label)
    many = f"of {len(experiment.rows)} rows"
    return [
        f"{', '.join(labels) if len(labels) < 5 else f'{len(labels)} {many}'}: no mean, since fold {folds} is not "
        "run (or its run is incomplete)."
        for folds, labels in found.items()
    ]


def protocol(reader: Reader, experiment: Experiment) -> str:
    """The setting that stands beside every number."""
    t, about = reader.setting.training, reader.about
    rendered = reader.benchmark == "shapes"
    usual = reader.setting.recipe.diversity
    diversities = _listed(usual if row.diversity is None else row.diversity for row in experiment.rows)
    recipe = f", diversity {diversities or f'{usual:g}'}" if rendered else ""
    shown = " (each shows the classes of one fold only)" if rendered else ""
    decay = f"polynomial decay (power {t.decay:g})" if t.decay else "fixed"
    novel = {"drop": "left out", "background": "kept, as background"}[t.novel]
    shots = _listed(row.shot for row in experiment.rows) or "1"
    betas = _listed(row.beta for row in experiment.rows) or f"{Evaluation.beta:g}"
    scales = " or ".join(dict.fromkeys("+".join(f"{s:g}" for s in row.scales) for row in experiment.rows)) or "1"
    asked = {str(row.shot) for row in experiment.rows}
    few = {c: n for shot in sorted(asked) for c, n in about["scarce"].get(shot, {}).items()}
    fewer = "".join(f" ({c}: {n} supports, it has no more test images)" for c, n in few.items())
    return (
        f"{reader.benchmark}{recipe}: {about['images']['train']} training and {about['images']['val']} test "
        f"images{shown}, folds {_tested(about)}; training images with novel classes {novel}. "
        f"Backbone {t.backbone}, ImageNet weights, frozen; input {t.size}² squashed; head width {t.width}; "
        f"{OPTIMIZERS[t.optimizer]} {t.learning_rate:g}, {decay}, {t.steps:,} steps of {t.batch} episodes, "
        f"augmentation: {t.augment}, {t.precision}; last checkpoint. {reader.setting.episodes} episodes per fold and "
        f"seed, {shots} shot{fewer}, class first; seeds: {len(reader.seeds)}; beta {Variant().beta:g} in "
        f"training, {betas} in testing; scale {scales}; scored at each query's own size. Intervals: 95 %, "
        "bootstrap over query images within classes"
        + (" and over seeds." if len(reader.seeds) > 1 else ", not over trainings.")
    )


def _tested(about: dict[str, Any]) -> str:
    """The folds; where not every class of every fold is tested, also which."""
    named = [f for f in enumerate(about["tested"]) if f[1]]
    if about["tested"] == about["folds"]:
        return ", ".join(f"{f}" for f, _ in named)
    return ", ".join(f"{f} ({', '.join(about['classes'][c - 1] for c in tested)})" for f, tested in named)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{v:g}" for v in sorted(set(values)))


def scores(store: Store, wanted: Mapping[Run, Sequence[str]]) -> pd.DataFrame:
    """What was measured, both metrics, one decimal.

    Arguments:
        store: where the runs are.
        wanted: run -> ids of evaluations; others that a run may have, for other tables, are not shown.

    Returns:
        columns variant, evaluation, canet, pfenet.
    """
    return pd.DataFrame(
        {
            "variant": run.variant.slug,
            "evaluation": name,
            **{m: "—" if found[m] is None else round(found[m], 1) for m in METRICS},
        }
        for run, names in wanted.items()
        for name, found in sorted(store.metrics(run)["evaluations"].items())
        if name in names
    )


def last_losses(store: Store, runs: list[Run]) -> pd.DataFrame:
    """The last point of some runs' loss curves: columns variant, step, L_seg, L_aux, L_dis."""
    last = [store.history(run)[-1] for run in runs]
    table = pd.DataFrame(last, columns=["step", "L_seg", "L_aux", "L_dis"]).round(2)
    table.insert(0, "variant", [run.variant.slug for run in runs])
    return table.astype({"step": int})


def speed(measured: Mapping[str, Any]) -> pd.DataFrame:
    """The ratios of `results/speed/<machine>.json`: columns what, ours, against, ratio, budget, met."""
    lines = []
    for line in measured["ratios"]:
        middle, least, most = line["ratio"]
        budget, more, unit = line["budget"], line["more is better"], line["unit"]
        met = "—" if budget is None else "yes" if (middle >= budget if more else middle <= budget) else "no"
        lines.append(
            {
                "what": line["what"],
                "ours": f"{_digits(line['ours'][0])} {unit}",
                "against": f"{_digits(line['against'][0])} {unit} ({line['reference']})",
                "ratio": f"{middle:.3g} [{least:.3g}, {most:.3g}]",
                "budget": "—" if budget is None else f"{'≥' if more else '≤'} {budget:g}",
                "met": met,
            }
        )
    return pd.DataFrame(lines)


def speed_in_words(measured: Mapping[str, Any]) -> str:
    """What the ratios rest on: that both sides answer the same, and what half precision costs."""
    checks = measured["checks"]
    return (
        f"The reference's answers are ours: {checks['pixels that differ (%)']:.3g} % of pixels differ (features are "
        f"kept in fp16), {checks['pixels that differ, three scales (%)']:.3g} % with three scales. "
        f"{checks['precision']} against fp32: at most {checks['mIoU that differs (points)']:.2g} points of mIoU in "
        f"any of {checks['rows']} rows over {checks['episodes']} episodes."
    )


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
