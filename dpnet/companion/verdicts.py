"""What came out: each target in a word and a line, and each claim of the paper that a run can test."""

from typing import Any

import numpy as np
import pandas as pd

from dpnet.companion import details, experiments, results, sentences, tables
from dpnet.companion.estimates import TOO_FEW
from dpnet.companion.experiments import Experiment
from dpnet.companion.results import MEAN, Scores

AGAIN = "the same as"
SYMBOLS = {
    "reproduced": "✓ reproduced",
    "differs": "✗ differs",
    "same direction": "✓ same direction",
    "opposite direction": "✗ opposite direction",
    "mixed": "± mixed",
    "no claim": "– no claim",
    "undecided": "○ undecided",
    TOO_FEW: f"? {TOO_FEW}",
    "incomplete": "… incomplete",
    "not run": "· not run",
}
NOT_RUN = ("not run", "—")


def outcome(scores: Scores, experiment: Experiment) -> tuple[str, str]:
    """Status of a target (a key of `SYMBOLS`), and what came out in a few words."""
    if not experiment.rows:
        (row,) = tables.headline(scores, experiment).to_dict("records")
        gain = f"the way back adds {tables.difference(row)} points to the precision of the candidates"
        return NOT_RUN if row["status"] == "not run" else (row["status"], gain)
    means = results.rows(scores, experiment).query(f"fold == '{MEAN}'")
    if means.miou.isna().any():
        return ("incomplete", sentences.missing(scores, experiment)[0]) if _begun(scores, experiment) else NOT_RUN
    lines, claimed = tables.headline(scores, experiment), any(effect.claim for effect in experiment.effects)
    asked = [e.name for e in experiment.effects if e.claim or e.chief] or [e.name for e in experiment.effects]
    chief = lines[lines.effect.isin(asked)]
    text = "; ".join(f"{row['effect']} {tables.difference(row)}" for row in chief.to_dict("records"))
    statuses = {*chief.status}
    if experiment.name == "table5" and (best := details.best_weights(scores)):
        text += f"; both at 1 are number {best['rank']} of the sixteen"
        statuses.add(best["status"])
    if scores.comparable(experiment) and means.paper.notna().any():
        same = (means.status == "reproduced") | means.paper.isna()
        return TOO_FEW if TOO_FEW in {*means.status} else "reproduced" if same.all() else "differs", text
    if not claimed:
        return "no claim", text
    if TOO_FEW in statuses:
        return TOO_FEW, text
    return statuses.pop() if len(statuses) == 1 else "mixed", text


def _begun(scores: Scores, experiment: Experiment) -> bool:
    """Whether rows of some effect have folds; other targets share a row or another, which alone says nothing."""
    folds = len(scores.folds)
    some = {i for i, row in enumerate(experiment.rows) if len(scores.missing_folds(scores.of_row(row))) < folds}
    return any(some.issuperset(effect.weights) for effect in experiment.effects)


def overview(scores: Scores) -> pd.DataFrame:
    """Every target at a glance: target, title, status (a key of `SYMBOLS`), outcome (what came out)."""
    every = experiments.several("all", scores.setting.benchmark)
    lines = [(experiment.name, experiment.title, *outcome(scores, experiment)) for experiment in every]
    return pd.DataFrame(lines, columns=["target", "title", "status", "outcome"])


def claims(scores: Scores) -> pd.DataFrame:
    """The paper's claims that a run can test, in its words, and what came out."""
    lines: list[list[str]] = []
    first: dict[frozenset[Any], str] = {}
    every = experiments.several("all", scores.setting.benchmark)
    for experiment in sorted(every, key=lambda one: not one.rows):  # what sums no rows is last
        cells = tables.headline(scores, experiment, scores.columns)
        for effect in [effect for effect in experiment.effects if effect.claim]:
            parts = [(experiment.rows[i], weight) for i, weight in effect.weights.items()]
            rows = frozenset((row.variant, row.evaluation(0), row.diversity, weight) for row, weight in parts)
            again = f" ({AGAIN} {first[rows]})" if rows in first else ""
            first.setdefault(rows, f"{experiment.heading}, {effect.name}")
            *of_folds, mean = cells[cells.effect == effect.name].to_dict("records")
            stated = "positive" if np.isnan(mean["paper"]) else f"{mean['paper']:+.1f}"
            about = [effect.claim, experiment.name, effect.name + again, stated]
            needed = sentences.needed(mean["needed"], mean["trainings"])
            ours = [tables.difference(mean), mean["status"], mean["trainings"], needed]
            by_fold = ", ".join(tables.decimal(row["difference"], "+") for row in of_folds)
            lines.append([*about, *map(str, ours), by_fold])
        if experiment.name == "table5":
            best = details.best_weights(scores)
            ours, rival = ["—", "not run", "0"], ""
            if best:
                rival = f" ({best['ours']})"
                ours = [f"number {best['rank']}: {tables.difference(best)}", best["status"], str(best["trainings"])]
            about = ["“the best results are achieved when … both set to 1.0”", "table5"]
            lines.append([*about, f"both at 1 over the best of the others{rival}", "number 1", *ours, "—", "—"])
    columns = ["claim", "target", "effect", "paper", "ours", "status", "trainings", "needed", "by fold"]
    return pd.DataFrame(lines, columns=columns)


def opening(scores: Scores, experiment: Experiment) -> str:
    """How a target's notebook begins, as Markdown: its title, what is asked, what came out."""
    status, text = outcome(scores, experiment)
    where = f"On `{scores.setting.benchmark}` at `{scores.setting.preset}`"
    unit = " (Points of mIoU, mean of the folds, 95 % interval.)" if experiment.rows else ""
    first = text[:1].upper() if text[:1].isascii() else text[:1]
    answer = f"**{where}: {SYMBOLS[status]}.** {first}{text[1:]}.{unit}"
    lines = [f"# {experiment.heading}: {experiment.title}", experiment.note, answer]
    lines += sentences.rests(scores, experiment)
    if experiment.rows:
        lines += [sentences.support_verdict(scores, experiment), *sentences.missing(scores, experiment)]
    return "\n\n".join(lines)


def linked_overview(scores: Scores, folder: str) -> str:
    """Every target at a glance, as Markdown; those that have a notebook link to it, in a folder."""
    glance = overview(scores)
    links = []
    for target in glance.target:
        name, there = experiments.get(target).heading, (scores.store.root / f"{target}.ipynb").exists()
        links.append(f"[{name}]({folder}{target}.ipynb)" if there else name)
    statuses = glance.status.map(SYMBOLS)
    columns = {"": links, "about": glance.title, "status": statuses, "what came out": glance.outcome}
    return tables.markdown(pd.DataFrame(columns))
