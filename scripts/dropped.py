"""What changes on photographs if training leaves out images that show novel classes; on test and on base classes.

`dropped.csv` is about the benchmark's test classes, and nothing is chosen by it. `dropped_base.csv` asks the same of
base classes that are held out of training but shown in its backgrounds (`choose.validation`).
"""

import argparse
import sys
from collections.abc import Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import choose
import numpy as np
import pandas as pd

from dpnet import data, episodes, io
from dpnet.companion import details, estimates, experiments, presets, results, runner
from dpnet.companion.cohort import Cohort
from dpnet.companion.experiments import PAPER_METRIC
from dpnet.companion.presets import Setting
from dpnet.companion.results import Scores
from dpnet.data import index
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError, Places, progress, write

FILE, BASE_FILE = "dropped.csv", "dropped_base.csv"
SEEDS, BASE_SEEDS = 5, 2
VALUES = ["kept", "dropped", "kept, wrong support", "dropped, wrong support", "prototype"]
COLUMNS = ["fold", "class", *VALUES, "difference", "low", "high", "trainings", "images left out"]
SUPPORTS: tuple[Literal["right", "wrong"], ...] = "right", "wrong"
TABLE3 = experiments.get("table3")


@cache
def settings() -> tuple[Setting, Setting]:
    """The published setting, in which novel classes are background, and the same with such images left out."""
    kept = presets.resolve("pascal-part", "quick")
    return kept, replace(kept, training=replace(kept.training, novel="drop"))


def train(fold: int, seed: int, at: Places) -> None:
    """Table 3's rows of one fold and seed, with images left out, beside the usual runs."""
    runner.run_cohort(Cohort("table3", settings()[1], fold, seed, at.results), at)


def left_out(benchmark: Benchmark, fold: int) -> float:
    """The share of a fold's training images that show a class which it tests."""
    kept, dropped = (episodes.training_pools(benchmark, fold, setting.training.novel) for setting in settings())
    return 1 - len(set().union(*dropped.values())) / len(set().union(*kept.values()))


def table(kept: Scores, dropped: Scores, shares: Mapping[str, float]) -> pd.DataFrame:
    """mIoU (%, CANet metric) of the full model, images kept and dropped, and of the prototype, by fold and class.

    Returns:
        fold (a number or mean), class (empty: the fold's mean), kept, dropped, both with a wrong support, the
        training-free prototype; of folds the difference with its 95 % interval (same queries and seeds, right
        support); the number of trainings, and (from `shares`, by fold) the share of images that are left out.
    """
    lines: list[list[Any]] = []
    for fold in kept.columns:
        right, wrong = (
            [s.samples([(1.0, s.of_row(TABLE3.best, support))], fold, PAPER_METRIC) for s in (kept, dropped)]
            for support in SUPPORTS
        )
        change = estimates.estimate(right[1] - right[0])
        untrained = kept.samples([(1.0, kept.baseline("prototype"))], fold, PAPER_METRIC)
        values = [float(each[:, 0].mean()) for each in (*right, *wrong, untrained)]
        lines.append([fold, "", *values, change.value, change.low, change.high, change.trainings, shares.get(fold)])
    before, after = (details.by_class(s, TABLE3).set_index(["fold", "class"]) for s in (kept, dropped))
    for fold, name in before.index:
        values = [one.loc[(fold, name), c] for c in (TABLE3.best.label, "wrong support") for one in (before, after)]
        values.append(before.loc[(fold, name), "prototype"])
        lines.append([str(fold), name, *values, np.nan, np.nan, np.nan, len(kept.seeds), None])
    return pd.DataFrame(lines, columns=COLUMNS).round(3)


def on_base_classes(at: Places, pool: Executor) -> pd.DataFrame:
    """The full model's mIoU (%, CANet metric) on base classes: scenes, seed, and `VALUES` without the prototype."""
    scenes = list(choose.scenes(settings()[0], at, half_trained=True))
    futures = {
        (where, seed, setting): pool.submit(choose.measure, setting, where, seed, at, [TABLE3.best], True)
        for where, seed, setting in product(scenes, range(BASE_SEEDS), settings())
    }
    for future in progress(as_completed(futures.values()), "images dropped, base classes", "training", len(futures)):
        future.result()
    lines = []
    for where, seed in product(scenes, range(BASE_SEEDS)):
        both = [io.read_json(futures[where, seed, setting].result()) for setting in settings()]
        lines.append([where, seed, *(one[name] for name in (TABLE3.best.label, choose.WRONG) for one in both)])
    return pd.DataFrame(lines, columns=["scenes", "seed", *VALUES[:-1]]).round(3)


def main() -> None:
    """Train what is missing, and write the tables."""
    here = io.places()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=0, help="trainings at a time [one per free core]")
    parser.add_argument("--data", type=Path, default=here.data, help="the data folder [data]")
    parser.add_argument(
        "--results", type=Path, default=here.results, help="where trainings are stored; the tables go to results/"
    )
    parser.add_argument("--device", default=here.device, choices=("cpu", "cuda"), help="[cpu]")
    options = parser.parse_args()
    at = Places(options.data, options.results, options.device)
    kept, dropped = settings()
    benchmark = data.prepare(kept.benchmark, at.data, kept.recipe)
    tasks = list(product(episodes.folds(benchmark), range(SEEDS)))
    with ProcessPoolExecutor(options.jobs or io.free_cores(), get_context("spawn"), index.end_with_parent) as pool:
        futures = [pool.submit(train, fold, seed, at) for fold, seed in tasks]
        for future in progress(as_completed(futures), "images dropped", "cohort", len(futures)):
            future.result()
        base = on_base_classes(at, pool)
    published = io.ROOT / "results"
    runner.describe(benchmark, Cohort("table3", dropped, 0, 0, at.results).store)
    shares = {str(fold): left_out(benchmark, fold) for fold in episodes.folds(benchmark)}
    ours = table(results.load(kept, published, SEEDS), results.load(dropped, at.results, SEEDS), shares)
    for file, content in ((FILE, ours), (BASE_FILE, base)):
        write(published / kept.name / file, content.to_csv(index=False, lineterminator="\n").encode())
        print(content.to_string(index=False))


if __name__ == "__main__":
    try:
        main()
    except DPNetError as error:
        sys.exit(f"dropped: error: {error}")
