"""The paper's tables and figures as declarations: what is trained, how it is scored, which rows it gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dpnet.config import Evaluation, Variant
from dpnet.io import DPNetError
from dpnet.metrics import Metric

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

    def evaluation(self, episodes: int, support: Literal["right", "wrong"] = "right") -> Evaluation:
        """How the row is scored."""
        return Evaluation(episodes, self.shot, self.beta, self.scales, self.branch, support)


@dataclass(frozen=True)
class Effect:
    """What a table is meant to show: a weighted sum of rows on the same episodes."""

    name: str
    weights: Mapping[int, float]  # position in `Experiment.rows` -> weight; mostly one row minus another
    claim: str = ""  # the paper's words, if it claims it
    stated: Mapping[str, float] | None = None  # the paper's numbers by benchmark, where its tables have none
    unit: str = "points"  # of the sum
    chief: bool = False  # whether it stands at a glance although the paper does not claim it


def difference(name: str, of: int, over: int, claim: str = "", **more: Any) -> Effect:
    """Row `of` minus row `over`."""
    return Effect(name, {of: 1.0, over: -1.0}, claim, **more)


@dataclass(frozen=True, eq=False)  # there is one of each
class Experiment:
    """A table or a figure of the paper, or one that it lacks."""

    name: str  # what a user types
    title: str
    rows: tuple[Row, ...]  # in the paper's order
    effects: tuple[Effect, ...] = ()
    metric: Metric = "canet"  # of the paper's numbers
    controlled: tuple[int, ...] = (-1,)  # rows that are compared with baselines, and scored with wrong supports
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


_METRICS: tuple[tuple[str, Metric], ...] = (("CANet", "canet"), ("PFENet", "pfenet"))
_TABLE_1 = Experiment(
    "table1",
    "One shot and five (the paper: PASCAL-5i)",
    tuple(
        Row({"method": f"DPNet({n})", "shot": k}, f"DPNet, {n} metric, {k} shot", shot=k, scales=SCALES, metric=m)
        for n, m in _METRICS
        for k in (1, 5)
    ),
    (difference("5 shots over 1, CANet metric", 1, 0), difference("5 shots over 1, PFENet metric", 3, 2)),
    controlled=(0, 1, 2, 3),
    note="The paper's two DPNet rows are read as one model under two metrics. Inference is multi-scale.",
)
_TABLE_2 = Experiment(
    "table2",
    "One shot and five (the paper: COCO-20i)",
    tuple(Row({"method": "DPNet", "shot": shot}, f"{shot} shot", shot=shot, scales=SCALES) for shot in (1, 5)),
    (difference("5 shots over 1", 1, 0),),
    metric="pfenet",
    controlled=(0, 1),
    note="The paper's table is COCO-20i. On any other benchmark this repeats Table 1's numbers in this table's form: "
    "mean over folds, multi-scale inference, one and five shots, PFENet metric.",
)
_TABLE_3 = Experiment(
    "table3",
    "Effect of each component",
    (
        Row({"pim": 0, "msf": 0, "ccm": 0}, "base", Variant(pim=False, msf=False, pseudo="none")),
        Row({"pim": 1, "msf": 0, "ccm": 0}, "PIM", Variant(msf=False, pseudo="none")),
        Row({"pim": 1, "msf": 1, "ccm": 0}, "PIM + MSF", branch="aux"),
        Row({"pim": 1, "msf": 1, "ccm": 1}, "PIM + MSF + CCM"),
    ),
    (
        difference("PIM", 1, 0, "“brings an improvement of performance by 1.7%”"),
        difference("MSF", 2, 1, "“improves the performance of 0.5%”"),
        difference("CCM", 3, 2, "“another promotion by 2.0% is obtained”"),
        difference("all three", 3, 0, "“the effectiveness of each component”, all three together"),
    ),
    note="The paper adds prototype interaction (PIM), multi-scale fusion (MSF) and the cycle comparison (CCM) one "
    "by one. Its third row is the auxiliary branch of the full model, and so is ours.",
)
_TABLE_4 = Experiment(
    "table4",
    "Where the pseudo-prototype comes from",
    (
        Row({"setting": "Baseline"}, "none", branch="aux"),
        Row({"setting": "Global"}, "global", Variant(pseudo="global")),
        Row({"setting": "Cosine"}, "cosine", Variant(pseudo="cosine")),
        Row({"setting": "CCM"}, "CCM"),
    ),
    (
        difference("global average over none", 1, 0),
        difference("cosine over none", 2, 0),
        difference("CCM over global average", 3, 1, "“better performance results are achieved as shown in Table 4”"),
        difference("CCM over cosine", 3, 2, "“better performance results are achieved as shown in Table 4”"),
    ),
    note="Baseline is the auxiliary branch of the full model (the same numbers as in Table 3); Global averages all "
    "query cells; Cosine takes the forward matches alone, without the way back and without the discriminator.",
)
_TABLE_5 = Experiment(
    "table5",
    "Loss weights",
    tuple(
        Row({"lambda1_aux": a, "lambda2_dis": d}, f"λ1 = {a:g}, λ2 = {d:g}", Variant(lambda_1=a, lambda_2=d))
        for d in LAMBDAS
        for a in LAMBDAS
    ),
    (
        difference("L_aux alone (λ1 = 1, λ2 = 0) over neither", 2, 0, "“either Laux or Ldis can facilitate …”"),
        difference("L_dis alone (λ1 = 0, λ2 = 1) over neither", 8, 0, "“either Laux or Ldis can facilitate …”"),
        difference("both over L_aux alone", 10, 2, "“… best results when both losses are jointly applied”"),
        difference("both over L_dis alone", 10, 8, "“… best results when both losses are jointly applied”"),
    ),
    controlled=(10,),
    note="At λ2 = 0 nothing trains the discriminator: it filters as its random start does. So what L_dis brings over "
    "none is not only help: it ends the harm of a random filter too.",
)
_TABLE_6 = Experiment(
    "table6",
    "Multi-scale inference",
    tuple(
        Row({"shot": k, "multiscale": many}, f"{k} shot, {name}", shot=k, scales=scales)
        for k in (1, 5)
        for many, name, scales in ((0, "one scale", (1.0,)), (1, "three scales", SCALES))
    ),
    (
        difference("three scales, 1 shot", 1, 0, "“this simple trick brings 0.7% … in 1-shot”"),
        difference("three scales, 5 shots", 3, 2, "“… and 1.0% improvements in … 5-shot”"),
        difference("5 shots over 1", 2, 0),
    ),
    controlled=(1, 3),
    note="The query at 0.7, 1.0 and 1.3 of its size, the predictions averaged; supports are encoded once.",
)
_FIG_3 = Experiment(
    "fig3",
    "The cycle comparison, seen",
    (),
    controlled=(),
    note="From one support cell forwards to the most similar query cell, and back. No parameter is trained here.",
)
_FIG_4 = Experiment(
    "fig4",
    "Predictions without and with the pseudo-prototype",
    (
        Row({"pseudo_prototype": 0}, "without pseudo-prototype", branch="aux"),
        Row({"pseudo_prototype": 1}, "with pseudo-prototype"),
    ),
    (
        difference(
            "with the pseudo-prototype over without",
            1,
            0,
            "“the pseudo-prototype is beneficial to focus the predictions on the target category”",
        ),
    ),
    note="Without is the auxiliary branch of the same model. The examples are chosen by a rule: of each class the "
    "episode with the largest gain, the median one, and the largest loss.",
)
_STATED = {"pascal": 0.3, "coco": 0.6}  # what β = 0.2 brings
_FIG_5 = Experiment(
    "fig5",
    "The discriminator's threshold",
    tuple(Row({"beta": b}, f"β = {b:g}", beta=b) for b in BETAS),
    (
        difference("β = 0.2 over 0 (no filtering)", 2, 0, "“0.2 that brings 0.3% …”, read as over 0", stated=_STATED),
        difference(
            "β = 0.2 over 0.5 (as in training)", 2, 5, "the same, read as over training's 0.5", stated=_STATED
        ),
        difference("β = 0.2 over 0.8 (strict)", 2, 8),
    ),
    controlled=(2,),
    note="One pass up to the discriminator serves all nine. Training used 0.5. The paper draws its curve without "
    "printing values; its sentence does not say what 0.3 is measured against: 0, or training's 0.5.",
)


_KINDS: tuple[tuple[str, Variant, Branch], ...] = (
    ("without", _FULL, "aux"),
    ("trained without", Variant(pseudo="none"), "main"),
    ("with", _FULL, "main"),
)
_GAINS = [(f"{d:g}", 3 * i) for i, d in enumerate(DIVERSITIES)]  # three rows for each diversity


def _slope(name: str, over: int) -> Effect:
    """Least squares: how the gain over the row at position `over` of each three grows with the diversity."""
    middle = sum(DIVERSITIES) / len(DIVERSITIES)
    spread = sum((d - middle) ** 2 for d in DIVERSITIES)
    slope = {3 * i: (d - middle) / spread for i, d in enumerate(DIVERSITIES)}
    weights = {i + 2: w for i, w in slope.items()} | {i + over: -w for i, w in slope.items()}
    return Effect(name, weights, unit="points per unit of diversity")


_DIVERSITY = Experiment(
    "diversity",
    "The gain of the pseudo-prototype against the diversity of support and query",
    tuple(
        Row({"diversity": d, "pseudo_prototype": name}, f"{name}, diversity {d:g}", variant, branch, diversity=d)
        for d in DIVERSITIES
        for name, variant, branch in _KINDS
    ),
    (
        *(difference(f"gain at diversity {d}", i + 2, i, chief=i % 6 == 0) for d, i in _GAINS),
        *(difference(f"gain over a model trained without, at {d}", i + 2, i + 1) for d, i in _GAINS),
        _slope("slope of the gain", 0),
        _slope("slope of the gain over a model trained without", 1),
    ),
    controlled=tuple(i + 2 for _, i in _GAINS),
    note="`diversity` sets how far objects of a class stray from it, in scenes that are otherwise alike. "
    "The gain is taken over the auxiliary branch (the paper's reading) and over a model trained without. The "
    "paper calls that diversity “the main obstacle”; that the gain grows with it is our question, not its claim.",
)

_ALL = (_TABLE_1, _TABLE_2, _TABLE_3, _TABLE_4, _TABLE_5, _TABLE_6, _FIG_3, _FIG_4, _FIG_5, _DIVERSITY)
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}


def get(name: str) -> Experiment:
    """An experiment by name."""
    if name not in EXPERIMENTS:
        raise DPNetError(f"unknown target {name!r}: choose from {', '.join(EXPERIMENTS)}, all")
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
    values = sorted({f"{row.diversity:g}" for row in rows if row.diversity is not None})
    if diversity is not None and f"{diversity:g}" not in values:
        raise DPNetError(f"--diversity {diversity:g}: {targets} has {', '.join(values) or 'none to set'}")


def qualitative_examples(before: np.ndarray, after: np.ndarray, classes: np.ndarray) -> list[tuple[str, int, int]]:
    """Fig. 4's rule: IoU per episode without and with, and its class -> (rule, class id, episode)."""
    chosen = []
    for rule, at in (("largest gain", -1), ("median", None), ("largest loss", 0)):
        for c in np.unique(classes):
            of_class = np.flatnonzero(classes == c)
            order = of_class[np.argsort((after - before)[of_class], kind="stable")]
            chosen.append((rule, int(c), int(order[(len(order) - 1) // 2 if at is None else at])))
    return chosen
