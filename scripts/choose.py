"""Choose a recipe on classes that no table tests: training images only, and classes left out of that training."""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dpnet import data, episodes, evaluate, io
from dpnet.companion import presets
from dpnet.companion.presets import Setting
from dpnet.config import Evaluation, Training, Variant
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError, Places, load_checkpoint, write
from dpnet.metrics import METRICS, mean_iou
from dpnet.train import build_head, train

LEAST = 5  # training images that a class must have to be validated on
FILE = "recipe.csv"


def validation(benchmark: Benchmark, fold: int) -> Benchmark:
    """A fold's training images as a benchmark of their own, in which no image and no class of the tables is scored.

    Novel are the classes that no fold tests, and the fold's own; only the former are scored. Their images are the
    test images, and the others the training images.
    """
    tested = {c for classes in benchmark.tested for c in classes}
    own = set(benchmark.folds[fold])
    others = {*range(1, len(benchmark.classes) + 1)} - tested - own
    spare = sorted(c for c in others if len(benchmark.images_of(c, "train")) >= LEAST)
    if len(spare) < 2:
        raise DPNetError(
            f"{benchmark.name}, fold {fold}: {len(spare)} class(es) that no fold tests have {LEAST} training images, "
            "and two are needed to choose a recipe without looking at what is tested"
        )
    scored = {i for c in spare for i in benchmark.images_of(c, "train")}
    image, label = (lambda e: str(benchmark.path(e.image))), (lambda e: str(benchmark.path(e.label)))
    entries = tuple(
        replace(entry, split="val" if i in scored else "train", image=image(entry), label=label(entry))
        for i, entry in enumerate(benchmark.entries)
        if entry.split == "train"
    )
    digest = hashlib.sha256(f"{benchmark.digest} validation {fold}".encode()).hexdigest()
    return replace(
        benchmark,
        # Runs are stored below it: those of other data are not taken for these.
        root=benchmark.root / "validation" / f"fold{fold}-{digest[:8]}",
        folds=tuple((tuple(sorted({*spare, *own})) if f == fold else ()) for f in range(len(benchmark.folds))),
        tested=tuple((tuple(spare) if f == fold else ()) for f in range(len(benchmark.folds))),
        entries=entries,
        digest=digest,
    )


def choose(benchmark_name: str, preset: str, at: Places) -> pd.DataFrame:
    """Train the full model with each candidate recipe, score it on what no table tests, and write `recipe.csv`.

    Returns:
        candidate, fold (a number or "mean"), metric, miou, classes.
    """
    setting, candidates = presets.resolve(benchmark_name, preset), presets.CANDIDATES.get((benchmark_name, preset))
    if candidates is None:
        known = ", ".join(f"{b} at {p}" for b, p in presets.CANDIDATES)
        raise DPNetError(
            f"no recipes to choose from for {benchmark_name} at {preset}: presets.py has them for {known}"
        )
    benchmark = data.prepare(benchmark_name, at.data, setting.recipe)
    rows = []
    for fold in episodes.folds(benchmark):
        apart = validation(benchmark, fold)
        names = "+".join(benchmark.classes[c - 1] for c in apart.tested[fold])
        for candidate, (counts, classes) in _scored(apart, fold, candidates, setting, at.device).items():
            for metric in METRICS:
                rows.append((candidate, str(fold), metric, mean_iou(counts, classes, metric), names))
    table = pd.DataFrame(rows, columns=["candidate", "fold", "metric", "miou", "classes"])
    mean = table.groupby(["candidate", "metric"], sort=False).miou.mean().reset_index()
    table = pd.concat([table, mean.assign(fold="mean", classes="")], ignore_index=True)
    content = table.round(4).to_csv(index=False, lineterminator="\n")
    write(at.results / setting.name / FILE, content.encode())
    return table


def _scored(
    apart: Benchmark, fold: int, candidates: Mapping[str, Training], setting: Setting, device: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Candidate -> counts and classes of the fold's episodes; what was trained before is not trained again."""
    scored = {}
    for candidate, training in candidates.items():
        run = replace(setting, training=training).run(Variant(), fold, 0)
        scene = evaluate.scene_of(run, apart, device)
        folder, way = apart.root / "runs" / run.id, Evaluation(setting.episodes)
        if not (folder / "checkpoint.safetensors").exists():
            train({run: folder}, apart, scene.backbone, device)
        head = build_head(run, scene.backbone.channels)
        head.load_state_dict(load_checkpoint(folder))
        counts, lists = evaluate.evaluate({run: head.to(device).eval()}, scene, {run: [way]})
        scored[candidate] = counts[run, way], np.array([episode.class_id for episode in lists[way]])
    return scored


def main() -> None:
    """Choose, and print a column per metric and fold."""
    here = io.places()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmark", default="pascal-mini", choices=presets.BENCHMARKS, help="whose [pascal-mini]")
    parser.add_argument("--preset", default="quick", choices=presets.PRESETS, help="its preset [quick]")
    parser.add_argument("--data", type=Path, default=here.data, help="the data folder [data]")
    parser.add_argument("--results", type=Path, default=here.results, help="the folder of all results [results]")
    parser.add_argument("--device", default=here.device, choices=("cpu", "cuda"), help="[cpu]")
    options = parser.parse_args()
    table = choose(options.benchmark, options.preset, Places(options.data, options.results, options.device))
    wide = table.pivot_table(index="candidate", columns=["metric", "fold"], values="miou", sort=False)
    print(wide.round(1).to_string())


if __name__ == "__main__":
    try:
        main()
    except DPNetError as error:
        sys.exit(f"choose: error: {error}")
