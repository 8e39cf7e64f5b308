"""The paper's tables as declarations: which variants are trained, how they are scored, which rows they give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dpnet import presets
from dpnet.config import Evaluation, Run, Variant, Yardsticks
from dpnet.errors import DPNetError


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Arguments:
        key: the columns of the paper's CSV that name the row.
        label: how figures and sentences name it.
        variant: what is trained.
        branch: which output is scored.
    """

    key: Mapping[str, int | float | str]
    label: str
    variant: Variant
    branch: Literal["main", "aux"] = "main"

    def evaluation(self, episodes: int, support: Literal["right", "wrong"] = "right") -> Evaluation:
        """How the row is scored."""
        return Evaluation(episodes, branch=self.branch, support=support)


@dataclass(frozen=True)
class Effect:
    """A paired difference: row `of` minus row `over` (positions in `Experiment.rows`)."""

    name: str
    of: int
    over: int


@dataclass(frozen=True)
class Experiment:
    """A table of the paper.

    Arguments:
        name: what a user types.
        number: of the paper's table.
        title: what it is about.
        rows: in the paper's order.
        effects: what the table is meant to show.
        best: the row that is held against the yardsticks.
    """

    name: str
    number: int
    title: str
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...] = field(default=())
    best: int = -1

    @property
    def keys(self) -> list[str]:
        """The columns that name a row."""
        return list(self.rows[0].key)

    def variants(self) -> list[Variant]:
        """What is trained, each once, in order."""
        return list(dict.fromkeys(row.variant for row in self.rows))

    def evaluations(self, variant: Variant, episodes: int) -> list[Evaluation]:
        """How a variant is scored: its rows, and the control with wrong supports."""
        mine = [row for row in self.rows if row.variant == variant]
        return [row.evaluation(episodes, support) for support in ("right", "wrong") for row in mine]


_TABLE_3 = Experiment(
    name="table3",
    number=3,
    title="Effect of each component",
    rows=(
        Row({"pim": 0, "msf": 0, "ccm": 0}, "base", Variant(pim=False, msf=False, pseudo="none")),
        Row({"pim": 1, "msf": 0, "ccm": 0}, "PIM", Variant(msf=False, pseudo="none")),
        # The paper's third row is the auxiliary branch of the full model.
        Row({"pim": 1, "msf": 1, "ccm": 0}, "PIM + MSF", Variant(), "aux"),
        Row({"pim": 1, "msf": 1, "ccm": 1}, "PIM + MSF + CCM", Variant()),
    ),
    effects=(Effect("PIM", 1, 0), Effect("MSF", 2, 1), Effect("CCM", 3, 2)),
)

EXPERIMENTS = {e.name: e for e in (_TABLE_3,)}


def get(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        DPNetError: it is unknown.
    """
    if name not in EXPERIMENTS:
        raise DPNetError(f"unknown target {name!r}: choose from {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def run(variant: Variant, benchmark: str, preset: str, fold: int, seed: int) -> Run:
    """The training of a variant at a preset's sizes."""
    sizes = presets.get(benchmark, preset)
    return Run(benchmark, sizes.recipe, sizes.training, fold, seed, variant)


def yardsticks(benchmark: str, preset: str, fold: int, seed: int) -> Yardsticks:
    """The measure that stands below a table."""
    sizes = presets.get(benchmark, preset)
    t = sizes.training
    return Yardsticks(benchmark, sizes.recipe, fold, seed, t.backbone, t.size, sizes.episodes)
