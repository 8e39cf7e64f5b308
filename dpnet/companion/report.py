"""The report of a benchmark's results: what stands in it is read from results, never typed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpnet import io
from dpnet.companion import (
    details,
    experiments,
    explorer,
    notebooks,
    paper,
    presets,
    results,
    sentences,
    tables,
    verdicts,
)
from dpnet.companion.estimates import TOO_FEW
from dpnet.companion.examples import RENDERED
from dpnet.companion.experiments import Experiment
from dpnet.companion.results import MEAN, Scores, load
from dpnet.config import BENCHMARKS
from dpnet.io import DPNetError, write

SPAN = ("difference", "low", "high")
EARLIER = (
    "The first version of this report had intervals for other images, and none that held for other trainings; on "
    "`shapes` each number was of one training of 800 steps."
)
WHY = {TOO_FEW: "too few trainings", "not run": "not run"}
TEMPLATE = Path(__file__).with_name("report.md")
NOT_COMPARABLE = "**Not the paper's setting: directions compare, values do not.**"


def csvs(scores: Scores, experiment: Experiment) -> dict[str, pd.DataFrame]:
    """What is written beside an executed notebook: suffix of the CSV's name -> its content."""
    if not experiment.rows:
        return {"": details.matches(scores)}
    made = {
        "": results.rows(scores, experiment),
        "_effects": results.effects(scores, experiment),
        "_yardsticks": results.baselines(scores, experiment),
    }
    if experiment.table is not None:
        made["_printed"] = tables.printed(scores, experiment)
    if experiment.name == "fig4":
        of_folds = [details.qualitative_examples(scores, experiment, fold).assign(fold=fold) for fold in scores.folds]
        made["_looks"] = pd.concat(of_folds)
    return made


def write_tables(scores: Scores, asked: Sequence[Experiment]) -> None:
    """Write the CSVs of targets, and execute their notebooks that are not up to date; nothing is trained."""
    wanted: dict[str, dict[str, Any]] = {}
    setting = scores.setting
    usual = {"benchmark": setting.benchmark, "preset": setting.preset, "seeds": len(scores.seeds)}
    images = {"fold": scores.folds[0], "pictures": setting.benchmark in RENDERED}
    for experiment in asked:
        for suffix, table in csvs(scores, experiment).items():
            text = table.to_csv(index=False, lineterminator="\n")
            write(scores.store.root / f"{experiment.name}{suffix}.csv", text.encode())
        more = images if experiment.name in ("fig3", "fig4") else {"target": experiment.name}
        wanted[experiment.name] = usual | more
    notebooks.execute_stale(scores.store.root, wanted)


def publish(scores: Scores) -> None:
    """Write `REPORT.md`, and execute `report.ipynb` and the guides, beside the tables."""
    write(scores.store.root / "REPORT.md", as_markdown(scores).encode())
    benchmark, preset = scores.setting.benchmark, scores.setting.preset
    where = {"benchmark": benchmark, "preset": preset}
    wanted = {"report": where}
    if benchmark in RENDERED:  # photographs are not ours to publish
        wanted |= {"01_method": {}, "02_benchmark": where}
        if preset != "tiny":  # it makes a tiny Table 3 itself
            wanted |= {"03_your_data": {}}
        if explorer.keep(explorer.cohort(benchmark, preset, scores.store.root.parent)):
            wanted["explore"] = where
    notebooks.execute_stale(scores.store.root, wanted)


def publish_all(benchmark: str | None, preset: str) -> None:
    """CSVs, notebooks and reports of one benchmark's results (None: of all but those at `tiny`)."""
    folder = io.places().results
    names = [file.parent.name.rpartition("-") for file in sorted(folder.glob("*/benchmark.json"))]
    asked = [(name, of) for name, _, of in names if name in BENCHMARKS and of in presets.PRESETS[1:]]
    if benchmark:
        asked = [(benchmark, preset)]
    if not asked:
        raise DPNetError(f"{folder}: no results to report: run `make reproduce-table3`")
    for scores in [load(presets.resolve(*one), folder) for one in asked]:
        every = experiments.several("all", scores.setting.benchmark)
        write_tables(scores, [one for one in every if verdicts.outcome(scores, one) != verdicts.NOT_RUN])
        publish(scores)
        print(f"{scores.store.root.name}: tables and report are those of its runs")


def as_markdown(scores: Scores) -> str:
    """The report as Markdown, with the links of its own folder."""
    table3, fig5 = experiments.get("table3"), experiments.get("fig5")
    claims, effects = verdicts.claims(scores), tables.headline(scores, fig5).set_index("effect")
    once = claims[~claims.effect.str.contains(verdicts.AGAIN)]
    statuses = once.status.value_counts()
    thresholds = [f"{e.name}: {tables.difference(effects.loc[e.name].to_dict())}" for e in fig5.effects[:2]]
    text = TEMPLATE.read_text("utf-8").format(
        benchmark=scores.setting.benchmark,
        preset=scores.setting.preset,
        protocol=sentences.protocol(scores, table3),
        recipe=_recipe(scores),
        comparable="" if scores.comparable(table3) else NOT_COMPARABLE,
        overview=verdicts.linked_overview(scores, ""),
        differences=len(once),
        same=statuses.get("same direction", 0),
        opposite=statuses.get("opposite direction", 0),
        undecided=statuses.get("undecided", 0),
        too_few=statuses.get(TOO_FEW, 0),
        not_run=statuses.get("not run", 0),
        claims=tables.markdown(claims.assign(status=claims.status.map(verdicts.SYMBOLS))),
        earlier=_earlier(scores),
        support=sentences.support_verdict(scores, table3),
        baselines=tables.markdown(tables.baselines(scores, table3, (MEAN,))[0]),
        classes=_classes(scores, table3),
        numbers=_numbers(scores),
        lint=tables.markdown(lint()),
        best_of_table5=paper.cells(5).miou.max(),
        best_of_table3=paper.table(3)["mean"].iloc[-1],
        stated=effects.paper.iloc[0],
        thresholds="; ".join(thresholds),
    )
    return re.sub(r"\n{3,}", "\n\n", text) + "\n"


def lint() -> pd.DataFrame:
    """What does not add up in the paper, for people: where, text, stated, computed, reading."""
    table = paper.lint()[["where", "text", "stated", "computed", "reading"]]
    return table.assign(**{column: table[column].map("{:g}".format) for column in ("stated", "computed")})


def _numbers(scores: Scores) -> str:
    """Each target that was run: ours beside the paper's."""
    parts = []
    for experiment in experiments.several("all", scores.setting.benchmark):
        if verdicts.outcome(scores, experiment) != verdicts.NOT_RUN:
            table = tables.main(scores, experiment)[0]
            if experiment.name == "table5":
                table = table.reset_index().rename(columns={"λ2": "λ2 \\ λ1"})
            parts += [f"### {experiment.heading}: {experiment.title}", experiment.note, tables.markdown(table)]
            parts += [*sentences.rests(scores, experiment), *sentences.missing(scores, experiment)]
    return "\n\n".join(parts)


def _earlier(scores: Scores) -> str:
    """What earlier results let us say of the same effects, and what holds now; empty where nothing was."""
    lines = []
    for experiment in experiments.several("all", scores.setting.benchmark):
        now = tables.headline(scores, experiment).set_index("effect").to_dict("index")
        for then in paper.words("earlier", experiment.name):
            if (then["benchmark"], then["preset"]) == (scores.setting.benchmark, scores.setting.preset):
                row, before = now[then["effect"]], tables.difference({k: float(then[k]) for k in SPAN})
                why = WHY.get(row["status"], "before: one training of another schedule")
                why = "" if row["status"] == then["status"] else why
                words = [verdicts.SYMBOLS[of["status"]] for of in (then, row)]
                about = [f"{experiment.heading}, {then['effect']}", before, then["trainings"], words[0]]
                lines.append([*about, tables.difference(row), str(row["trainings"]), words[1], why])
    columns = ["effect", "before", "trainings", "we said", "now", "trainings now", "what holds", "why"]
    text = tables.markdown(pd.DataFrame(lines, columns=columns))
    heading = "<details><summary>What we said before, and what holds now</summary>"
    return f"{heading}\n\n{EARLIER}\n\n{text}\n\n</details>" if lines else ""


def _classes(scores: Scores, experiment: Experiment) -> str:
    """Class by class: which supports the best row tells apart, then how each row does."""
    classes = details.by_class(scores, experiment)
    if classes.empty:
        return ""
    parts = []
    if 1 in scores.about.get("shows", {}).values():
        parts += ["A query with one class leaves little to ask for. By what it shows (CANet metric, mean of folds):"]
        parts += [tables.markdown(tables.by_queries(scores, experiment))]
    best = f"({experiment.best.label}; IoU in %, PFENet metric)"
    return "\n\n".join([
        *parts,
        "<details><summary>By pair of classes, and by class</summary>",
        f"The same queries under a right support and a wrong one {best}:",
        tables.markdown(details.pairs(scores, experiment)),
        "Each class by itself, with the number of test images behind it (IoU in %, CANet metric):",
        tables.markdown(classes),
        "</details>",
    ])  # fmt: skip


def _recipe(scores: Scores) -> str:
    """How the schedule was chosen, where it was: what `scripts/choose.py` measured."""
    file = scores.store.root / "recipe_printed.csv"
    if not file.exists():
        return ""
    return (
        "<details><summary>How the schedule was chosen</summary>\n\nTable 3's rows and their effects on images that "
        "no table tests, by candidate (`scripts/choose.py`; mIoU, CANet metric, mean and half of its 95 % interval, "
        "which one seed lacks). Seeds differ in their test episodes too. Minutes: one CPU core, three heads, "
        "at different times: compare them roughly. [What was chosen, and why](../../docs/protocol.md#training)."
        "\n\n![Score and spread by number of steps, and effects by candidate](recipe.png)\n\n"
        f"{tables.markdown(pd.read_csv(file))}\n\n</details>"
    )
