"""What a comparison of schedules says: means, spread and effects of Table 3's rows, and their picture."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import t

from dpnet.config import Training

EFFECTS = {"PIM": (1, 0), "MSF": (2, 1), "CCM": (3, 2), "all three": (3, 0)}  # one row of Table 3 minus another
NOTES = ("device", "minutes")  # of a training: where it ran, and how long one core of a CPU took
MARKERS = "osD^v"


def parts(table: pd.DataFrame) -> pd.DataFrame:
    """Table 3's rows and their effects in each training: the columns of the comparison, and one per effect."""
    rows = [column for column in table.columns if column not in ("candidate", "scenes", "seed", "run", *NOTES)]
    effects = {f"{name}, effect": table[rows[i]] - table[rows[j]] for name, (i, j) in EFFECTS.items()}
    return table.assign(**effects).drop(columns=["run", "device"]).set_index(["candidate", "scenes", "seed"])


def moments(values: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """By candidate: means; standard deviations of a training; and half the 95 % interval of a mean of trainings.

    The scenes are given and the trainings are drawn, so that only the spread within the same scenes counts. The index
    is candidate, scenes, seed.
    """
    per_scene = values.groupby(["candidate", "scenes"], sort=False)
    variance = per_scene.var().groupby("candidate", sort=False).mean()
    counts = per_scene.count()  # by column: the first measurements had no wrong support, a GPU has no minutes
    n, df = (some.groupby("candidate", sort=False).sum() for some in (counts, (counts - 1).clip(lower=0)))
    half = np.sqrt(variance / n) * t.ppf(0.975, df.clip(lower=1))
    return per_scene.mean().groupby("candidate", sort=False).mean(), np.sqrt(variance), half


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """A line per candidate for people: seeds × scenes, minutes of one core, each row and effect.

    With one training per scene there is no spread, and no interval. Minutes are those of the trainings on a CPU.
    """
    mean, _, half = moments(parts(table))
    of_candidates = table.groupby("candidate", sort=False)
    trainings = [f"{len(set(one.seed))} × {len(set(one.scenes))}" for _, one in of_candidates]
    named = {n: zip(mean[n], half[n], strict=True) for n in mean if n != "minutes"}
    cells = {n: [_cell(m, h) for m, h in each] for n, each in named.items()}
    first = {
        "candidate": mean.index,
        "seeds × scenes": trainings,
        "minutes": [_cell(m, np.nan) for m in mean.minutes],
    }
    return pd.DataFrame({**first, **cells})


def _cell(mean: float, half: float) -> str:
    if np.isnan(mean):
        return "—"
    return f"{mean:z.1f}" if np.isnan(half) else f"{mean:z.1f} ± {half:.1f}"


def plot(table: pd.DataFrame, candidates: Mapping[str, Training]) -> Figure:
    """Score and spread against steps, by row of Table 3; then the effects of every candidate."""
    mean, spread, half = moments(parts(table))
    names = [name for name in mean.columns if name != "minutes"]
    rows, effects = [n for n in names if not n.endswith("effect")], [n for n in names if n.endswith("effect")]
    first = next(iter(candidates.values()))
    usual = [c for c in mean.index if {**vars(candidates[c]), "steps": 0} == {**vars(first), "steps": 0}]
    usual.sort(key=lambda c: candidates[c].steps)  # those that differ from the first in steps alone
    steps = [candidates[c].steps for c in usual]
    figure, (score, noise, last) = plt.subplots(
        1, 3, figsize=(14, 4.6), layout="constrained", width_ratios=(1, 1, 1.3)
    )
    for row, colour, marker in zip(rows, sns.color_palette("colorblind"), MARKERS, strict=False):
        score.errorbar(
            steps, mean.loc[usual, row], half.loc[usual, row], color=colour, marker=marker, capsize=3, label=row
        )
        noise.plot(steps, spread.loc[usual, row], color=colour, marker=marker, label=row)
    score.set(xlabel="steps", ylabel="mIoU (%), mean and its 95 % interval", title="Score")
    noise.set(xlabel="steps", ylabel="standard deviation of a training (points)", title="Spread", ylim=(0, None))
    for axis in (score, noise):
        axis.set_xticks(steps, [f"{number:,}" for number in steps], rotation=45)
    figure.legend(*score.get_legend_handles_labels(), loc="outside lower left", ncols=5, fontsize=9)
    height = np.arange(len(mean))
    for i, (effect, colour, marker) in enumerate(
        zip(effects, sns.color_palette("colorblind")[5:], MARKERS, strict=False)
    ):
        last.errorbar(
            mean[effect], height + 0.16 * (i - 1.5), xerr=half[effect], color=colour, marker=marker, linestyle="",
            capsize=2, label=effect.removesuffix(", effect"),
        )  # fmt: skip
    last.axvline(0, color="0.6", linewidth=1)
    last.set(xlabel="effect (points), mean and its 95 % interval", title="Effects, by candidate")
    last.set_yticks(height, mean.index)
    last.invert_yaxis()
    figure.legend(*last.get_legend_handles_labels(), loc="outside lower right", ncols=4, fontsize=9)
    return figure
