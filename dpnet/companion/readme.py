"""Documents whose numbers come from results: what stands between `<!-- what:where -->` and `<!-- end -->` is made."""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from dpnet import io
from dpnet.companion import experiments, figures, paper, presets, tables, verdicts
from dpnet.companion.runner import Cohort
from dpnet.companion.scores import MEAN, Scores, load
from dpnet.io import DPNetError, read_json, write
from dpnet.metrics import METRICS, interval

MARKED = re.compile(r"(<!-- (?P<what>[\w-]+):(?P<where>[\w-]+) -->).*?(<!-- end -->)", re.DOTALL)


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
    """A document's text, its marked parts made from the results on disk.

    Arguments:
        document: with marks such as `<!-- table3:shapes-quick -->` or `<!-- speed:cpu-2-cores -->`.

    Raises:
        DPNetError: an unknown mark, or results that are not there.
    """
    folder = Path(os.path.relpath(io.ROOT / "results", document.parent)).as_posix()
    of_scores: dict[str, Callable[[Scores], str]] = {
        "expect": _expect,
        "ablation": _ablation,
        "glance": lambda scores: _glance(scores, folder),
        "support": lambda scores: tables.support_verdict(scores, experiments.get("table3")),
        "protocol": lambda scores: tables.protocol(scores, experiments.get("table3")),
        "paper": lambda _: f"**{papers_best():.1f}** (CANet metric)",
        "lint": lambda _: f"{len(paper.lint())}",
        "candidates": lambda scores: f"{len(_candidates(scores))}",
    }
    of_device = {"speed": _speed, "faults": _faults}

    @cache
    def scores_of(where: str) -> Scores:
        benchmark, preset = where.rsplit("-", 1)
        return load(presets.resolve(benchmark, preset), io.ROOT / "results")

    def fill(mark: re.Match[str]) -> str:
        what, where = mark["what"], mark["where"]
        if what in of_device:
            return f"{mark[1]}{of_device[what](where)}{mark[4]}"
        if what not in of_scores:
            known = ", ".join([*of_scores, *of_device])
            raise DPNetError(f"{document.name}: unknown marker {what!r}: choose from {known}")
        return f"{mark[1]}{of_scores[what](scores_of(where))}{mark[4]}"

    return MARKED.sub(fill, document.read_text())


def _expect(scores: Scores) -> str:
    """The full model's mean under both metrics, with intervals."""
    records = scores.of_row(experiments.get("table3").best)
    parts = []
    for metric in METRICS:
        samples = scores.samples(records, MEAN, metric)
        if samples is None:
            return "not run on every fold"
        low, high = interval(samples.resamples)
        parts.append(f"**{samples.value:.1f}** [{low:.1f}, {high:.1f}] ({tables.METRIC_NAMES[metric]})")
    return " and ".join(parts)


def linked_overview(scores: Scores, folder: str, heading: str | None = None) -> str:
    """Every target at a glance, as Markdown; those that were run link to their notebooks in a folder."""
    glance = verdicts.overview(scores)
    links = []
    for target, status in zip(glance.target, glance.status, strict=True):
        name = experiments.get(target).heading
        links.append(name if status == "not run" else f"[{name}]({folder}{target}.ipynb)")
    statuses = glance.status.map(verdicts.SYMBOLS)
    table = pd.DataFrame({"": links, "about": glance.title, "status": statuses})
    return markdown(table if heading is None else table.assign(**{heading: glance.outcome}))


def _ablation(scores: Scores) -> str:
    """Table 3 in short: the mean of each row, and what it adds to the row above; ours beside the paper's."""
    table3 = experiments.get("table3")
    gains = tables.headline(scores, table3).set_index("effect")
    steps = [gains.loc[effect.name].to_dict() for effect in table3.effects]
    ours = [f"{tables.difference(step)} {verdicts.SYMBOLS[step['status']][0]}" for step in steps]
    *each, whole = zip(ours, (f"{step['paper']:+.1f}" for step in steps), strict=True)
    short = tables.beside(scores, table3)[["PIM", "MSF", "CCM", "mean", "paper mean"]].copy()
    short.columns = ["PIM", "MSF", "CCM", "ours", "paper"]
    short["gain over the row above"], short["paper's gain"] = zip(("", ""), *each, strict=True)
    return f"\n{markdown(short)}\n\nAll three over none: {whole[0]}; in the paper {whole[1]}.\n"


def _glance(scores: Scores, folder: str) -> str:
    """Every target with its link and its status."""
    return f"\n{linked_overview(scores, f'{folder}/{scores.store.root.name}/')}\n"


def _candidates(scores: Scores) -> dict[str, Any]:
    return dict(presets.CANDIDATES[scores.setting.benchmark, scores.setting.preset])


def papers_best() -> float:
    """What the paper reports for the full model, in Table 3."""
    best = experiments.get("table3").best
    return float(paper.cells(3).set_index([*best.key, "fold"]).loc[(*best.key.values(), MEAN), "miou"])


def _speed(device: str) -> str:
    """What was measured on a device: the ratios, and what they rest on."""
    measured = read_json(_measured("speed", f"{device}.json", "make speed"))
    about = (
        f"{measured['device']}, {measured['threads']} threads, torch {measured['torch'].split('+')[0]}; `shapes` at "
        f"`{measured['preset']}` ({measured['backbone']}, {measured['size']}²); medians of {measured['repeats']} "
        "turns, a ratio being that of each turn's own. "
    )
    return f"\n{markdown(speed_ratios(measured))}\n\n{about}{speed_checks(measured)}\n"


def speed_ratios(measured: dict[str, Any]) -> pd.DataFrame:
    """The ratios of `results/speed/<device>.json` for people: medians of turns, in brackets least and most."""
    lines = []
    for line in measured["ratios"]:
        middle, least, most = line["ratio"]
        budget, more = line["budget"], line["more is better"]
        met = "—"
        if budget is not None:
            met = "yes" if (middle >= budget if more else middle <= budget) else "no"
        lines.append(
            {
                "what": line["what"],
                "ours": f"{_number(line['ours'][0])} {line['unit']}",
                "against": f"{_number(line['against'][0])} {line['unit']} ({line['reference']})",
                "ratio [least, most]": f"{middle:.3g} [{least:.3g}, {most:.3g}]",
                "budget": "—" if budget is None else f"{'≥' if more else '≤'} {budget:g}",
                "met": met,
            }
        )
    return pd.DataFrame(lines)


def speed_checks(measured: dict[str, Any]) -> str:
    """What the ratios rest on: that both sides answer the same, and what half precision costs."""
    checks = measured["checks"]
    return (
        f"The reference's answers are ours: {checks['pixels that differ (%)']:.3g} % of pixels differ (features are "
        f"kept in fp16), {checks['pixels that differ, three scales (%)']:.3g} % with three scales. "
        f"{checks['precision']} against fp32: at most {checks['mIoU that differs (points)']:.2g} points of mIoU in "
        f"any of {checks['rows']} rows over {checks['episodes']} episodes."
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _faults(device: str) -> str:
    """What was killed on a device, and what came of it."""
    return f"\n{markdown(pd.read_csv(_measured('faults', f'{device}.csv', 'make test-faults')))}\n"


def _measured(kind: str, name: str, command: str) -> Path:
    file = io.ROOT / "results" / kind / name
    if not file.exists():
        raise DPNetError(f"{file}: missing: run `{command}` on that device, or take its mark out of the document")
    return file


def markdown(table: pd.DataFrame) -> str:
    """A DataFrame as a table of Markdown."""
    cells = [[str(v).replace("|", "\\|") for v in line] for line in table.astype(str).to_numpy().tolist()]
    lines = [[str(c) for c in table.columns], ["---"] * len(table.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
