"""A recipe chosen on classes that no table tests: training images only, and classes left out of that training."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from dpnet import data as benchmarks
from dpnet import episodes, evaluate, io
from dpnet.companion import presets
from dpnet.companion.runner import load_head
from dpnet.companion.store import Store
from dpnet.config import Evaluation, Run, Training, Variant
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError, write
from dpnet.metrics import METRICS, mean_iou
from dpnet.train import train

LEAST = 5  # training images that a class must have to be validated on
FILE = "recipe.csv"


def validation(benchmark: Benchmark, fold: int) -> Benchmark:
    """A fold's training images as a benchmark of their own, in which no image and no class of the tables is scored.

    Novel are the classes that no fold tests, and the fold's own; scored are the former. Their images are the
    test images, and the others the training images.

    Arguments:
        benchmark: whose training images.
        fold: for whose training a recipe is sought.

    Returns:
        a benchmark with that fold only; its index is not kept.

    Raises:
        DPNetError: fewer than two classes are left to validate on.
    """
    tested = {c for classes in benchmark.tested for c in classes}
    own = set(benchmark.folds[fold])
    spare = [
        c
        for c in range(1, len(benchmark.classes) + 1)
        if c not in tested | own and len(benchmark.images_of(c, "train")) >= LEAST
    ]
    if len(spare) < 2:
        raise DPNetError(
            f"{benchmark.name}, fold {fold}: {len(spare)} class(es) that no fold tests have {LEAST} training images, "
            "and two are needed to choose a recipe without looking at what is tested"
        )
    shown = {i for c in spare for i in benchmark.images_of(c, "train")}
    entries = tuple(
        replace(e, split="val" if i in shown else "train", image=str(benchmark.path(e.image)),
                label=str(benchmark.path(e.label)))
        for i, e in enumerate(benchmark.entries)
        if e.split == "train"
    )  # fmt: skip
    where = range(len(benchmark.folds))
    digest = hashlib.sha256(f"{benchmark.digest} validation {fold}".encode()).hexdigest()
    return replace(
        benchmark,
        # Runs are kept below it: those of other data are not taken for these.
        root=benchmark.root / "validation" / f"fold{fold}-{digest[:8]}",
        folds=tuple(tuple(sorted({*spare, *own})) if f == fold else () for f in where),
        tested=tuple(tuple(spare) if f == fold else () for f in where),
        entries=entries,
        digest=digest,
    )


def choose(name: str, preset: str, device: str) -> pd.DataFrame:
    """Train the full model with each candidate recipe, and score it on what no table tests.

    Arguments:
        name: of the benchmark.
        preset: its sizes; `presets.CANDIDATES` holds the recipes.
        device: "cpu" or "cuda".

    Returns:
        candidate, fold (a number or "mean"), metric, miou, classes; also written to `recipe.csv`
        beside the preset's results.

    Raises:
        DPNetError: no candidates, or nothing to validate on.
    """
    sizes = presets.resolve(name, preset)
    candidates = presets.CANDIDATES.get((name, preset))
    if candidates is None:
        known = ", ".join(f"{b} at {p}" for b, p in presets.CANDIDATES)
        raise DPNetError(f"no recipes to choose from for {name} at {preset}: presets.py has them for {known}")
    benchmark = benchmarks.prepare(name, io.places().data, sizes.recipe)
    rows = []
    for fold in episodes.folds(benchmark):
        held_out = validation(benchmark, fold)
        for candidate, scores in _scores(held_out, fold, candidates, sizes, device).items():
            of = "+".join(benchmark.classes[c - 1] for c in held_out.tested[fold])
            rows += [{"candidate": candidate, "fold": str(fold), **one, "classes": of} for one in scores]
    table = pd.DataFrame(rows)
    mean = table.groupby(["candidate", "metric"], sort=False).miou.mean().reset_index()
    table = pd.concat([table, mean.assign(fold="mean", classes="")], ignore_index=True)
    content = table.round(4).to_csv(index=False, lineterminator="\n")
    write(io.places().results / f"{name}-{preset}" / FILE, content.encode())
    return table


def _scores(
    held_out: Benchmark, fold: int, candidates: Mapping[str, Training], sizes: presets.Setting, device: str
) -> dict[str, list[dict[str, Any]]]:
    """Candidate -> a row per metric."""
    store, way = Store(held_out.root), Evaluation(sizes.episodes)
    found: dict[str, list[dict[str, Any]]] = {}
    for candidate, training in candidates.items():
        run = Run(held_out.name, sizes.recipe, training, fold, 0, Variant())
        scene = evaluate.scene_of(run, held_out, device)
        if store.missing(run, [way.id]):
            if not (store.folder(run) / "checkpoint.safetensors").exists():
                train({run: store.begin_training(run)}, held_out, scene.backbone, device)
            heads = {run: load_head(run, store, scene.backbone.channels, device)}
            counts, lists = evaluate.evaluate(heads, scene, {run: [way]})
            store.finish(run, {way.id: counts[run, way]}, {way.id: lists[way]}, held_out)
        counts_of, classes = store.counts(run, way.id)
        found[candidate] = [{"metric": metric, "miou": mean_iou(counts_of, classes, metric)} for metric in METRICS]
    return found
