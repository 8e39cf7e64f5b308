"""Plots: readable at their real size, with units and legends, in colours that all readers can tell apart."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from dpnet import data as benchmarks
from dpnet import episodes, io
from dpnet.companion import experiments, results, runner
from dpnet.companion.cycles import Cycle
from dpnet.companion.examples import first_of_each_class, load_examples
from dpnet.companion.experiments import Experiment
from dpnet.companion.results import MEAN, YARDSTICKS, Reader
from dpnet.companion.store import Store
from dpnet.config import Run
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode

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
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    tidy, below = results.rows(reader, experiment), results.yardsticks(reader, experiment)
    folds = [*map(str, reader.folds), MEAN]
    best = experiment.best
    suffix = results.suffix(experiment, best)
    dashes = {
        YARDSTICKS["prototype"] + suffix: "-",
        YARDSTICKS["prototype-wrong"] + suffix: ":",
        YARDSTICKS["objects"] + suffix: "--",
    }
    ignored = "the model, wrong support" + suffix
    handles: dict[str, Any] = {}
    for axis, (metric, title) in zip(panels, METRIC_NAMES.items(), strict=True):
        shown = [row for row in experiment.rows if row.metric in (None, metric)]
        for number, row in enumerate(shown):
            of_row = np.all([tidy[k] == v for k, v in row.key.items()], axis=0)
            cells = tidy[of_row & (tidy.metric == metric)].set_index("fold").loc[folds]
            x = np.arange(len(folds)) + (number - (len(shown) - 1) / 2) * 0.14
            error = [cells.miou - cells.low, cells.high - cells.miou]
            style = experiment.rows.index(row)
            handles[row.label] = axis.errorbar(
                x, cells.miou, error, fmt=MARKERS[style], color=COLOURS[style], markersize=5
            )
        held = next(row for row in reversed(experiment.rows) if row in shown and row.shot == best.shot)
        for name, dash in {**dashes, f"{held.label}, wrong support": "-."}.items():
            cells = below[(below.yardstick == name) & (below.metric == metric)].set_index("fold").loc[folds]
            at = np.arange(len(folds))
            line = axis.hlines(cells.miou, at - 0.4, at + 0.4, color="0.35", linestyle=dash, linewidth=1.2)
            handles[name if name in dashes else ignored] = line
        axis.set_title(title, fontsize=11)
        axis.set_xticks(range(len(folds)), [f if f == MEAN else f"fold {f}" for f in folds])
        _plain(axis)
    panels[0].set_ylabel("mIoU (%), 95 % interval")
    panels[0].set_ylim(bottom=0)
    order = [row.label for row in experiment.rows] + [*dashes, ignored]
    figure.legend(
        [handles[name] for name in order], order, loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    return figure


def speed(found: dict[str, Any]) -> Figure:
    """How cost grows with episodes, variants, shots, image size and grid, and where the time goes.

    Arguments:
        found: the content of `results/speed/<device>.json`.

    Returns:
        the figure; bars of errors reach from the least to the most of the turns.
    """
    figure, panels = plt.subplots(2, 3, figsize=(14, 7.6), layout="constrained")
    growth = found["growth"]
    encoded, kept = growth["variants, encoded at each step"], growth["variants, features kept"]
    lines = [
        (panels[0, 0], "evaluation of Table 3's four rows, from files", "episodes", "s", [
            (growth["episodes"], "reference (s)", "one at a time (few measured, scaled)"),
            (growth["episodes"], "ours (s)", "shared pass"),
        ]),
        (panels[0, 1], "a training step", "variants in lockstep", "ms", [
            (encoded, "reference (ms)", "one after the other (one alone, scaled)"),
            (encoded, "ours (ms)", "lockstep"),
            (kept, "ours (ms)", "lockstep, features kept"),
        ]),
        (panels[0, 2], "evaluation of the full model, from files", "supports per episode", "ms per episode", [
            (growth["shots"], "reference (ms)", "one at a time"),
            (growth["shots"], "ours (ms)", "shared pass"),
        ]),
    ]  # fmt: skip
    for axis, title, x_label, y_label, curves in lines:
        for number, (data, key, label) in enumerate(curves):
            middle, least, most = np.array(data[key]).T
            axis.errorbar(data["x"], middle, [middle - least, most - middle], marker=MARKERS[number],
                          color=COLOURS[number], label=label, capsize=3)  # fmt: skip
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
        axis.set_xticks(curves[0][0]["x"])
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=9)
    by_size = growth["image size"]
    parts = {"backbone": COLOURS[0], "comparison": COLOURS[1], "head": COLOURS[2]}
    below = np.zeros(len(by_size["x"]))
    for part, colour in parts.items():
        middle = np.array(by_size[f"{part} (ms)"])[:, 0]
        panels[1, 0].bar([f"{x}²" for x in by_size["x"]], middle, 0.6, below, color=colour, label=part)
        below += middle
    panels[1, 0].set(title="a training step of one model", xlabel="pixels", ylabel="ms")
    panels[1, 0].legend(frameon=False, fontsize=9)
    comparison = found["comparison"]
    cells = [side**2 for side in comparison["x"]]
    for number, (kind, label) in enumerate(
        (("whole", "whole affinity"), ("blocks", f"{comparison['block']} support cells at a time"))
    ):
        memory = comparison[f"{kind}, largest tensor beside the features (MiB)"]
        panels[1, 1].plot(cells, memory, marker=MARKERS[number], color=COLOURS[number], label=label)
    panels[1, 1].set(title="memory of the cycle comparison, one pair", xlabel="cells of one image", ylabel="MiB")
    panels[1, 1].set_ylim(bottom=0)
    panels[1, 1].legend(frameon=False, fontsize=9)
    colours = {"backbone": 0, "comparison": 1, "heads": 2, "data": 3, "scoring": 4, "other": 7}
    for number, (what, spent) in enumerate(found["where the time goes"].items()):
        left, whole = 0.0, sum(spent.values())
        for part, value in spent.items():
            share = 100 * value / whole
            known = part in panels[1, 2].get_legend_handles_labels()[1]
            panels[1, 2].barh(number, share, 0.5, left, color=COLOURS[colours[part]], label=None if known else part)
            if share >= 6:
                panels[1, 2].text(left + share / 2, number, f"{share:.0f}", ha="center", va="center", fontsize=9)
            left += share
        panels[1, 2].text(0, number + 0.32, what.rpartition(" (")[0], fontsize=9)
    panels[1, 2].set(title="where the time goes", xlabel="% of the time", yticks=[], ylim=(-0.5, 2.1))
    panels[1, 2].legend(frameon=False, fontsize=9, ncols=3, loc="upper center")
    for axis in panels.flat:
        _plain(axis)
    return figure


def heat_maps(reader: Reader, experiment: Experiment) -> Figure:
    """Table 5: the mean over folds for each pair of loss weights, ours and the paper's, each on its own scale.

    Arguments:
        reader: the results.
        experiment: Table 5.

    Returns:
        the figure; cells that were not run are empty.
    """
    tidy = results.rows(reader, experiment).query(f"metric == 'canet' and fold == '{MEAN}'")
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
    for axis, column, title in zip(panels, ("miou", "paper"), ("ours", "the paper's"), strict=True):
        cells = tidy.pivot(index="lambda2_dis", columns="lambda1_aux", values=column)
        drawn = not cells.isna().all(axis=None)
        sns.heatmap(
            cells, ax=axis, annot=True, fmt=".1f", cmap="cividis", square=True, linewidths=1, mask=cells.isna(),
            cbar_kws={"label": "mIoU (%), CANet metric", "shrink": 0.9}, cbar=drawn,
        )  # fmt: skip
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("λ1, weight of the auxiliary loss")
        axis.set_ylabel("λ2, weight of the discriminator's loss")
        axis.tick_params(length=0, rotation=0)
    return figure


def thresholds(readers: Sequence[Reader], experiment: Experiment) -> Figure:
    """Fig. 5: mIoU against beta, mean of folds with its 95 % interval, and each fold.

    Arguments:
        readers: one panel per benchmark.
        experiment: Fig. 5.

    Returns:
        the figure; the vertical axis does not begin at zero.
    """
    figure, panels = plt.subplots(
        1, len(readers), figsize=(6.8 * len(readers), 4), layout="constrained", squeeze=False
    )
    for axis, reader in zip(panels[0], readers, strict=True):
        tidy = results.rows(reader, experiment)
        for number, (metric, title) in enumerate(METRIC_NAMES.items()):
            mean = tidy.query(f"metric == '{metric}' and fold == '{MEAN}'")
            axis.plot(mean.beta, mean.miou, marker=MARKERS[number], color=COLOURS[number], label=title)
            axis.fill_between(mean.beta, mean.low, mean.high, color=COLOURS[number], alpha=0.2, linewidth=0)
        axis.axvline(0.2, color="0.5", linestyle=":", linewidth=1)
        axis.axvline(0.5, color="0.5", linestyle="--", linewidth=1)
        bottom = axis.get_ylim()[0]
        axis.annotate(" the paper's test", (0.2, bottom), fontsize=8, color="0.3", va="bottom")
        axis.annotate(" training", (0.5, bottom), fontsize=8, color="0.3", va="bottom")
        axis.set_title(f"{reader.benchmark}, {reader.preset}: mean of folds", fontsize=11)
        axis.set_xlabel("discriminator's threshold β in testing")
        axis.set_ylabel("mIoU (%), 95 % interval")
        _plain(axis)
        axis.legend(frameon=False, fontsize=9, loc="best")
    return figure


def gains(reader: Reader, experiment: Experiment) -> Figure:
    """Accuracy, and the gain of the pseudo-prototype, against `diversity`; PFENet metric beside CANet's.

    Arguments:
        reader: the results.
        experiment: the one over diversities.

    Returns:
        the figure.
    """
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    tidy = results.rows(reader, experiment).query(f"metric == 'canet' and fold == '{MEAN}'")
    labels = {"without": "auxiliary branch", "trained without": "trained without", "with": "with pseudo-prototype"}
    for number, (name, label) in enumerate(labels.items()):
        cells = tidy[tidy.pseudo_prototype == name]
        error = [cells.miou - cells.low, cells.high - cells.miou]
        panels[0].errorbar(
            cells.diversity, cells.miou, error, marker=MARKERS[number], color=COLOURS[number], label=label, capsize=2
        )
    prototype = results.yardsticks(reader, experiment).query(f"metric == 'canet' and fold == '{MEAN}'")
    prototype = prototype[prototype.yardstick.str.match(rf"{YARDSTICKS['prototype']}, diversity")]
    panels[0].plot(
        experiments.DIVERSITIES, prototype.miou, color="0.35", linestyle="--", label=YARDSTICKS["prototype"]
    )
    panels[0].set_ylabel("mIoU (%), CANet metric, 95 % interval")
    panels[0].set_ylim(bottom=0)
    panels[0].set_title("accuracy", fontsize=11)
    found = results.effects(reader, experiment).query(f"fold == '{MEAN}'")
    lines = (
        ("gain at diversity", "canet", "over the auxiliary branch"),
        ("gain over a model trained without, at", "canet", "over a model trained without"),
        ("gain at diversity", "pfenet", "over the auxiliary branch, PFENet metric"),
    )
    for number, (start, metric, label) in enumerate(lines):
        cells = found[found.effect.str.startswith(start) & (found.metric == metric)]
        error = [cells.difference - cells.low, cells.high - cells.difference]
        x = np.array(experiments.DIVERSITIES) + 0.008 * (number - 1)
        panels[1].errorbar(
            x, cells.difference, error, marker=MARKERS[3 + number], color=COLOURS[3 + number], label=label, capsize=2
        )
    panels[1].axhline(0, color="0.35", linewidth=1)
    panels[1].set_ylabel("gain (points of mIoU), 95 % interval")
    panels[1].set_title("gain of the pseudo-prototype", fontsize=11)
    for axis in panels:
        axis.set_xlabel("diversity of support and query")
        axis.legend(frameon=False, fontsize=9)
        _plain(axis)
    return figure


def loss_curves(store: Store, runs: Sequence[Run]) -> Figure:
    """L_seg, L_aux and L_dis of some runs against the step."""
    many = len(runs) > 8
    colours = sns.color_palette("cividis", len(runs)) if many else COLOURS
    figure, panels = plt.subplots(1, 3, figsize=(11, 5 if many else 3.6), layout="constrained")
    for number, run in enumerate(runs):
        curve = np.array(store.history(run))
        for column, axis in enumerate(panels, 1):
            axis.plot(
                curve[:, 0],
                curve[:, column] if curve[:, column].any() else np.full(len(curve), np.nan),
                color=colours[number],
                linestyle=("-", "--", ":")[number % 3] if many else "-",
                label=run.variant.slug,
                linewidth=1.4,
            )
    for axis, title in zip(panels, ("L_seg", "L_aux", "L_dis"), strict=True):
        axis.set_title(f"${title[0]}_{{{title[2:]}}}$", fontsize=11)
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
        _plain(axis)
    panels[0].set_ylabel("loss (nats per pixel or cell)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3 if many else 4, frameon=False, fontsize=8 if many else 9
    )
    return figure


def predictions(store: Store, run: Run, count: int) -> Figure:
    """Support, ground truth, and what the full model says without and with the pseudo-prototype.

    One column per class of the fold: the list's first episode of that class, whatever it looks like.

    Arguments:
        store: where the run is.
        run: finished, on a rendered benchmark.
        count: episodes of the fold's list.

    Returns:
        the figure.
    """
    benchmark, listed = _listed(run, count)
    return _strips(store, benchmark, listed, first_of_each_class(listed), run)


def looks(cohort: "runner.Cohort", experiment: Experiment, rule: str) -> Figure:
    """Fig. 4: one column per class of the fold, the episode chosen by a rule (see `results.looks`).

    Arguments:
        cohort: finished, on a rendered benchmark.
        experiment: Fig. 4.
        rule: "largest gain", "median" or "largest loss".

    Returns:
        the figure.
    """
    run = next(r for r in cohort.runs if r.variant == experiment.best.variant)
    benchmark, listed = _listed(run, cohort.usual.episodes)
    reader = Reader(cohort.usual.benchmark, cohort.usual.preset, seeds=cohort.seed + 1)
    chosen = results.looks(reader, experiment, cohort.fold).query(f"rule == '{rule}'")
    return _strips(cohort.store, benchmark, listed, list(chosen.episode), run)


def cycles(benchmark: Benchmark, listed: Sequence[Episode], pair: Sequence[Cycle]) -> Figure:
    """Fig. 3: S_1 on the support, Q_1 on the query, S_2 on the support; a success above a failure.

    Arguments:
        benchmark: the data.
        listed: the episodes.
        pair: from `cycles.find`.

    Returns:
        the figure; brightness over the second and third picture is the similarity to the cell before.
    """
    figure, axes = plt.subplots(len(pair), 3, figsize=(9, 3.15 * len(pair)), layout="constrained", squeeze=False)
    for line, cycle in zip(axes, pair, strict=True):
        episode = listed[cycle.episode]
        support, query = (benchmark.entries[i] for i in (episode.supports[0], episode.query))
        maps = (None, cycle.forward, cycle.backward)
        titles = ("$S_1$: a cell of the support's object", "$Q_1$: the most similar in the query",
                  "$S_2$: the most similar back in the support")  # fmt: skip
        points = []
        for axis, entry, cell, heat, title in zip(
            line, (support, query, support), cycle.cells, maps, titles, strict=True
        ):
            image, label = benchmark.image(entry), benchmark.label(entry)
            height, width = label.shape
            h, w = cycle.forward.shape
            axis.imshow(outlined(image, label == episode.class_id, dim=heat is None))
            if heat is not None:
                axis.imshow(
                    heat, cmap="cividis", alpha=0.45, extent=(0, width - 1, height - 1, 0), interpolation="bilinear"
                )
            points.append((cell[1] * (width - 1) / (w - 1), cell[0] * (height - 1) / (h - 1)))
            axis.plot(*points[-1], "o", color="white", markeredgecolor="black", markersize=9, markeredgewidth=1.5)
            axis.set_title(title, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
        for number in range(2):
            ends = {"axesA": line[number], "axesB": line[number + 1], "coordsA": "data", "coordsB": "data"}
            style = {"arrowstyle": "-|>", "color": COLOURS[1], "linewidth": 1.8, "shrinkA": 6, "shrinkB": 6}
            figure.add_artist(ConnectionPatch(points[number], points[number + 1], **ends, **style))
        line[0].set_ylabel(
            "kept: $S_2$ on the object" if cycle.succeeds else "rejected: $S_2$ off the object", fontsize=9
        )
    return figure


def _listed(run: Run, count: int) -> tuple[Benchmark, list[Episode]]:
    benchmark = benchmarks.load(run.benchmark, io.places().data, run.recipe)
    return benchmark, episodes.test_episodes(benchmark, run.fold, 1, run.seed, count)


def _strips(store: Store, benchmark: Benchmark, listed: Sequence[Episode], chosen: Sequence[int], run: Run) -> Figure:
    masks = load_examples(store, run)
    titles = ("support", "ground truth", "without pseudo-prototype", "with pseudo-prototype")
    figure, axes = plt.subplots(
        4, len(chosen), figsize=(1.7 * len(chosen) + 0.3, 7.2), layout="constrained", squeeze=False
    )
    for column, number in enumerate(chosen):
        episode = listed[number]
        support, query = (benchmark.entries[i] for i in (episode.supports[0], episode.query))
        label = benchmark.label(query)
        truth = label == episode.class_id
        pairs = [
            (benchmark.image(support), benchmark.label(support) == episode.class_id),
            (benchmark.image(query), truth),
            *((benchmark.image(query), mask == 1) for mask in masks[number]),
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


def _plain(axis: Axes) -> None:
    """A light grid, and no frame on the right and above."""
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def compact(figure: Figure | None) -> Any:
    """A figure of images for a notebook, as a JPEG: a fifth of the PNG's bytes.

    Arguments:
        figure: closed thereafter; None: nothing to show.

    Returns:
        what a cell displays.
    """
    from IPython.display import Image

    if figure is None:
        return None
    buffer = BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=100, pil_kwargs={"quality": 80})
    plt.close(figure)
    return Image(data=buffer.getvalue(), format="jpeg", alt="predictions")


def outlined(
    image: np.ndarray, mask: np.ndarray, colour: Sequence[float] = (1.0, 0.85, 0.0), dim: bool = True
) -> np.ndarray:
    """An image that is dimmed and grey outside a mask, whose border is drawn in a colour.

    Arguments:
        image: uint8 [H, W, 3].
        mask: bool [H, W].
        colour: of the border, 0..1.
        dim: whether the outside is dimmed.

    Returns:
        float [H, W, 3] in 0..1.
    """
    picture = image / 255
    outside = 0.35 * picture.mean(2, keepdims=True) + 0.1 if dim else picture
    shown = np.where(mask[..., None], picture, np.broadcast_to(outside, picture.shape))
    padded = np.pad(mask, 1)
    inner = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    shown[mask & ~inner] = colour
    return shown
