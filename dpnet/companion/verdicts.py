"""What came out: each target in a word and a line, and each claim of the paper that a run can test."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from dpnet.companion import details, experiments, results, tables
from dpnet.companion.experiments import Effect, Experiment
from dpnet.companion.scores import MEAN, Scores, direction

AGAIN = "the same as"
SYMBOLS = {
    "reproduced": "✓ reproduced",
    "differs": "✗ differs",
    "same direction": "✓ same direction",
    "opposite direction": "✗ opposite direction",
    "mixed": "± mixed",
    "no claim": "– no claim",
    "undecided": "○ undecided",
    "incomplete": "… incomplete",
    "not run": "· not run",
}
NOT_RUN = ("not run", "—")


def outcome(scores: Scores, experiment: Experiment) -> tuple[str, str]:
    """Status of a target (a key of `SYMBOLS`), and what came out in a few words."""
    if not experiment.rows:
        row = _cycle_gain(scores)
        if row["status"] == "not run":
            return NOT_RUN
        gain = tables.difference(row)
        return row["status"], f"the way back adds {gain} points to the precision of the candidates"
    every = results.rows(scores, experiment)
    means = every[every.fold == MEAN]
    if every.miou.isna().all():
        return NOT_RUN
    if means.miou.isna().any():
        return ("incomplete", tables.missing(scores, experiment)[0]) if _begun(scores, experiment) else NOT_RUN
    of_interest = {e.name: bool(e.claim) or e.chief for e in experiment.effects}
    lines = tables.headline(scores, experiment)
    lines = lines[lines.effect.isin(of_interest)]
    chief = lines[lines.effect.map(of_interest)] if any(of_interest.values()) else lines
    text = "; ".join(f"{row['effect']} {tables.difference(row)}" for row in chief.to_dict("records"))
    statuses = set(chief.status)
    best = details.best_weights(scores) if experiment.name == "table5" else None
    if best:
        text += f"; both at 1 are number {best['rank']} of the sixteen"
        statuses.add(best["status"])
    if scores.comparable(experiment):
        same = (means.status == "reproduced") | means.paper.isna()
        return "reproduced" if same.all() else "differs", text
    if not any(e.claim for e in experiment.effects):
        return "no claim", text
    return statuses.pop() if len(statuses) == 1 else "mixed", text


def _begun(scores: Scores, experiment: Experiment) -> bool:
    """Whether rows of some effect have folds; other targets share a row or another, which alone says nothing."""
    folds = len(scores.folds)
    some = {i for i, row in enumerate(experiment.rows) if len(scores.missing_folds(scores.of_row(row))) < folds}
    return any(some.issuperset(effect.weights) for effect in experiment.effects)


def overview(scores: Scores) -> pd.DataFrame:
    """Every target at a glance: target, title, status (a key of `SYMBOLS`), outcome (what came out)."""
    lines = []
    for experiment in experiments.several("all", scores.setting.benchmark):
        status, text = outcome(scores, experiment)
        lines.append({"target": experiment.name, "title": experiment.title, "status": status, "outcome": text})
    return pd.DataFrame(lines)


def claims(scores: Scores) -> pd.DataFrame:
    """The paper's claims that a run can test, and what came out.

    Returns:
        claim (the paper's words), target, effect, paper, ours (mean of folds, 95 % interval), status, by fold, by
        seed (with several). A difference that stands there twice says so in its effect.
    """
    lines: list[dict[str, Any]] = []
    each = [scores.of_seed(seed) for seed in scores.seeds] if len(scores.seeds) > 1 else []
    first: dict[frozenset[Any], str] = {}
    for experiment in experiments.several("all", scores.setting.benchmark):
        claimed = [effect for effect in experiment.effects if effect.claim]
        if not claimed:
            continue
        means = tables.headline(scores, experiment).set_index("effect", drop=False)
        folds = tables.headline(scores, experiment, scores.columns[:-1]).groupby("effect").difference
        alone = [tables.headline(one, experiment).set_index("effect").difference for one in each]
        for effect in claimed:
            rows = _compared(experiment, effect)
            again = f" ({AGAIN} {first[rows]})" if rows in first else ""
            first.setdefault(rows, f"{experiment.heading}, {effect.name}")
            line = _claim_line(effect.claim, experiment.name, effect.name + again, means.loc[effect.name].to_dict())
            line |= {"by fold": _signed(folds.get_group(effect.name))}
            lines.append(line | {"by seed": _signed(one[effect.name] for one in alone)})
        if experiment.name == "table5":
            lines.append(_best_of_sixteen(scores))
    claim = "“noise” of plain similarity is rejected by the way back (precision of the candidates, %)"
    line = _claim_line(claim, "fig3", "cycle over cosine matches", _cycle_gain(scores))
    line |= {"by fold": _signed(_cycle_gain(scores, fold)["difference"] for fold in scores.columns[:-1])}
    lines.append(line | {"by seed": _signed(_cycle_gain(one)["difference"] for one in each)})
    return pd.DataFrame(lines).drop(columns=[] if each else "by seed").fillna("—")


def _compared(experiment: Experiment, effect: Effect) -> frozenset[Any]:
    """What an effect adds up, to tell equal ones of several targets."""
    rows = [(experiment.rows[i], weight) for i, weight in effect.weights.items()]
    return frozenset((row.variant, row.evaluation(0), row.diversity, weight) for row, weight in rows)


def _claim_line(claim: str, target: str, effect: str, row: dict[str, Any]) -> dict[str, Any]:
    stated = row.get("paper", np.nan)
    return {
        "claim": claim,
        "target": target,
        "effect": effect,
        "paper": "positive" if np.isnan(stated) else f"{stated:+.1f}",
        "ours": tables.difference(row),
        "status": row["status"],
    }


def _best_of_sixteen(scores: Scores) -> dict[str, Any]:
    best = details.best_weights(scores)
    return {
        "claim": "“the best results are achieved when … both set to 1.0”",
        "target": "table5",
        "effect": "both at 1 over the highest of the sixteen",
        "paper": "number 1",
        "ours": "—" if best is None else f"number {best['rank']}: {tables.difference(best)}",
        "status": "not run" if best is None else best["status"],
    }


def _signed(values: Iterable[float]) -> str:
    return ", ".join("—" if np.isnan(v) else f"{v:+.1f}" for v in values)


def _cycle_gain(scores: Scores, fold: str = MEAN) -> dict[str, Any]:
    """What the way back adds to the precision of the candidates, like a row of `results.effects`."""
    row = details.matches(scores).query(f"matches == 'cycle - cosine' and fold == '{fold}'").iloc[0]
    gain = {"difference": row.precision, "low": row.precision_low, "high": row.precision_high}
    return gain | {"status": direction(gain, 1.0)}


def opening(scores: Scores, experiment: Experiment) -> str:
    """How a target's notebook begins, as Markdown: its title, what is asked, what came out."""
    status, text = outcome(scores, experiment)
    setting = scores.setting
    lines = [
        f"# {experiment.heading}: {experiment.title}",
        experiment.note,
        f"**On `{setting.benchmark}` at `{setting.preset}`: {SYMBOLS[status]}.** {text[:1].upper()}{text[1:]}.",
    ]
    if experiment.rows:
        lines[-1] += " (Points of mIoU, mean of the folds, 95 % interval.)"
        lines += [tables.support_verdict(scores, experiment), *tables.missing(scores, experiment)]
    return "\n\n".join(lines)
