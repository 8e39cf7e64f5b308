"""The picture of a measurement: how cost grows, and where the time goes."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = sns.color_palette("colorblind")
MARKERS = "osD"


def plot(measured: dict[str, Any]) -> Figure:
    """Cost against episodes, variants, supports, image size and grid, and where the time goes."""
    if "comparison" not in measured:  # of a GPU
        return _kinds_alone(measured["kinds of operations"])
    figure, panels = plt.subplots(2, 3, figsize=(14, 7.6), layout="constrained")
    growth, compared = measured["growth"], measured["comparison"]
    encoded, stored = growth["variants, encoded at each step"], growth["variants, features kept"]
    tensors = {name: compared[f"{name}, largest tensor beside the features (MiB)"] for name in ("whole", "blocks")}
    memory = {"x": [side**2 for side in compared["x"]]} | {k: [[v] * 3 for v in vs] for k, vs in tensors.items()}
    curves = [
        (panels[0, 0], "evaluation of Table 3's four rows, from files", "episodes", "s", [
            ("one at a time (few measured, scaled)", growth["episodes"], "reference (s)"),
            ("shared pass", growth["episodes"], "ours (s)"),
        ]),
        (panels[0, 1], "a training step", "variants in lockstep", "ms", [
            ("one after the other (one alone, scaled)", encoded, "reference (ms)"),
            ("lockstep", encoded, "ours (ms)"),
            ("lockstep, features kept", stored, "ours (ms)"),
        ]),
        (panels[0, 2], "evaluation of the full model, from files", "supports per episode", "ms per episode", [
            ("one at a time", growth["shots"], "reference (ms)"),
            ("shared pass", growth["shots"], "ours (ms)"),
        ]),
        (panels[1, 1], "memory of the cycle comparison, one pair", "cells of one image", "MiB", [
            ("whole affinity", memory, "whole"),
            (f"{compared['block']} support cells at a time", memory, "blocks"),
        ]),
    ]  # fmt: skip
    for axis, title, x_label, y_label, lines in curves:
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
        _curves(axis, lines)
    panels[1, 0].set(title="a training step of one model", xlabel="pixels", ylabel="ms")
    _stacked(panels[1, 0], growth["image size"])
    panels[1, 2].set(title="where the time goes", xlabel="% of the time", yticks=[], ylim=(-0.5, 2.1))
    _shares(panels[1, 2], measured["where the time goes"])
    for axis in panels.flat:
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _kinds_alone(spent: dict[str, dict[str, float]]) -> Figure:
    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    ((what, parts),) = spent.items()
    title, _, unit = what.rpartition(" (")
    axis.barh(list(parts), list(parts.values()), color=COLOURS[0])
    axis.set(title=title, xlabel=unit[:-1])
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _curves(axis: Axes, lines: list[tuple[str, dict[str, Any], str]]) -> None:
    """Medians of the turns as points; bars reach from the least to the most."""
    for (label, values, key), marker, colour in zip(lines, MARKERS, COLOURS, strict=False):
        middle, least, most = np.array(values[key]).T
        error = [middle - least, most - middle]
        axis.errorbar(values["x"], middle, error, marker=marker, color=colour, label=label, capsize=3)
    axis.set_xticks(lines[0][1]["x"])
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=9)


def _stacked(axis: Axes, growth: dict[str, Any]) -> None:
    below = np.zeros(len(growth["x"]))
    for part, colour in zip(("backbone", "comparison", "head"), COLOURS, strict=False):
        middle = np.array(growth[f"{part} (ms)"])[:, 0]
        axis.bar([f"{x}²" for x in growth["x"]], middle, 0.6, below, color=colour, label=part)
        below += middle
    axis.legend(frameon=False, fontsize=9)


def _shares(axis: Axes, spent: dict[str, dict[str, float]]) -> None:
    colours = dict(
        zip(("backbone", "comparison", "heads", "data", "scoring", "other"), [0, 1, 2, 3, 4, 7], strict=True)
    )
    for number, (what, seconds) in enumerate(spent.items()):
        left = 0.0
        for part, value in seconds.items():
            share = 100 * value / sum(seconds.values())
            label = None if part in axis.get_legend_handles_labels()[1] else part
            axis.barh(number, share, 0.5, left, color=COLOURS[colours[part]], label=label)
            if share >= 6:
                axis.text(left + share / 2, number, f"{share:.0f}", ha="center", va="center", fontsize=9)
            left += share
        axis.text(0, number + 0.32, what.rpartition(" (")[0], fontsize=9)
    axis.legend(frameon=False, fontsize=9, ncols=3, loc="upper center")
