"""Fill README and docs from results: what stands between `<!-- what:where -->` and `<!-- end -->` is made."""

import os
import re
import sys
from functools import cache
from pathlib import Path

import pandas as pd

from dpnet import io
from dpnet.companion import compare, experiments, figures, paper, presets, results, sentences, tables, verdicts
from dpnet.companion.results import MEAN, Scores, load
from dpnet.companion.runner import Cohort
from dpnet.io import DPNetError, write
from dpnet.metrics import METRICS

MARKED = re.compile(r"(<!-- (?P<what>[\w-]+):(?P<where>[\w-]+) -->).*?(<!-- end -->)", re.DOTALL)
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
            text = f"\n{verdicts.linked_overview(scores_of(where), f'{folder}/{where}/')}\n"
        elif what in OF_DEVICE:
            text = f"\n{_measured(what, where)}\n"
        elif what in OF_SCORES:
            text = OF_SCORES[what](scores_of(where))
        else:
            known = ", ".join(["glance", *OF_SCORES, *OF_DEVICE])
            raise DPNetError(f"{document.name}: unknown marker {what!r}: choose from {known}")
        return f"{mark[1]}{text}{mark[4]}"

    return MARKED.sub(fill, document.read_text())


def _expect(scores: Scores) -> str:
    """What a reader's own training of the full model gives, under both metrics: that of seed 0, or one more."""
    same, other = [], []
    for metric in METRICS:
        trainings = scores.samples([(1.0, scores.of_row(TABLE_3.best))], MEAN, metric)[:, 0]
        least, most = compare.prediction_interval(trainings.tolist())
        same.append(f"**{trainings[0]:.1f}** ({tables.METRIC_NAMES[metric]})")
        other.append(f"{least:.1f} to {most:.1f}")
    return (
        f"{' and '.join(same)} for the full model, to the digit on the same kind of processor. "
        f"Another kind is another training: {' and '.join(other)} (95 %)"
    )


def _ablation(scores: Scores) -> str:
    """Table 3 in short: the mean of each row, and what it adds to the row above; ours beside the paper's."""
    gains = tables.headline(scores, TABLE_3).set_index("effect")
    steps = [gains.loc[effect.name].to_dict() for effect in TABLE_3.effects]
    *ours, whole = [f"{tables.difference(step)} {verdicts.SYMBOLS[step['status']][0]}" for step in steps]
    *theirs, papers_whole = [f"{step['paper']:+.1f}" for step in steps]
    short = tables.beside(scores, TABLE_3)[["PIM", "MSF", "CCM", "mean", "paper mean"]]
    short = short.set_axis(["PIM", "MSF", "CCM", "ours", "paper"], axis="columns")
    short = short.assign(**{"gain over the row above": ["", *ours], "paper's gain": ["", *theirs]})
    below = results.of_metric(results.baselines(scores, TABLE_3), TABLE_3).query(f"fold == '{MEAN}'")
    untrained = below.set_index("yardstick").miou
    last = (
        f"All three over none: {whole}; in the paper {papers_whole}. "
        f"Trainings: {sentences.trainings(scores, TABLE_3)}. Without training a prototype of "
        f"frozen features scores {untrained[results.BASELINES['prototype']]:.1f}, "
        f"and marking every object of the query, whatever its class, {untrained[results.BASELINES['objects']]:.1f}."
    )
    return f"\n{tables.markdown(short)}\n\n{last}\n"


def _measured(what: str, device: str) -> str:
    """What was measured on a device, as Markdown."""
    suffix, command = OF_DEVICE[what]
    file = io.ROOT / "results" / what / f"{device}.{suffix}"
    if not file.exists():
        raise DPNetError(f"{file}: missing: run `{command}` on that device, or take its mark out of the document")
    return tables.markdown(pd.read_csv(file)) if suffix == "csv" else file.read_text().strip()


OF_SCORES = {
    "expect": _expect,
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
    try:
        write_documents()
    except DPNetError as error:
        sys.exit(f"documents: error: {error}")
