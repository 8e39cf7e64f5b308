"""Fill README and docs from results: what stands between `<!-- what:where -->` and `<!-- end -->` is made."""

import os
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import choose_plot
import pandas as pd

from dpnet import io
from dpnet.companion import (
    compare,
    details,
    experiments,
    figures,
    paper,
    presets,
    results,
    sentences,
    tables,
    verdicts,
)
from dpnet.companion.results import MEAN, Scores, load
from dpnet.companion.runner import Cohort
from dpnet.io import DPNetError, write
from dpnet.metrics import METRICS

MARKED = re.compile(r"(<!-- (?P<what>[\w-]+):(?P<where>[\w+-]+) -->).*?(<!-- end -->)", re.DOTALL)
TABLE_3 = experiments.get("table3")


def documents() -> list[Path]:
    """README and what it links to."""
    return [io.ROOT / "README.md", *sorted((io.ROOT / "docs").glob("*.md"))]


def write_documents() -> None:
    """Fill the documents, and draw README's picture if the data and the examples are there."""
    for document in documents():
        write(document, filled(document).encode())
        print(f"{document.name}: numbers are those of results/")
    example = Cohort("all", presets.resolve("shapes", "quick"), 0, 0, io.ROOT / "results")
    try:
        figure = figures.predictions(example.store, example.example_run, example.usual.episodes)
    except (DPNetError, FileNotFoundError):
        return  # a checkout whose benchmark was never rendered keeps the picture that it has
    figure.savefig(example.store.root / "episodes.png", dpi=80, metadata={"Software": None})


def filled(document: Path) -> str:
    """A document's text, its marked parts (as `<!-- glance:shapes-quick -->`) made from the results on disk."""
    folder = Path(os.path.relpath(io.ROOT / "results", document.parent)).as_posix()

    @cache
    def scores_of(where: str) -> Scores:
        return load(presets.resolve(*where.rsplit("-", 1)), io.ROOT / "results")

    def fill(mark: re.Match[str]) -> str:
        what, where = mark["what"], mark["where"]
        if what == "glance":
            text = f"\n{_glance([scores_of(one) for one in where.split('+')], folder)}\n"
        elif what in OF_DEVICE:
            text = f"\n{_measured(what, where)}\n"
        elif what in OF_SCORES:
            text = OF_SCORES[what](scores_of(where))
        else:
            known = ", ".join(["glance", *OF_SCORES, *OF_DEVICE])
            raise DPNetError(f"{document.name}: unknown marker {what!r}: choose from {known}")
        return f"{mark[1]}{text}{mark[4]}"

    return MARKED.sub(fill, document.read_text())


def _glance(every: list[Scores], folder: str) -> str:
    """Every target on some benchmarks: what it is about, and its status on each, which links to its notebook."""
    table = pd.DataFrame()
    for scores in every:
        glance, benchmark = verdicts.overview(scores).set_index("target"), scores.setting.benchmark
        links = [
            f"[{verdicts.SYMBOLS[status][0]}]({folder}/{scores.setting.name}/{target}.ipynb)"
            for target, status in glance.status.items()
        ]
        if table.empty:
            table = pd.DataFrame({"": [experiments.get(t).heading for t in glance.index], "about": glance.title})
        table[f"`{benchmark}`"] = pd.Series(links, glance.index)
    return tables.markdown(table.fillna("—"))


def _expect(scores: Scores) -> str:
    """What a reader's own training of the full model gives, under both metrics: that of seed 0, or one more."""
    same = [
        f"**{scores.samples([(1.0, scores.of_row(TABLE_3.best))], MEAN, m)[0, 0]:.1f}** ({tables.METRIC_NAMES[m]})"
        for m in METRICS
    ]
    return (
        f"{' and '.join(same)} for the full model, to the digit on the same kind of processor. "
        f"On any other kind expect {_range(scores)}"
    )


def _range(scores: Scores) -> str:
    """Where one more training of the full model lies, under both metrics."""
    spans = []
    for metric in METRICS:
        trainings = scores.samples([(1.0, scores.of_row(TABLE_3.best))], MEAN, metric)[:, 0]
        spans.append("{:.1f} to {:.1f}".format(*compare.prediction_interval(trainings.tolist())))
    return f"{' and '.join(spans)} (95 %)"


def _ablation(scores: Scores) -> str:
    """Table 3 in short: the mean of each row, and what it adds to the row above; ours beside the paper's."""
    gains = tables.headline(scores, TABLE_3).set_index("effect")
    steps = [gains.loc[effect.name].to_dict() for effect in TABLE_3.effects]
    *ours, whole = [f"{tables.difference(step)} {verdicts.SYMBOLS[step['status']][0]}" for step in steps]
    *theirs, papers_whole = [f"{step['paper']:+.1f}" for step in steps]
    short = tables.beside(scores, TABLE_3)[["PIM", "MSF", "CCM", "mean", "paper mean"]]
    short = short.set_axis(["PIM", "MSF", "CCM", "ours", "paper"], axis="columns")
    short = short.assign(**{"gain over the row above": ["", *ours], "paper's gain": ["", *theirs]})
    untrained = _beside(scores)
    last = (
        f"All three over none: {whole}; in the paper {papers_whole}. "
        f"Trainings: {sentences.trainings(scores, TABLE_3)}. Without training a prototype of "
        f"frozen features scores {untrained[results.BASELINES['prototype']]:.1f}, "
        f"and marking all labelled objects of the query {untrained[results.BASELINES['objects']]:.1f}."
    )
    return f"\n{tables.markdown(short)}\n\n{last}\n"


def _whole(scores: Scores) -> str:
    """The effect of all modules of Table 3, and the full model beside what needs no training."""
    whole = tables.headline(scores, TABLE_3).set_index("effect").loc[TABLE_3.effects[-1].name].to_dict()
    values = _beside(scores)
    return (
        f"{tables.difference(whole)} {verdicts.SYMBOLS[whole['status']][0]} "
        f"({sentences.trainings(scores, TABLE_3)} trainings); the full model scores "
        f"{values[TABLE_3.best.label]:.1f}, the prototype {values[results.BASELINES['prototype']]:.1f}"
    )


def _beside(scores: Scores) -> pd.Series:
    """The full model and what needs no training, by name: means of the folds."""
    below = results.of_metric(results.baselines(scores, TABLE_3), TABLE_3).query(f"fold == '{MEAN}'")
    return below.set_index("yardstick").miou


def _baselines(scores: Scores) -> str:
    """The best row of Table 3, with a wrong support too, beside what needs no training, by fold."""
    return f"\n{tables.markdown(tables.baselines(scores, TABLE_3, (MEAN,))[0])}\n"


def _explained(scores: Scores) -> str:
    """How much of the right support's score a wrong one keeps: by queries, by pairs of classes, and as trained."""
    lines = []
    both = [scores.of_row(TABLE_3.best, "right"), scores.of_row(TABLE_3.best, "wrong")]
    untrained = [scores.baseline("prototype"), scores.baseline("prototype-wrong")]
    for name, some, selections in (
        ("all queries", scores, both),
        ("queries that show one class", replace(scores, showing="one"), both),
        ("queries that show several", replace(scores, showing="several"), both),
        ("training-free prototype, all queries", scores, untrained),
    ):
        lines.append([name, *(some.estimate([(1.0, s)], MEAN, TABLE_3.metric).value for s in selections)])
    pairs = details.pairs(scores, TABLE_3)
    kind_of = {c: kind for kind, classes in KINDS.items() for c in classes}
    query, support = (pairs[column].map(kind_of) for column in ("query of", "wrong support of"))
    alike = {f"pairs of two {kind}": (query == kind) & (support == kind) for kind in KINDS}
    for name, chosen in {**alike, "other pairs of classes": query != support}.items():
        lines.append([name, *pairs[chosen][["right", "wrong"]].mean()])
    recipe = pd.read_csv(scores.store.root / "recipe.csv").query("candidate in @LACKING")
    of_both = recipe.groupby("seed").candidate.transform("nunique") == len(LACKING)
    means = recipe[of_both].groupby("candidate")[[TABLE_3.best.label, "wrong support"]].mean()
    for candidate, name in LACKING.items():
        lines.append([name, *means.loc[candidate]])
    table = pd.DataFrame(lines, columns=["", "right support", "wrong support"])
    share = (100 * table["wrong support"] / table["right support"]).map("{:.0f}%".format)
    return f"\n{tables.markdown(table.round(1).assign(**{'wrong of right': share}))}\n"


def _dropped(scores: Scores) -> str:
    """What `scripts/dropped.py` measured: means of folds, the classes of the fold that changes most, base classes."""
    every, base = (pd.read_csv(scores.store.root / f"dropped{of}.csv") for of in ("", "_base"))
    some = every[every["class"].isna() | (every.fold == every.fold[every.difference.abs().idxmax()])]
    base = base.assign(candidate="base classes", difference=base.dropped - base.kept)
    mean, _, half = choose_plot.moments(base.set_index(["candidate", "scenes", "seed"]))
    mean = mean.assign(low=mean.difference - half.difference, high=mean.difference + half.difference)
    some = pd.concat([some, mean.rename_axis("class").reset_index()])
    names = some["class"].fillna("fold " + some.fold).str.replace("fold mean", "mean of folds")
    cells = {
        "images left out": (100 * some["images left out"]).map("{:.0f}%".format).replace("nan%", tables.NOTHING),
        "kept": some.kept.map(tables.decimal),
        "left out": some.dropped.map(tables.decimal),
        "difference": [tables.difference(row) for row in some.to_dict("records")],
        "kept, wrong support": some["kept, wrong support"].map(tables.decimal),
        "left out, wrong support": some["dropped, wrong support"].map(tables.decimal),
        "prototype": some.prototype.map(tables.decimal),
    }
    return f"\n{tables.markdown(pd.DataFrame({'': names, **cells}))}\n"


def _measured(what: str, device: str) -> str:
    """What was measured on a device, as Markdown."""
    suffix, command = OF_DEVICE[what]
    file = io.ROOT / "results" / what / f"{device}.{suffix}"
    if not file.exists():
        raise DPNetError(f"{file}: missing: run `{command}` on that device, or take its mark out of the document")
    return tables.markdown(pd.read_csv(file)) if suffix == "csv" else file.read_text().strip()


KINDS = {  # classes of VOC that look alike
    "animals": ("bird", "cat", "cow", "dog", "horse", "sheep"),
    "vehicles": ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
}
LACKING = {  # candidates of `dpnet choose`
    "2400 steps": "base classes left out of training, every training query shows its class",
    "absent 0.25": "the same, a quarter of the training queries lack it",
}
OF_SCORES = {
    "expect": _expect,
    "range": _range,
    "whole": _whole,
    "baselines": _baselines,
    "explained": _explained,
    "dropped": _dropped,
    "ablation": _ablation,
    "support": lambda scores: sentences.support_verdict(scores, TABLE_3),
    "protocol": lambda scores: sentences.protocol(scores, TABLE_3),
    "paper": lambda _: f"**{paper.table(3)['mean'].iloc[-1]:.1f}** (CANet metric)",
    "lint": lambda _: f"{len(paper.lint())}",
}
OF_DEVICE = {  # kind of file, what writes it
    "speed": ("md", "make speed"),
    "faults": ("csv", "make test-faults"),
    "head": ("csv", "make head-card"),
}


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("documents: takes no arguments: it fills README and docs from results/")
    try:
        write_documents()
    except DPNetError as error:
        sys.exit(f"documents: error: {error}")
