"""README's numbers and its picture, from results: nothing between its markers is typed."""

import re

from dpnet import experiments, figures, paper, paths, results
from dpnet.errors import DPNetError
from dpnet.grid import Cohort
from dpnet.results import MEAN, Reader

README = paths.ROOT / "README.md"
MARKED = re.compile(r"(<!-- (?P<what>[\w-]+):(?P<name>[\w-]+) -->).*?(<!-- end -->)", re.DOTALL)
SHOWN = Cohort("table3", "shapes", "quick", fold=0, seed=0)  # README's picture


def filled(text: str) -> str:
    """Fill in what stands between `<!-- what:benchmark-preset -->` and `<!-- end -->`.

    Arguments:
        text: of README.

    Returns:
        the text, its marked parts made from the results on disk.

    Raises:
        DPNetError: an unknown marker, or results that are not there.
    """

    def fill(match: re.Match[str]) -> str:
        makers = {"expect": _expect, "table3": _table3, "protocol": _protocol, "paper": _paper}
        if match["what"] not in makers:
            raise DPNetError(f"README.md: unknown marker {match['what']!r}: choose from {', '.join(makers)}")
        benchmark, preset = match["name"].rsplit("-", 1)
        inner = makers[match["what"]](Reader(benchmark, preset, paths.ROOT / "results"))
        return f"{match[1]}{inner}{match[4]}"

    return MARKED.sub(fill, text)


def write_readme() -> None:
    """Fill README, and draw its picture if the data and the examples are there."""
    README.write_text(filled(README.read_text()))
    print("README.md: numbers are those of results/")
    figure = figures.predictions(SHOWN)
    file = SHOWN.store.root / "episodes.png"
    figure.savefig(file, dpi=80, metadata={"Software": None})
    print(f"{file.name}: drawn")


def _expect(reader: Reader) -> str:
    """The full model's mean under both metrics, with intervals."""
    table3 = experiments.get("table3")
    best = reader.of_row(table3.rows[table3.best])
    said = []
    for metric, name in (("canet", "CANet"), ("pfenet", "PFENet")):
        found = reader.samples(best, MEAN, "canet" if metric == "canet" else "pfenet")
        if found is None:
            return "not run on every fold"
        low, high = results.interval(found.resamples)
        said.append(f"**{found.value:.1f}** [{low:.1f}, {high:.1f}] ({name} metric)")
    return " and ".join(said)


def _table3(reader: Reader) -> str:
    table3 = experiments.get("table3")
    parts = [
        _markdown(results.beside(reader, table3)),
        _markdown(results.wide(results.effects(reader, table3), ["effect"], intervals=(MEAN,))),
        _markdown(results.wide(results.yardsticks(reader, table3), ["yardstick"], intervals=(MEAN,))),
        results.support_verdict(reader, table3),
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def _protocol(reader: Reader) -> str:
    return results.protocol(reader)


def _paper(_: Reader) -> str:
    """What the paper reports for the full model."""
    table3 = experiments.get("table3")
    row = paper.table(3).set_index(table3.keys).loc[tuple(table3.rows[table3.best].key.values())]
    return f"**{row['mean']:.1f}** (CANet metric)"


def _markdown(table: "results.pd.DataFrame") -> str:
    """A DataFrame of strings as a table of Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
