"""The report of a benchmark's results, and README's numbers: what stands here is read from results, never typed."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpnet import io
from dpnet.companion import (
    experiments,
    explorer,
    figures,
    notebooks,
    paper,
    presets,
    results,
    runner,
    tables,
)
from dpnet.companion.experiments import Experiment
from dpnet.companion.results import MEAN, Reader, Scored
from dpnet.companion.runner import Cohort
from dpnet.config import Training
from dpnet.io import DPNetError, read_json, write

README = io.ROOT / "README.md"
NOTES = Path(__file__).with_name("report_notes.md")  # what was easy, what was difficult, where the paper is silent
AGAIN = "the same as"
MARKED = re.compile(r"(<!-- (?P<what>[\w-]+):(?P<name>[\w-]+) -->).*?(<!-- end -->)", re.DOTALL)
SHOWN = Cohort("all", presets.resolve("shapes", "quick"), 0, 0, io.ROOT / "results")  # README's picture
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


def overview(benchmark: str, preset: str, results_folder: Path) -> pd.DataFrame:
    """Every target at a glance.

    Arguments:
        benchmark: its name.
        preset: its sizes.
        results_folder: the folder of all results.

    Returns:
        target, title, status (a key of `SYMBOLS`), said (what came out, in a few words).
    """
    reader = Reader(benchmark, preset, results_folder)
    lines = []
    for experiment in experiments.several("all", benchmark):
        status, said = _outcome(reader, experiment)
        lines.append({"target": experiment.name, "title": experiment.title, "status": status, "said": said})
    return pd.DataFrame(lines)


def claims(reader: Reader) -> pd.DataFrame:
    """The paper's claims that a run can test, and what came out.

    Arguments:
        reader: the results.

    Returns:
        claim (the paper's words), target, effect, paper, ours (mean of folds, 95 % interval), status, by fold, by
        seed (with several). A difference that stands there twice says so in its effect.
    """
    lines: list[dict[str, Any]] = []
    each = [reader.of_seed(seed) for seed in reader.seeds] if len(reader.seeds) > 1 else []
    before: dict[frozenset[tuple[Scored, float]], str] = {}
    for experiment in experiments.several("all", reader.benchmark):
        claimed = {e.name: e.claim for e in experiment.effects if e.claim}
        if not claimed:
            continue
        weights = {e.name: e.weights for e in experiment.effects}
        alone = [tables.headline(one, experiment).set_index("effect").difference for one in each]
        folds = tables.headline(reader, experiment, [str(f) for f in reader.folds]).groupby("effect").difference
        for row in tables.headline(reader, experiment).to_dict("records"):
            name = row["effect"]
            if name in claimed:
                what = frozenset((reader.of_row(experiment.rows[i]), w) for i, w in weights[name].items())
                again = f" ({AGAIN} {before[what]})" if what in before else ""
                before.setdefault(what, f"{experiment.heading}, {name}")
                lines.append(
                    {
                        "claim": claimed[name],
                        "target": experiment.name,
                        "effect": name + again,
                        "paper": "positive" if np.isnan(row["paper"]) else f"{row['paper']:+.1f}",
                        "ours": _interval(row),
                        "status": row["status"],
                        "by fold": _signed(folds.get_group(name)),
                        "by seed": _signed(seed[name] for seed in alone),
                    }
                )
        if experiment.name == "table5":
            lines.append(_best_of_sixteen(reader))
    row = _cycle_gain(reader)
    lines.append(
        {
            "claim": "“noise” of plain similarity is rejected by the way back (precision of the candidates, %)",
            "target": "fig3",
            "effect": "cycle over cosine matches",
            "paper": "positive",
            "ours": _interval(row),
            "status": row["status"],
            "by fold": _signed(float(_cycle_gain(reader, str(fold))["difference"]) for fold in reader.folds),
            "by seed": _signed(float(_cycle_gain(one)["difference"]) for one in each),
        }
    )
    return pd.DataFrame(lines).drop(columns=[] if each else "by seed").fillna("—")


def _best_of_sixteen(reader: Reader) -> dict[str, Any]:
    found = results.best_weights(reader)
    return {
        "claim": "“the best results are achieved when … both set to 1.0”",
        "target": "table5",
        "effect": "both at 1 over the highest of the sixteen",
        "paper": "number 1",
        "ours": "—" if found is None else f"number {found['rank']}: {_interval(found)}",
        "status": "not run" if found is None else found["status"],
    }


def _signed(values: Iterable[float]) -> str:
    return ", ".join("—" if np.isnan(v) else f"{v:+.1f}" for v in values)


def publish(reader: Reader) -> None:
    """Write `REPORT.md`, and execute `report.ipynb` and the guides, beside the tables.

    Arguments:
        reader: the results.
    """
    write(reader.store.root / "REPORT.md", as_markdown(reader).encode())
    where: dict[str, str] = {"benchmark": reader.benchmark, "preset": reader.preset}
    wanted = {"report": where}
    if reader.benchmark in runner.RENDERED:  # photographs are not ours to publish
        wanted |= {"01_method": {}, "02_benchmark": where}
        if reader.preset != "tiny":  # it makes a tiny Table 3 itself
            wanted |= {"03_your_data": {}}
        explored = explorer.cohort(reader.benchmark, reader.preset)
        if explorer.possible(explored):
            explorer.keep(explored)
            wanted["explore"] = where
    notebooks.execute_stale(reader.store.root, wanted)


def write_tables(reader: Reader, asked: Sequence[Experiment]) -> None:
    """Write the CSVs of targets, and execute their notebooks that are not up to date; nothing is trained or scored.

    Arguments:
        reader: the results.
        asked: the targets.

    Raises:
        DPNetError: a notebook fails.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for experiment in asked:
        for suffix, table in results.tables(reader, experiment).items():
            text = table.to_csv(index=False, lineterminator="\n")
            write(reader.store.root / f"{experiment.name}{suffix}.csv", text.encode())
        parameters = {"benchmark": reader.benchmark, "preset": reader.preset, "seeds": len(reader.seeds)}
        if experiment.name in ("fig3", "fig4"):  # they draw images
            parameters |= {"fold": reader.folds[0], "pictures": reader.benchmark in runner.RENDERED}
        wanted[experiment.name] = parameters
    notebooks.execute_stale(reader.store.root, wanted)


def publish_all(benchmark: str | None, preset: str) -> None:
    """CSVs, notebooks and reports of all results that are there, then README; nothing is trained or scored.

    Arguments:
        benchmark: one only; None: all with results, at any preset but `tiny`.
        preset: of that one.

    Raises:
        DPNetError: no results, or a corrupt file.
    """
    found = [Reader(benchmark, preset)] if benchmark else readers(io.places().results)
    if not found:
        raise DPNetError(f"{io.places().results}: no results to report: run `make reproduce-table3`")
    for reader in found:
        every = experiments.several("all", reader.benchmark)
        write_tables(reader, [experiment for experiment in every if _outcome(reader, experiment)[0] != "not run"])
        publish(reader)
        print(f"{reader.store.root.name}: tables and report are those of its runs")
    if io.places().results == io.ROOT / "results":
        write_readme()


def readers(folder: Path) -> list[Reader]:
    """One reader for each benchmark and preset that has results, `tiny` left out."""
    found = []
    for file in sorted(folder.glob("*/benchmark.json")):
        benchmark, _, preset = file.parent.name.rpartition("-")
        if benchmark in presets.BENCHMARKS and preset in presets.PRESETS and preset != "tiny":
            found.append(Reader(benchmark, preset, folder))
    return found


def as_markdown(reader: Reader) -> str:
    """The report as Markdown, with the links of its own folder."""
    table3 = experiments.get("table3")
    glance = overview(reader.benchmark, reader.preset, reader.store.root.parent)
    tested = claims(reader)
    linked = [
        f"[{experiments.get(t).heading}]({t}.ipynb)" if s != "not run" else experiments.get(t).heading
        for t, s in zip(glance.target, glance.status, strict=True)
    ]
    shown = pd.DataFrame(
        {"": linked, "about": glance.title, "status": glance.status.map(SYMBOLS), "what came out": glance.said}
    )
    parts = [
        f"# Report: `{reader.benchmark}` at `{reader.preset}`",
        "The paper's tables and claims beside our runs. Written by `make report` from the counts in `runs/`; "
        "no number is typed.",
        f"*Protocol.* {tables.protocol(reader, table3)} Each notebook states its own.",
        _recipe(reader),
        "" if reader.comparable(table3) else "**Not the paper's setting: directions compare, values do not.**",
        "## At a glance",
        markdown(shown),
        "## The paper's claims",
        _tally(tested),
        markdown(tested.assign(status=tested.status.map(lambda s: SYMBOLS.get(s, s)))),
        _best_weights(reader),
        "## Does the model read its support?",
        tables.support_verdict(reader, table3),
        markdown(tables.wide(results.yardsticks(reader, table3), ["yardstick"], intervals=(MEAN,))),
        *_pairs(reader, table3),
        "## The numbers",
        *_numbers(reader),
        "## What does not add up in the paper",
        "From its own tables and sentences (`dpnet/paper.py`); a reading is given where there is one.",
        markdown(lint()),
        _threshold_reading(reader),
        NOTES.read_text("utf-8"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def lint() -> pd.DataFrame:
    """What does not add up in the paper, for people: where, stated, computed, reading."""
    found = paper.lint()
    shown = found[["where", "text", "stated", "computed", "reading"]].copy()
    for column in ("stated", "computed"):
        shown[column] = ["—" if pd.isna(v) else f"{v:g}" for v in shown[column]]
    return shown


def _numbers(reader: Reader) -> list[str]:
    """Each target that was run: ours beside the paper's."""
    parts = []
    for experiment in experiments.several("all", reader.benchmark):
        if _outcome(reader, experiment)[0] == "not run":
            continue
        if not experiment.rows:
            table = tables.reliability(reader)
        elif experiment.table in (1, 2):
            table = tables.among(reader, experiment)
        elif experiment.name == "table5":
            table = tables.loss_weights(reader, experiment).reset_index().rename(columns={"λ2": "λ2 \\ λ1"})
            table.columns = [str(c) for c in table.columns]
        else:
            table = tables.beside(reader, experiment)
        parts += [f"### {experiment.heading}: {experiment.title}", experiment.note, markdown(table)]
        parts += tables.missing(reader, experiment)
    return parts


def _pairs(reader: Reader, experiment: Experiment) -> list[str]:
    """Class by class: which supports the best row tells apart, then how each row does."""
    classes = tables.by_class(reader, experiment)
    if classes.empty:
        return []
    return [
        "<details><summary>By pair of classes, and by class</summary>",
        f"The same queries under a right support and a wrong one ({experiment.best.label}; IoU in %, PFENet metric):",
        markdown(tables.pairs(reader, experiment)),
        "Each class by itself, with the number of test images behind it (IoU in %, CANet metric):",
        markdown(classes),
        "</details>",
    ]


def _outcome(reader: Reader, experiment: Experiment) -> tuple[str, str]:
    """Status and headline of a target."""
    if not experiment.rows:
        row = _cycle_gain(reader)
        if row["status"] == "not run":
            return "not run", "—"
        return str(row["status"]), f"the way back adds {_interval(row)} points to the precision of the candidates"
    every = results.rows(reader, experiment)
    means, folds = every[every.fold == MEAN], len(reader.folds)
    if every.miou.isna().all():
        return "not run", "—"
    if means.miou.isna().any():
        some = {i for i, row in enumerate(experiment.rows) if len(reader.missing_folds(reader.of_row(row))) < folds}
        # Other targets share a row or another, which alone says nothing of this one.
        begun = any(some.issuperset(effect.weights) for effect in experiment.effects)
        return ("incomplete", "; ".join(tables.missing(reader, experiment)[:1])) if begun else ("not run", "—")
    found = tables.headline(reader, experiment)
    mine = {e.name: bool(e.claim) or e.chief for e in experiment.effects}
    found = found[found.effect.isin(mine)]
    chief = found[found.effect.map(mine)] if any(mine.values()) else found
    said = "; ".join(f"{row['effect']} {_interval(row)}" for row in chief.to_dict("records"))
    best = results.best_weights(reader) if experiment.name == "table5" else None
    if best:
        said += f"; both at 1 are number {best['rank']} of the sixteen"
    if reader.comparable(experiment):
        same = (means.status == "reproduced") | means.paper.isna()
        return "reproduced" if same.all() else "differs", said
    statuses = set(chief.status) | ({best["status"]} if best else set())
    if not any(e.claim for e in experiment.effects):
        return "no claim", said
    return statuses.pop() if len(statuses) == 1 else "mixed", said


def _cycle_gain(reader: Reader, fold: str = MEAN) -> dict[str, float | str]:
    row = results.matches(reader).query(f"matches == 'cycle - cosine' and fold == '{fold}'").iloc[0]
    cell = {"difference": row.precision, "low": row.precision_low, "high": row.precision_high}
    return cell | {"status": results.direction(cell, 1.0)}


def _interval(row: dict[str, float | str]) -> str:
    if row["status"] == "not run":
        return "—"
    return f"{row['difference']:+.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def _tally(tested: pd.DataFrame) -> str:
    once = tested[~tested.effect.str.contains(AGAIN)]
    same, other, open_, none = (
        int((once.status == s).sum()) for s in ("same direction", "opposite direction", "undecided", "not run")
    )
    trainings = (
        " and, roughly, how much other trainings would: a bootstrap over so few seeds is too narrow rather than too "
        "wide, and each seed's own difference stands beside it."
        if "by seed" in tested
        else "; with one seed they do not say how much another training would, and a point or two may be that."
    )
    return (
        f"Of {len(once)} differences that test what the paper claims, {same} came out in the paper's direction, "
        f"{other} against it, {open_} undecided (the interval contains zero), {none} not run here. Differences are "
        "paired: the same episodes, means over the folds, 95 % intervals. They say how much other test images would "
        f"change a number{trainings}"
    )


def _recipe(reader: Reader) -> str:
    """How the schedule was chosen, where it was: what `python -m dpnet choose` found."""
    file = reader.store.root / "recipe.csv"
    if not file.exists():
        return ""
    found = pd.read_csv(file, dtype={"fold": str})
    wide = found[found.metric == results.PAPER_METRIC].pivot_table(
        index="candidate", columns="fold", values="miou", sort=False
    )
    wide = wide.rename(columns=lambda fold: fold if fold == MEAN else f"fold {fold}")
    candidates = presets.CANDIDATES[reader.benchmark, reader.preset]
    usual, *_ = candidates.values()
    wide.insert(0, "differs in", [_changes(candidates[name], usual) for name in wide.index])
    return (
        "<details><summary>How the recipe was chosen</summary>\n\nThe full model, trained on a fold's base classes "
        "and scored on classes that no fold tests, training images only (`python -m dpnet choose`; mIoU, CANet "
        f"metric, seed 0, {reader.setting.episodes} episodes per fold). The highest mean was taken; few images stand "
        "behind it, so small differences are noise.\n\n" + markdown(wide.round(1).reset_index()) + "\n\n</details>"
    )


def _changes(training: Training, usual: Training) -> str:
    changed = {key: value for key, value in vars(training).items() if value != getattr(usual, key)}
    return ", ".join(f"{key} {value}" for key, value in changed.items()) or "—"


def _threshold_reading(reader: Reader) -> str:
    """Table 5's best cell and Table 3's last row should agree: is it the threshold? What a run can test of that."""
    fig5 = experiments.get("fig5")
    found = tables.headline(reader, fig5).set_index("effect")
    parts = [f"{e.name}: {_interval(found.loc[e.name].to_dict())}" for e in fig5.effects[:2]]
    return (
        f"Table 5's best cell is {paper.cells(5).miou.max():.1f}, the same configuration {_papers_best():.1f} "
        "elsewhere. A reading: Table 5 was scored at another threshold, since the text says that β = 0.2 brings "
        f"{found.paper.iloc[0]:g}. What it brings here (points, CANet metric): {'; '.join(parts)}."
    )


def _best_weights(reader: Reader) -> str:
    found = results.best_weights(reader)
    if found is None:
        return ""
    return (
        f"Table 5's claim is that {found['theirs']} is the best of sixteen. Here it is number {found['rank']} with "
        f"{found['miou']:.1f}; the highest is {found['ours']} with {found['highest']:.1f}, which its being picked "
        "among sixteen flatters."
    )


def filled(text: str) -> str:
    """Fill in what stands between `<!-- what:benchmark-preset -->`, or `<!-- speed:device -->`, and `<!-- end -->`.

    Arguments:
        text: of README.

    Returns:
        the text, its marked parts made from the results on disk.

    Raises:
        DPNetError: an unknown marker, or results that are not there.
    """
    makers: dict[str, Callable[[Reader], str]] = {
        "expect": _expect,
        "ablation": _ablation,
        "glance": _glance,
        "support": lambda reader: tables.support_verdict(reader, experiments.get("table3")),
        "protocol": lambda reader: tables.protocol(reader, experiments.get("table3")),
        "paper": _paper,
        "lint": lambda _: f"{len(paper.lint())}",
        "candidates": lambda reader: f"{len(presets.CANDIDATES[reader.benchmark, reader.preset])}",
    }

    def fill(match: re.Match[str]) -> str:
        if match["what"] in ("speed", "faults"):
            made = {"speed": _speed, "faults": _faults}[match["what"]](match["name"])
            return f"{match[1]}{made}{match[4]}"
        if match["what"] not in makers:
            known = ", ".join([*makers, "speed", "faults"])
            raise DPNetError(f"README.md: unknown marker {match['what']!r}: choose from {known}")
        benchmark, preset = match["name"].rsplit("-", 1)
        inner = makers[match["what"]](Reader(benchmark, preset, io.ROOT / "results"))
        return f"{match[1]}{inner}{match[4]}"

    return MARKED.sub(fill, text)


def write_readme() -> None:
    """Fill README, and draw its picture if the data and the examples are there."""
    README.write_text(filled(README.read_text()))
    print("README.md: numbers are those of results/")
    try:
        figure = figures.predictions(SHOWN.store, SHOWN.example_run, SHOWN.usual.episodes)
    except (DPNetError, FileNotFoundError):
        return  # a checkout whose benchmark was never rendered keeps the picture that it has
    figure.savefig(SHOWN.store.root / "episodes.png", dpi=80, metadata={"Software": None})


def _expect(reader: Reader) -> str:
    """The full model's mean under both metrics, with intervals."""
    best = reader.of_row(experiments.get("table3").best)
    said = []
    for metric, name in (("canet", "CANet"), ("pfenet", "PFENet")):
        found = reader.samples(best, MEAN, "canet" if metric == "canet" else "pfenet")
        if found is None:
            return "not run on every fold"
        low, high = results.interval(found.resamples)
        said.append(f"**{found.value:.1f}** [{low:.1f}, {high:.1f}] ({name} metric)")
    return " and ".join(said)


def _ablation(reader: Reader) -> str:
    """Table 3 in short: the mean of each row, and what it adds to the row above; ours beside the paper's."""
    table3 = experiments.get("table3")
    gains = tables.headline(reader, table3).set_index("effect")
    steps = [gains.loc[effect.name].to_dict() for effect in table3.effects]
    *each, whole = [(f"{_interval(step)} {SYMBOLS[step['status']][0]}", f"{step['paper']:+.1f}") for step in steps]
    short = tables.beside(reader, table3)[["PIM", "MSF", "CCM", "mean", "paper mean"]].copy()
    short.columns = ["PIM", "MSF", "CCM", "ours", "paper"]
    short["gain over the row above"], short["paper's gain"] = zip(("", ""), *each, strict=True)
    total = f"All three over none: {whole[0]}; in the paper {whole[1]}."
    return f"\n{markdown(short)}\n\n{total}\n"


def _glance(reader: Reader) -> str:
    """Every target with its link and its status."""
    lines = overview(reader.benchmark, reader.preset, reader.store.root.parent)
    folder = f"results/{reader.store.root.name}"
    headings = [
        (experiments.get(t).heading, f"{folder}/{t}.ipynb", s)
        for t, s in zip(lines.target, lines.status, strict=True)
    ]
    linked = [heading if status == "not run" else f"[{heading}]({file})" for heading, file, status in headings]
    table = pd.DataFrame({"": linked, "about": lines.title, "status": lines.status.map(SYMBOLS)})
    return f"\n{markdown(table)}\n"


def _speed(device: str) -> str:
    """What was measured on a device: the ratios, and what they rest on."""
    file = io.ROOT / "results" / "speed" / f"{device}.json"
    if not file.exists():
        raise DPNetError(f"{file}: missing: run `make speed` on that device, or take its part out of README.md")
    found = read_json(file)
    lines = tables.speed(found).rename(columns={"ratio": "ratio [least, most]"})
    about = (
        f"{found['device']}, {found['threads']} threads, torch {found['torch'].split('+')[0]}; `shapes` at "
        f"`{found['preset']}` ({found['backbone']}, {found['size']}²); medians of {found['repeats']} turns, "
        "a ratio being that of each turn's own. "
    )
    return f"\n{markdown(lines)}\n\n{about}{tables.speed_in_words(found)}\n"


def _faults(device: str) -> str:
    """What was killed on a device, and what came of it."""
    file = io.ROOT / "results" / "faults" / f"{device}.csv"
    if not file.exists():
        raise DPNetError(f"{file}: missing: run `make test-faults` there, or take its part out of README.md")
    return f"\n{markdown(pd.read_csv(file))}\n"


def _paper(_: Reader) -> str:
    return f"**{_papers_best():.1f}** (CANet metric)"


def _papers_best() -> float:
    """What the paper reports for the full model, in Table 3."""
    best = experiments.get("table3").best
    return float(paper.cells(3).set_index([*best.key, "fold"]).loc[(*best.key.values(), MEAN), "miou"])


def markdown(table: pd.DataFrame) -> str:
    """A DataFrame as a table of Markdown."""
    cells = [[str(v).replace("|", "\\|") for v in line] for line in table.astype(str).to_numpy().tolist()]
    lines = [[str(c) for c in table.columns], ["---"] * len(table.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
