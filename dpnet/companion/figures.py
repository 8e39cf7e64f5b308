"""Plots: readable at their real size, with units and legends, in colours that all readers can tell apart."""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpnet import data, episodes, io
from dpnet.companion import compare, experiments, results
from dpnet.companion.examples import first_of_each_class, load_examples
from dpnet.companion.experiments import Experiment
from dpnet.companion.results import BASELINES, MEAN, Scores
from dpnet.companion.store import Store
from dpnet.config import Run

COLOURS = sns.color_palette("colorblind")
MARKERS = "osD^vP*X"
METRIC_TITLES = {"canet": "CANet metric (void is background)", "pfenet": "PFENet metric (void left out)"}
BASELINE_DASHES = {"prototype": "-", "prototype-wrong": (4, (1, 3)), "objects": "--"}
OUTLINE = (1.0, 0.85, 0.0)


def of_target(scores: Scores, experiment: Experiment) -> Figure:
    """The picture of a target: a curve over thresholds or diversities, or a table's rows and effects."""
    return {"fig5": thresholds, "diversity": gains}.get(experiment.name, table)(scores, experiment)


def table(scores: Scores, experiment: Experiment) -> Figure:
    """Rows (among their baselines) and effects: each training as a dot beside the mean and its 95 % interval."""
    metric, suffix = experiment.best.metric or experiment.metric, results.suffix(experiment, experiment.best)
    below = results.baselines(scores, experiment).query(f"fold == '{MEAN}' and metric == '{metric}'")
    tidy = compare.means(scores, experiment).reset_index()
    tidy = tidy[(tidy.kind == "row") | tidy.name.isin([effect.name for effect in experiment.effects])]
    dashes = {BASELINES[name] + suffix: dash for name, dash in BASELINE_DASHES.items()}
    dashes[f"{experiment.best.label}, wrong support"] = "-."
    figure, panels = _lines(tidy)
    handles: dict[str, Any] = {}
    for axis, (kind, lines) in zip(panels, tidy.groupby("kind", sort=False), strict=True):
        y, error = np.arange(len(lines)), [lines.value - lines.low, lines.high - lines.value]
        handles["a training"] = _trainings(axis, lines.by_training, y + 0.2)
        style = {"fmt": "D", "color": COLOURS[0], "markersize": 5, "capsize": 3}
        handles["mean, 95 % interval"] = axis.errorbar(lines.value, y - 0.1, xerr=error, **style)
        if kind == "effect":
            (handles["the paper's effect, on its own data"],) = axis.plot(lines.paper, y - 0.1, "x", color=COLOURS[3])
        for name, value in below.groupby("yardstick").miou.first().items() if kind == "row" else []:
            if name in dashes:
                handles[name] = axis.axvline(value, color="0.35", linestyle=dashes[name], linewidth=1.2)
    own = any(row.metric for row in experiment.rows)
    panels[0].set_xlabel(f"{'vertical lines: ' if own else ''}{METRIC_TITLES[metric]}")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _lines(tidy: pd.DataFrame) -> tuple[Figure, np.ndarray]:
    """A panel for each kind ("row", "effect"), with a line of its own for each name."""
    kinds = [(kind, of_kind) for kind, of_kind in tidy.groupby("kind", sort=False)]
    size = (5.5 * len(kinds), 1.6 + 0.4 * max(len(of_kind) for _, of_kind in kinds))
    figure, panels = plt.subplots(1, len(kinds), figsize=size, squeeze=False, layout="constrained")
    for axis, (kind, lines) in zip(panels[0], kinds, strict=True):
        if kind == "effect":
            axis.axvline(0, color="0.6", linewidth=1)
        axis.set_yticks(np.arange(len(lines)), [textwrap.fill(name, 34) for name in lines.name])
        axis.set_ylim(len(lines) - 0.4, -0.6)
        _plain(axis, {"row": "mIoU (%), mean of folds", "effect": "effects (points), mean of folds"}[kind])
        axis.grid(axis="x", color="0.9")
    return figure, panels[0]


def _trainings(axis: Axes, trainings: pd.Series, y: np.ndarray) -> Any:
    """A dot for each training: a tuple of values for each line."""
    dots = [(value, at) for at, values in zip(y, trainings, strict=True) for value in values]
    return axis.plot(*zip(*dots, strict=True) if dots else [[], []], "o", color="0.35", markersize=3.5, alpha=0.7)[0]


def _intervals(axis: Axes, x: np.ndarray, cells: pd.DataFrame, style: int, label: str) -> None:
    """Means with their intervals, joined, and beside them a dot for each training."""
    middle = cells.difference if "difference" in cells else cells.miou
    each, error = cells.by_training.str.split(expand=True).astype(float), [middle - cells.low, cells.high - middle]
    axis.plot(x + 0.008, each, ".", color=COLOURS[style], alpha=0.5, markersize=4)
    how = {"marker": MARKERS[style], "color": COLOURS[style], "markersize": 5, "capsize": 2}
    axis.errorbar(x, middle, error, label=label, **how)


def thresholds(scores: Scores, experiment: Experiment) -> Figure:
    """Fig. 5: mIoU against beta, mean of folds, each training and the mean; the vertical axis begins above zero."""
    figure, axis = plt.subplots(figsize=(6.8, 4), layout="constrained")
    tidy = results.rows(scores, experiment).query(f"fold == '{MEAN}'")
    for number, (metric, title) in enumerate(METRIC_TITLES.items()):
        mean = tidy[tidy.metric == metric]
        each, style = mean.by_training.str.split(expand=True).astype(float), {"color": COLOURS[number]}
        axis.plot(mean.beta, each, linewidth=0.7, alpha=0.5, **style)
        axis.plot(mean.beta, mean.miou, marker=MARKERS[number], label=title, **style)
        axis.fill_between(mean.beta, mean.low, mean.high, color=COLOURS[number], alpha=0.2, linewidth=0)
    bottom = axis.get_ylim()[0]
    for beta, name, dash in ((0.2, " the paper's test", ":"), (0.5, " training", "--")):
        axis.axvline(beta, color="0.5", linestyle=dash, linewidth=1)
        axis.annotate(name, (beta, bottom), fontsize=8, color="0.3", va="bottom")
    labels = {"xlabel": "discriminator's threshold β in testing", "ylabel": "mIoU (%), 95 % interval"}
    _plain(axis, f"{scores.setting.benchmark}, {scores.setting.preset}: mean of folds", **labels)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def gains(scores: Scores, experiment: Experiment) -> Figure:
    """Accuracy, and the gain of the pseudo-prototype, against `diversity`; PFENet metric beside CANet's."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    x, mean = np.array(experiments.DIVERSITIES), f"metric == 'canet' and fold == '{MEAN}'"
    tidy, below = results.rows(scores, experiment).query(mean), results.baselines(scores, experiment).query(mean)
    labels = {"without": "auxiliary branch", "trained without": "trained without", "with": "with pseudo-prototype"}
    for number, (name, label) in enumerate(labels.items()):
        _intervals(left, x, tidy[tidy.pseudo_prototype == name], number, label)
    prototype = below[below.yardstick.str.startswith(f"{BASELINES['prototype']}, diversity")]
    left.plot(x, prototype.miou, color="0.35", linestyle="--", label=BASELINES["prototype"])
    every = results.effects(scores, experiment).query(f"fold == '{MEAN}'")
    lines = (
        ("gain at diversity", "canet", "over the auxiliary branch"),
        ("gain over a model trained without, at", "canet", "over a model trained without"),
        ("gain at diversity", "pfenet", "over the auxiliary branch, PFENet metric"),
    )
    for number, (start, metric, label) in enumerate(lines):
        cells = every[every.effect.str.startswith(start) & (every.metric == metric)]
        _intervals(right, x + 0.008 * (number - 1), cells, 3 + number, label)
    right.axhline(0, color="0.35", linewidth=1)
    left.set(ylabel="mIoU (%), CANet metric, 95 % interval", ylim=(0, None))
    right.set(ylabel="gain (points of mIoU), 95 % interval")
    for axis, title in ((left, "accuracy"), (right, "gain of the pseudo-prototype")):
        axis.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        _plain(axis, title, xlabel="diversity of support and query (small dots: single trainings)")
    return figure


def compared(scores: Scores, experiment: Experiment) -> Figure:
    """One's own values among the published trainings: a line for each row (left) and each effect (right)."""
    tidy = compare.compared(scores, experiment)
    figure, panels = _lines(tidy)
    for axis, (_, lines) in zip(panels, tidy.groupby("kind", sort=False), strict=True):
        y = np.arange(len(lines))
        (band,) = axis.plot(lines[["least", "most"]].T, [y, y], color="0.8", linewidth=7, solid_capstyle="butt")[:1]
        dot = _trainings(axis, lines.trainings, y)
        (own,) = axis.plot(lines.yours, y, "D", color=COLOURS[1], markersize=7, markerfacecolor="none")
    figure.legend(
        [dot, band, own], ["published trainings", "where one more is expected (95 %)", "yours"],
        loc="outside lower center", ncols=3, frameon=False,
    )  # fmt: skip
    return figure


def loss_curves(store: Store, runs: Sequence[Run]) -> Figure:
    """L_seg, L_aux and L_dis of some runs against the step."""
    many = len(runs) > 8
    colours = sns.color_palette("cividis", len(runs)) if many else COLOURS
    figure, panels = plt.subplots(1, 3, figsize=(11, 5 if many else 3.6), layout="constrained")
    for number, run in enumerate(runs):
        step, *losses = np.array(store.history(run)).T
        style = {"linestyle": ("-", "--", ":")[number % 3] if many else "-", "linewidth": 1.4}
        for axis, loss in zip(panels, losses, strict=True):
            loss = loss if loss.any() else np.full(len(loss), np.nan)  # a variant without this loss
            axis.plot(step, loss, color=colours[number], label=run.variant.slug, **style)
    for axis, title in zip(panels, ("$L_{seg}$", "$L_{aux}$", "$L_{dis}$"), strict=True):
        _plain(axis, title, xlabel="step", ylim=(0, None))
    panels[0].set_ylabel("loss (nats per pixel or cell)")
    columns, size = (3, 8) if many else (4, 9)
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=columns, frameon=False, fontsize=size)
    return figure


def predictions(store: Store, run: Run, count: int, chosen: Sequence[int] | None = None) -> Figure:
    """Support, truth and predictions without and with P_q, of chosen episodes (None: the first of each class)."""
    benchmark = data.load(run.benchmark, io.places().data, run.recipe)
    listed = episodes.test_episodes(benchmark, run.fold, 1, run.seed, count)
    chosen = first_of_each_class(listed) if chosen is None else chosen
    masks = load_examples(store, run)
    size = (1.7 * len(chosen) + 0.3, 7.2)
    figure, axes = plt.subplots(4, len(chosen), figsize=size, layout="constrained", squeeze=False)
    for column, number in zip(axes.T, chosen, strict=True):
        episode = listed[number]
        support, query = (benchmark.entries[i] for i in (episode.supports[0], episode.query))
        image, truth = benchmark.image(query), benchmark.label(query) == episode.class_id
        without, with_ = (mask == 1 for mask in masks[number])
        column[0].imshow(outlined(benchmark.image(support), benchmark.label(support) == episode.class_id))
        column[0].set_title(benchmark.classes[episode.class_id - 1], fontsize=11)
        for axis, mask in zip(column[1:], (truth, without, with_), strict=True):
            axis.imshow(outlined(image, mask))
            overlap = (mask & truth).sum() / max((mask | truth).sum(), 1)
            if axis is not column[1]:
                axis.set_xlabel(f"IoU {100 * overlap:.0f} %", fontsize=9, labelpad=2)
    titles = ("support", "ground truth", "without pseudo-prototype", "with pseudo-prototype")
    for line, title in zip(axes, titles, strict=True):
        line[0].set_ylabel(title, fontsize=9)
    plt.setp(axes, xticks=[], yticks=[])
    return figure


def _plain(axis: Axes, title: str, **more: Any) -> None:
    """A title, a light grid, and no frame on the right and above."""
    axis.set_title(title, fontsize=11)
    axis.set(**more)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def compact(figure: Figure) -> Any:
    """A figure of images for a notebook, as a JPEG (a fifth of the PNG's bytes); it is closed thereafter."""
    from IPython.display import Image

    figure.savefig(buffer := BytesIO(), format="jpeg", dpi=100, pil_kwargs={"quality": 80})
    plt.close(figure)
    return Image(data=buffer.getvalue(), format="jpeg", alt="predictions")


def outlined(image: np.ndarray, mask: np.ndarray, dim: bool = True) -> np.ndarray:
    """An image [H, W, 3] whose mask [H, W] has a coloured border; its outside is dimmed and grey: float in 0..1."""
    picture = image / 255
    if dim:
        grey = 0.35 * picture.mean(2, keepdims=True) + 0.1
        picture = np.where(mask[..., None], picture, grey)
    padded = np.pad(mask, 1)
    inner = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    picture[mask & ~inner] = OUTLINE
    return picture
