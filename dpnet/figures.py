"""Plots: readable at their real size, with units and legends, in colours that all readers can tell apart."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from dpnet import benchmarks, evaluate, experiments, grid, paths, presets, results
from dpnet.experiments import Experiment
from dpnet.results import MEAN, YARDSTICKS, Reader

COLOURS = sns.color_palette("colorblind")
MARKERS = "osD^vP*X"
METRIC_NAMES = {"canet": "CANet metric (void is background)", "pfenet": "PFENet metric (void left out)"}


def table(reader: Reader, experiment: Experiment) -> Figure:
    """A table as points with 95 % intervals, per fold and metric, between its yardsticks.

    Arguments:
        reader: the results.
        experiment: the table.

    Returns:
        the figure.
    """
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    tidy, below = results.rows(reader, experiment), results.yardsticks(reader, experiment)
    folds = [*map(str, reader.folds), MEAN]
    best = experiment.rows[experiment.best].label
    dashes = {YARDSTICKS["prototype"]: "-", f"{best}, wrong support": ":", YARDSTICKS["objects"]: "--"}
    for axis, (metric, title) in zip(panels, METRIC_NAMES.items(), strict=True):
        for number, row in enumerate(experiment.rows):
            of_row = np.all([tidy[k] == v for k, v in row.key.items()], axis=0)
            cells = tidy[of_row & (tidy.metric == metric)].set_index("fold").loc[folds]
            x = np.arange(len(folds)) + (number - (len(experiment.rows) - 1) / 2) * 0.14
            error = [cells.miou - cells.low, cells.high - cells.miou]
            axis.errorbar(
                x,
                cells.miou,
                error,
                fmt=MARKERS[number],
                color=COLOURS[number],
                label=row.label,
                markersize=5,
            )
        for name, dash in dashes.items():
            cells = below[(below.yardstick == name) & (below.metric == metric)].set_index("fold").loc[folds]
            for i, value in enumerate(cells.miou):
                axis.hlines(
                    value,
                    i - 0.4,
                    i + 0.4,
                    color="0.35",
                    linestyle=dash,
                    linewidth=1.2,
                    label=None if i else name,
                )
        axis.set_title(title, fontsize=11)
        axis.set_xticks(range(len(folds)), [f if f == MEAN else f"fold {f}" for f in folds])
        axis.grid(axis="y", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mIoU (%), 95 % interval")
    panels[0].set_ylim(bottom=0)
    handles, labels = panels[0].get_legend_handles_labels()
    first = len(dashes)  # matplotlib lists lines before error bars; the table's rows come first here
    handles, labels = handles[first:] + handles[:first], labels[first:] + labels[:first]
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def loss_curves(cohort: "grid.Cohort") -> Figure:
    """L_seg, L_aux and L_dis of a cohort's runs against the step."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for number, run in enumerate(cohort.runs):
        curve = np.array(cohort.store.history(run))
        for column, axis in enumerate(panels, 1):
            if curve[:, column].any():
                axis.plot(
                    curve[:, 0],
                    curve[:, column],
                    color=COLOURS[number],
                    label=run.variant.slug,
                    linewidth=1.4,
                )
    for axis, title in zip(panels, ("L_seg", "L_aux", "L_dis"), strict=True):
        axis.set_title(f"${title[0]}_{{{title[2:]}}}$", fontsize=11)
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
        axis.grid(color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("loss (nats per pixel or cell)")
    panels[0].legend(frameon=False, fontsize=9)
    return figure


def predictions(cohort: "grid.Cohort") -> Figure:
    """Support, ground truth, and what the full model says without and with the pseudo-prototype.

    One column per class of the fold: the list's first episode of that class, whatever it looks like.

    Arguments:
        cohort: finished, on a rendered benchmark.

    Returns:
        the figure.
    """
    sizes = presets.get(cohort.benchmark, cohort.preset)
    benchmark = benchmarks.load(cohort.benchmark, paths.data(), sizes.recipe)
    scene_list = evaluate.first_of_each_class(
        evaluate.episodes.test_episodes(benchmark, cohort.fold, 1, cohort.seed, sizes.episodes)
    )
    experiment = experiments.get(cohort.experiment)
    variant = experiment.rows[experiment.best].variant
    run = next(r for r in cohort.runs if r.variant == variant)
    masks = grid.examples(cohort, run)
    titles = ("support", "ground truth", "without pseudo-prototype", "with pseudo-prototype")
    size = (1.7 * len(scene_list) + 0.3, 7.2)
    figure, axes = plt.subplots(4, len(scene_list), figsize=size, layout="constrained", squeeze=False)
    for column, episode in enumerate(scene_list):
        support, query = (benchmark.entries[i] for i in (episode.supports[0], episode.query))
        truth = benchmark.label(query) == episode.class_id
        pairs = [
            (benchmark.image(support), benchmark.label(support) == episode.class_id),
            (benchmark.image(query), truth),
            (benchmark.image(query), masks[column, 0] == 1),
            (benchmark.image(query), masks[column, 1] == 1),
        ]
        axes[0, column].set_title(benchmark.classes[episode.class_id - 1], fontsize=11)
        for row, (image, mask) in enumerate(pairs):
            axis = axes[row, column]
            axis.imshow(outlined(image, mask))
            axis.set_xticks([])
            axis.set_yticks([])
            if row > 1:
                overlap = (mask & truth).sum() / max((mask | truth).sum(), 1)
                axis.set_xlabel(f"IoU {100 * overlap:.0f} %", fontsize=9, labelpad=2)
    for row, title in enumerate(titles):
        axes[row, 0].set_ylabel(title, fontsize=9)
    return figure


def compact(figure: Figure) -> Any:
    """A figure of images for a notebook, as a JPEG: a fifth of the PNG's bytes.

    Arguments:
        figure: closed thereafter.

    Returns:
        what a cell displays.
    """
    from IPython.display import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=100, pil_kwargs={"quality": 85})
    plt.close(figure)
    return Image(data=buffer.getvalue(), format="jpeg", alt="predictions")


def outlined(image: np.ndarray, mask: np.ndarray, colour: Sequence[float] = (1.0, 0.85, 0.0)) -> np.ndarray:
    """An image that is dimmed and grey outside a mask, whose border is drawn in a colour.

    Arguments:
        image: uint8 [H, W, 3].
        mask: bool [H, W].
        colour: of the border, 0..1.

    Returns:
        float [H, W, 3] in 0..1.
    """
    picture = image / 255
    dim = 0.35 * picture.mean(2, keepdims=True) + 0.1
    shown = np.where(mask[..., None], picture, np.broadcast_to(dim, picture.shape))
    padded = np.pad(mask, 1)
    inner = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    shown[mask & ~inner] = colour
    return shown
