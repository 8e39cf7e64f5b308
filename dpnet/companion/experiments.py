"""The paper's tables and figures as declarations: what is trained, how it is scored, which rows it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dpnet.companion import paper
from dpnet.config import Evaluation, Variant
from dpnet.io import DPNetError
from dpnet.metrics import METRICS, Metric, intersection_union

SCALES = (0.7, 1.0, 1.3)  # of the query in multi-scale inference (Table 6)
BETAS = tuple(i / 10 for i in range(9))  # of Fig. 5
DIVERSITIES = (0.0, 0.2, 0.4, 0.7, 1.0)  # of `shapes`
PAPER_METRIC: Metric = "canet"  # of the ablations, Tables 3-6
LAMBDAS = (0.0, 0.5, 1.0, 1.2)  # of Table 5, both
Branch = Literal["main", "aux"]
_FULL = Variant()


@dataclass(frozen=True)
class Row:
    """One row of a table, or one point of a figure: what is trained, and how it is scored."""

    key: Mapping[str, int | float | str]  # the columns of the paper's CSV that name the row
    label: str  # how figures and sentences name it
    variant: Variant = _FULL
    branch: Branch = "main"
    shot: int = 1
    beta: float = Evaluation.beta
    scales: tuple[float, ...] = (1.0,)  # of the query; several are averaged
    metric: Metric | None = None  # the row's only one (Table 1 has a row for each); None: both
    diversity: float | None = None  # of `shapes`, where it is not the preset's

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that its scores are given in."""
        return METRICS if self.metric is None else (self.metric,)

    def evaluation(self, episodes: int, support: Literal["right", "wrong"] = "right") -> Evaluation:
        """How the row is scored."""
        return Evaluation(episodes, self.shot, self.beta, self.scales, self.branch, support)


@dataclass(frozen=True)
class Effect:
    """What a table is meant to show: a weighted sum of rows on the same episodes."""

    name: str
    weights: Mapping[int, float]  # position in `Experiment.rows` -> weight: mostly one row minus another
    claim: str = ""  # the paper's words, if it claims it
    stated: Mapping[str, float] | None = None  # the paper's numbers by benchmark, where its tables have none
    chief: bool = False  # whether it stands at a glance although the paper does not claim it


@dataclass(frozen=True, eq=False)  # there is one of each
class Experiment:
    """A table or a figure of the paper, or one that it lacks."""

    name: str  # what a user types
    rows: tuple[Row, ...]  # in the paper's order
    effects: tuple[Effect, ...] = ()  # more are in `paper_tables/effects.csv`
    metric: Metric = "canet"  # of the paper's numbers
    controlled: tuple[int, ...] = (-1,)  # rows that are compared with baselines, and scored with wrong supports
    title: str = ""  # this and the note are in `paper_tables/targets.csv`
    note: str = ""  # what a reader should know before the numbers

    @property
    def table(self) -> int | None:
        """The paper's table that holds its numbers; None: the paper prints none."""
        return int(self.name.removeprefix("table")) if self.name.startswith("table") else None

    @property
    def keys(self) -> list[str]:
        """The columns that name a row."""
        return list(self.rows[0].key) if self.rows else []

    @property
    def heading(self) -> str:
        """Its name in the paper."""
        return self.name.replace("table", "Table ").replace("fig", "Fig. ").replace("diversity", "Beyond the paper")

    @property
    def controlled_rows(self) -> list[Row]:
        """The rows that are compared with baselines, and scored with wrong supports."""
        return [self.rows[i] for i in self.controlled]

    @property
    def best(self) -> Row:
        """The row that the baselines are meant for."""
        return self.controlled_rows[-1]


_PSEUDO: tuple[tuple[str, Variant, Branch], ...] = (
    ("without", _FULL, "aux"),
    ("trained without", Variant(pseudo="none"), "main"),
    ("with", _FULL, "main"),
)


def _told(experiment: Experiment) -> Experiment:
    """An experiment with its words from `paper_tables`, whose effects come before its own."""
    at, effects = {row.label: i for i, row in enumerate(experiment.rows)}, []
    for line in paper.words("effects", experiment.name):
        stated = {name: float(line[name]) for name in ("pascal", "coco") if line[name]}
        weights = {at[line["of"]]: 1.0, at[line["over"]]: -1.0} if at else {}
        effects.append(Effect(line["effect"], weights, line["claim"], stated, chief=bool(line["chief"])))
    (line,) = paper.words("targets", experiment.name)
    return replace(experiment, effects=(*effects, *experiment.effects), title=line["title"], note=line["note"])


def _slope(name: str, over: int) -> Effect:
    """Least squares: points by which the gain over the row at position `over` of each three grows per diversity."""
    slope = np.linalg.pinv(np.vander(DIVERSITIES, 2))[0].tolist()
    weights = {3 * i + row: sign * w for row, sign in ((2, 1), (over, -1)) for i, w in enumerate(slope)}
    return Effect(name, weights, chief=True)


_DECLARED = (
    Experiment(
        "table1",
        tuple(
            Row({"method": f"DPNet({n})", "shot": k}, f"DPNet, {n} metric, {k} shot", shot=k, scales=SCALES, metric=m)
            for n, m in zip(("CANet", "PFENet"), METRICS, strict=True)
            for k in (1, 5)
        ),
        controlled=(0, 1, 2, 3),
    ),
    Experiment(
        "table2",
        tuple(Row({"method": "DPNet", "shot": shot}, f"{shot} shot", shot=shot, scales=SCALES) for shot in (1, 5)),
        metric="pfenet",
        controlled=(0, 1),
    ),
    Experiment(
        "table3",
        (
            Row({"pim": 0, "msf": 0, "ccm": 0}, "base", Variant(pim=False, msf=False, pseudo="none")),
            Row({"pim": 1, "msf": 0, "ccm": 0}, "PIM", Variant(msf=False, pseudo="none")),
            Row({"pim": 1, "msf": 1, "ccm": 0}, "PIM + MSF", branch="aux"),
            Row({"pim": 1, "msf": 1, "ccm": 1}, "PIM + MSF + CCM"),
        ),
    ),
    Experiment(
        "table4",
        (
            Row({"setting": "Baseline"}, "none", branch="aux"),
            Row({"setting": "Global"}, "global", Variant(pseudo="global")),
            Row({"setting": "Cosine"}, "cosine", Variant(pseudo="cosine")),
            Row({"setting": "CCM"}, "CCM"),
        ),
    ),
    Experiment(
        "table5",
        tuple(
            Row({"lambda1_aux": a, "lambda2_dis": d}, f"λ1 = {a:g}, λ2 = {d:g}", Variant(lambda_1=a, lambda_2=d))
            for d in LAMBDAS
            for a in LAMBDAS
        ),
        controlled=(10,),
    ),
    Experiment(
        "table6",
        tuple(
            Row({"shot": k, "multiscale": many}, f"{k} shot, {name}", shot=k, scales=scales)
            for k in (1, 5)
            for many, name, scales in ((0, "one scale", (1.0,)), (1, "three scales", SCALES))
        ),
        controlled=(1, 3),
    ),
    Experiment("fig3", (), controlled=()),
    Experiment(
        "fig4",
        (
            Row({"pseudo_prototype": 0}, "without pseudo-prototype", branch="aux"),
            Row({"pseudo_prototype": 1}, "with pseudo-prototype"),
        ),
    ),
    Experiment("fig5", tuple(Row({"beta": b}, f"β = {b:g}", beta=b) for b in BETAS), controlled=(2,)),
    Experiment(
        "diversity",
        tuple(
            Row({"diversity": d, "pseudo_prototype": name}, f"{name}, diversity {d:g}", variant, branch, diversity=d)
            for d in DIVERSITIES
            for name, variant, branch in _PSEUDO
        ),
        (_slope("slope of the gain", 0), _slope("slope of the gain over a model trained without", 1)),
        controlled=tuple(range(2, 3 * len(DIVERSITIES), 3)),
    ),
)
EXPERIMENTS = {experiment.name: _told(experiment) for experiment in _DECLARED}


def get(name: str) -> Experiment:
    """An experiment by name."""
    if name not in EXPERIMENTS:
        raise DPNetError(f"unknown target {name!r}: choose from {', '.join(EXPERIMENTS)}; or all, alone")
    return EXPERIMENTS[name]


def several(targets: str, benchmark: str) -> list[Experiment]:
    """Experiments by name: one, several joined by "+", or "all" that a benchmark allows."""
    if targets == "all":
        return [e for e in EXPERIMENTS.values() if benchmark == "shapes" or e.name != "diversity"]
    names = targets.split("+")
    if "diversity" in names and benchmark != "shapes":
        raise DPNetError(f"{benchmark} has no diversity to set: make reproduce-diversity BENCHMARK=shapes")
    return [get(name) for name in names]


def check_diversity(targets: str, benchmark: str, diversity: float | None) -> None:
    """Refuse a diversity that no row of some targets has; None: the usual one."""
    rows = [row for experiment in several(targets, benchmark) for row in experiment.rows]
    values = sorted({row.diversity for row in rows if row.diversity is not None})
    if diversity not in (None, *values):
        raise DPNetError(f"--diversity {diversity}: {targets} has {', '.join(map(str, values)) or 'none to set'}")


def qualitative_examples(
    without: np.ndarray, with_: np.ndarray, classes: np.ndarray
) -> list[tuple[str, int, int, float, float]]:
    """Fig. 4's rule: counts [E, 2, 3] of both branches, classes [E] -> (rule, class id, episode, IoU, IoU), in %."""
    overlaps = (intersection_union(counts, PAPER_METRIC) for counts in (without, with_))
    before, after = (100 * hit / np.maximum(union, 1) for hit, union in overlaps)
    chosen = []
    for rule in ("largest gain", "median", "largest loss"):
        for c in np.unique(classes):
            of_class = np.flatnonzero(classes == c)
            ascending = of_class[np.argsort((after - before)[of_class], kind="stable")]
            at = {"largest gain": -1, "median": (len(ascending) - 1) // 2, "largest loss": 0}[rule]
            n = int(ascending[at])
            chosen.append((rule, int(c), n, float(before[n]), float(after[n])))
    return chosen
