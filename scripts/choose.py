"""Choose a schedule on images that no table tests: Table 3's rows, by candidate, scenes and seed."""

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import choose_plot
import numpy as np
import pandas as pd

from dpnet import data, episodes, evaluate, io
from dpnet.companion import experiments, presets, runner
from dpnet.companion.experiments import PAPER_METRIC, Row
from dpnet.companion.presets import Setting
from dpnet.config import BENCHMARKS, Run, Training, Variant, fingerprint
from dpnet.data import index, shapes
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError, Places, progress, to_json, write
from dpnet.metrics import mean_iou
from dpnet.train import SOURCES, train

FILE, SCORES = "recipe.csv", "scores.json"
KEYS = ("candidate", "scenes", "seed", "run")  # of a line; the id of its first row's run stands for its settings
PAIRS = ((0, 1), (2, 3))  # of photographs: a fold, and whose classes are scored for it
NOTES = choose_plot.NOTES
TABLE3 = experiments.get("table3").rows
CANDIDATES: dict[tuple[str, str], dict[str, dict[str, Any]]] = {  # what they change in the preset's training
    ("shapes", "quick"): {
        **{f"{steps} steps": {"steps": steps} for steps in (800, 1200, 1600, 2400, 3600, 4800)},
        "1600, rate 2e-3": {"steps": 1600, "learning_rate": 2e-3},
        "1600, rate 5e-4": {"steps": 1600, "learning_rate": 5e-4},
        "1600, warm-up 160": {"steps": 1600, "warmup": 160},
        "1600, clip 1": {"steps": 1600, "clip": 1.0},
        "800, batch 8": {"steps": 800, "batch": 8},
        "1600, width 32": {"steps": 1600, "width": 32},
        "1600, width 128": {"steps": 1600, "width": 128},
    },
    ("pascal-part", "quick"): {
        **{f"{steps} steps": {"steps": steps} for steps in (1200, 2400, 3600)},
        "161²": {"size": 161, "dilations": (2, 4, 6)},
        "321²": {"size": 321, "dilations": (4, 8, 12)},
        "rate 3e-4": {"learning_rate": 3e-4},
        "rate 3e-3": {"learning_rate": 3e-3},
        "dropout 0.5": {"dropout": 0.5},
        "geometric": {"augment": "geometric"},
        "width 128": {"width": 128},
        "1200, width 256": {"steps": 1200, "width": 256},  # a core needs 40 minutes for these
        "absent 0.25": {"absent": 0.25},
        "novel dropped": {"novel": "drop"},
    },
}
WRONG = "wrong support"  # of the full model: how much it marks whatever is asked for
# A class of these scenes has one class's silhouette, another one's textures and a third one's hues.
OTHERS = tuple(
    replace(own, body=surface.body, second=surface.second, body_hue=hues.body_hue, second_hue=hues.second_hue)
    for own, surface, hues in zip(
        shapes.SHAPES,
        shapes.SHAPES[7:] + shapes.SHAPES[:7],
        shapes.SHAPES[13:] + shapes.SHAPES[:13],
        strict=True,
    )
)


def scenes(setting: Setting, at: Places, half_trained: bool = False) -> dict[str, tuple[Benchmark, int]]:
    """What candidates are trained and scored on, by name: benchmark and fold; `half_trained`: see `validation`."""
    if setting.benchmark == "shapes":
        recipe, version = setting.recipe, shapes.RECIPE_VERSION
        root = at.data / "shapes" / f"others-v{version}-{fingerprint(recipe)}"
        ready = (root / index.INDEX).exists()
        noted = {**vars(recipe), "classes": "others", "version": version}
        other = index.read(root) if ready else shapes.prepare(root, recipe, noted, None, OTHERS)
        return {f"fold {fold}": (other, fold) for fold in episodes.folds(other)}
    whole = data.prepare(setting.benchmark, at.data, setting.recipe)
    return {
        f"fold {fold}, classes of fold {other}": (validation(whole, fold, other, half_trained), fold)
        for fold, other in PAIRS
    }


def validation(whole: Benchmark, fold: int, other: int, half_trained: bool = False) -> Benchmark:
    """A fold's training images as a benchmark in which the base classes of another fold are novel, and are scored.

    The images that show one of these are its test images, and the others its training images. No test image of the
    tables is in it, and no class that the fold tests is trained on or scored. `half_trained`: every second of these
    test images is a training image instead, so that scored classes are in training's backgrounds, as novel ones are.
    """
    scored, unseen = set(whole.folds[other]), {*whole.folds[fold], *whole.folds[other]}
    with_scored = [e.id for e in whole.entries if e.split == "train" and scored & e.pixels.keys()]
    tested, name = {*with_scored[:: 2 if half_trained else 1]}, f"fold{fold}-{other}{'-half' * half_trained}"
    entries = tuple(
        replace(
            e,
            split=("val" if e.id in tested else "train") if e.split == "train" else "unused",
            image=str(whole.path(e.image)),
            label=str(whole.path(e.label)),
        )
        for e in whole.entries
    )
    digest = hashlib.sha256(f"{whole.digest} validation {fold} {other}{' half' * half_trained}".encode()).hexdigest()
    return replace(
        whole,
        # Runs are stored below it: those of other data are not taken for these.
        root=whole.root / "validation" / f"{name}-{digest[:8]}",
        folds=tuple(tuple(sorted(unseen)) if f == fold else () for f in range(len(whole.folds))),
        tested=tuple(tuple(sorted(scored)) if f == fold else () for f in range(len(whole.folds))),
        entries=entries,
        digest=digest,
        part_of=(whole, "train"),
    )


def trainings(setting: Setting) -> dict[str, Training]:
    """A setting's candidates by name; DPNetError if it has none."""
    changes = CANDIDATES.get((setting.benchmark, setting.preset))
    if changes is None:
        known = ", ".join(f"{benchmark} at {preset}" for benchmark, preset in CANDIDATES)
        raise DPNetError(f"no candidates for {setting.benchmark} at {setting.preset}: choose.py has them for {known}")
    return {name: replace(setting.training, **changed) for name, changed in changes.items()}


def runs_of(
    setting: Setting, benchmark: Benchmark, fold: int, seed: int, rows: Sequence[Row] = TABLE3
) -> tuple[dict[Variant, Run], Path]:
    """The runs behind rows (of Table 3), by variant, and their folder."""
    runs = {row.variant: setting.run(row.variant, fold, seed) for row in rows}
    return runs, benchmark.root / "runs" / next(iter(runs.values())).id


def measure(
    setting: Setting, where: str, seed: int, at: Places, rows: Sequence[Row] = TABLE3, half_trained: bool = False
) -> Path:
    """Train rows by one candidate; the file with each row's mIoU, a wrong support's, and a CPU's minutes."""
    runner.settle()
    benchmark, fold = scenes(setting, at, half_trained)[where]
    runs, folder = runs_of(setting, benchmark, fold, seed, rows)
    if (folder / SCORES).exists():
        return folder / SCORES
    scene = evaluate.scene_of(next(iter(runs.values())), benchmark, at.device)
    SOURCES[setting.training.augment](benchmark, scene.backbone, setting.training, [])  # stored: not timed
    start = time.process_time()
    heads = train({run: folder / run.id for run in runs.values()}, benchmark, scene.backbone, at.device)
    minutes = (time.process_time() - start) / 60 if at.device == "cpu" else None
    best = experiments.get("table3").best
    ways = {row.label: (runs[row.variant], row.evaluation(setting.episodes)) for row in rows}
    ways[WRONG] = runs[best.variant], best.evaluation(setting.episodes, "wrong")
    wanted = {run: [way for of, way in ways.values() if of == run] for run in runs.values()}
    counts, lists = evaluate.evaluate({run: head.to(at.device).eval() for run, head in heads.items()}, scene, wanted)
    scores = {}
    for name, (run, way) in ways.items():
        classes = np.array([episode.class_id for episode in lists[way]])
        scores[name] = mean_iou(counts[run, way], classes, PAPER_METRIC)
    write(folder / SCORES, to_json(scores | {"device": at.device, "minutes": minutes}))
    return folder / SCORES


def choose(
    setting: Setting, at: Places, only: str = "", seeds: Sequence[int] = (0, 1), jobs: int = 0
) -> pd.DataFrame:
    """Train and score candidates (all, or some) from some seeds, and write `recipe.csv` and its picture.

    What has a line there already, of the same settings, is not trained. A seed counts when it is finished on all
    scenes. `only` "none" trains nothing.

    Returns:
        candidate, scenes, seed, run, device, minutes (of a CPU), a column per row of Table 3, and the full model's
        with a wrong support.
    """
    candidates = trainings(setting)
    every, settings = scenes(setting, at), {name: replace(setting, training=t) for name, t in candidates.items()}
    named = {"": [*candidates], "none": []}.get(only, only.split("; "))
    if unknown := [name for name in named if name not in candidates]:
        raise DPNetError(f"unknown candidates {'; '.join(unknown)}: choose from {'; '.join(candidates)}, or none")
    file = at.results / setting.name / FILE
    columns = [*KEYS, *NOTES, *(row.label for row in TABLE3), WRONG]
    lines = pd.read_csv(file).to_dict("records") if file.exists() else []
    measured = {tuple(line[key] for key in KEYS): line for line in lines}

    def line_of(name: str, where: str, seed: int) -> tuple[tuple[Any, ...], Path]:
        """Its `KEYS`, and the file of its scores."""
        runs, folder = runs_of(settings[name], *every[where], seed)
        return (name, where, seed, next(iter(runs.values())).id), folder / SCORES

    asked = [(name, where, seed) for seed in seeds for name in named for where in every]
    asked = [task for task in asked if line_of(*task)[0] not in measured]
    with ProcessPoolExecutor(jobs or io.free_cores(), get_context("spawn"), index.end_with_parent) as pool:
        futures = [pool.submit(measure, settings[name], where, seed, at) for name, where, seed in asked]
        for future in progress(as_completed(futures), f"candidates of {setting.name}", "cohort", len(futures)):
            future.result()
    finished, known = [], sorted({*seeds, *(line["seed"] for line in lines)})
    for name, seed, where in product(candidates, known, every):
        key, scored = line_of(name, where, seed)
        if key in measured or scored.exists():
            finished.append({**(measured.get(key) or io.read_json(scored)), **dict(zip(KEYS, key, strict=True))})
    table = pd.DataFrame(finished, columns=columns).round(3)
    whole = table.groupby(["candidate", "seed"]).scenes.transform("size") == len(every)
    table = table[whole]
    for name, content in ((FILE, table), ("recipe_printed.csv", choose_plot.printed(table))):
        write(file.with_name(name), content.to_csv(index=False, lineterminator="\n").encode())
    choose_plot.plot(table, candidates).savefig(file.with_suffix(".png"), dpi=100, metadata={"Software": None})
    return table


def main() -> None:
    """Choose, and print a line per candidate."""
    here = io.places()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmark", default="shapes", choices=BENCHMARKS, help="whose [shapes]")
    parser.add_argument("--preset", default="quick", choices=presets.PRESETS, help="its preset [quick]")
    parser.add_argument("--only", default="", help="train these, with '; ' between, or none [all]")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1), help="train from these [0 1]")
    parser.add_argument("--jobs", type=int, default=0, help="trainings at a time [one per free core]")
    parser.add_argument("--data", type=Path, default=here.data, help="the data folder [data]")
    parser.add_argument("--results", type=Path, default=here.results, help="the folder of your results")
    parser.add_argument("--device", default=here.device, choices=("cpu", "cuda"), help="[cpu]")
    options = parser.parse_args()
    at = Places(options.data, options.results, options.device)
    table = choose(presets.resolve(options.benchmark, options.preset), at, options.only, options.seeds, options.jobs)
    print(choose_plot.printed(table).to_string(index=False))


if __name__ == "__main__":
    try:
        main()
    except DPNetError as error:
        sys.exit(f"choose: error: {error}")
