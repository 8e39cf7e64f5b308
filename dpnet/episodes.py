"""Episodes: who supports whom. Drawn from explicit seeds, independent of workers, devices and heads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpnet.data.index import Benchmark
from dpnet.io import DPNetError


@dataclass(frozen=True)
class Episode:
    """One query and its supports; images are positions in `Benchmark.entries`."""

    class_id: int  # what is to be segmented
    query: int
    supports: tuple[int, ...]  # K other images of the class
    wrong_class: int = 0  # one that the query lacks, for the control; 0 where there is none
    wrong_supports: tuple[int, ...] = ()  # K images of that class


def test_episodes(benchmark: Benchmark, fold: int, shot: int, seed: int, count: int) -> list[Episode]:
    """The fold's list: class first, then query, then supports, all uniform; k shots extend k - 1 shots.

    A class with too few images for `shot` supports gets as many as there are (`scarce` names them).
    """
    need_fold(benchmark, fold)
    classes = benchmark.tested[fold]
    pools = {c: benchmark.images_of(c, "val") for c in classes}
    for c, images in pools.items():
        if len(images) < 2:
            few = f"class {benchmark.classes[c - 1]!r} has {len(images)} val image(s)"
            raise DPNetError(f"{benchmark.name}: {few}, and an episode needs a query and a support: add images")
    episodes = []
    for number in range(count):
        rng = np.random.default_rng([seed, fold, number])
        class_id = int(rng.choice(classes))
        query, *supports = rng.permutation(pools[class_id])[: 1 + shot].tolist()
        lacking = [c for c in classes if c not in benchmark.entries[query].pixels]
        wrong_class = int(rng.choice(lacking)) if lacking else 0
        wrong_supports = rng.permutation(np.array(pools.get(wrong_class, []), int))[:shot].tolist()
        episodes.append(Episode(class_id, query, tuple(supports), wrong_class, tuple(wrong_supports)))
    return episodes


def training_pools(benchmark: Benchmark, fold: int, novel: str) -> dict[int, list[int]]:
    """Training images of each base class of a fold: class id -> positions in `Benchmark.entries`.

    Novel classes are never a target: `novel` is "drop" to leave out images that show one, or "background". Classes
    with fewer images than two are left out.
    """
    unseen = set(benchmark.folds[fold])
    pools = {}
    for class_id in range(1, len(benchmark.classes) + 1):
        images = benchmark.images_of(class_id, "train")
        if novel == "drop":
            images = [i for i in images if not unseen & benchmark.entries[i].pixels.keys()]
        if class_id not in unseen and len(images) > 1:
            pools[class_id] = images
    if len(pools) < 2:
        few = f"only {len(pools)} class(es) have two training images, and two are needed"
        raise DPNetError(f"{benchmark.name}, fold {fold}: {few}: add images, or choose another benchmark")
    return pools


def training_batch(
    benchmark: Benchmark, pools: dict[int, list[int]], fold: int, seed: int, step: int, size: int, absent: float = 0
) -> list[Episode]:
    """`size` one-shot episodes, a function of (seed, fold, step); a share `absent` of queries lack the class."""
    rng = np.random.default_rng([seed, fold, step])
    episodes = []
    for class_id in rng.choice(list(pools), size):
        query, support = rng.choice(pools[class_id], 2, replace=False)
        if absent and rng.random() < absent:
            other = rng.choice([c for c in pools if c != class_id])
            lacking = [i for i in pools[other] if class_id not in benchmark.entries[i].pixels]
            query = rng.choice(lacking or [query])
        episodes.append(Episode(int(class_id), int(query), (int(support),)))
    return episodes


def folds(benchmark: Benchmark) -> list[int]:
    """The folds that the benchmark tests."""
    return [f for f, classes in enumerate(benchmark.tested) if classes]


def need_fold(benchmark: Benchmark, fold: int) -> None:
    """DPNetError unless the benchmark has such a fold, with classes to test."""
    if fold not in folds(benchmark):
        raise DPNetError(f"{benchmark.name} has no fold {fold} to test: its folds are {folds(benchmark)}")


def scarce(benchmark: Benchmark, shot: int) -> dict[str, int]:
    """Tested classes with too few test images for `shot` supports -> how many their episodes have."""
    counts = {c: len(benchmark.images_of(c, "val")) for tested in benchmark.tested for c in tested}
    return {benchmark.classes[c - 1]: n - 1 for c, n in counts.items() if n <= shot}


def to_json(benchmark: Benchmark, episodes: Sequence[Episode]) -> str:
    """A list by image ids, which outlive the order of an index: class, query, supports, wrong class and supports."""
    ids = [entry.id for entry in benchmark.entries]
    rows = [
        [e.class_id, ids[e.query], [ids[i] for i in e.supports], e.wrong_class, [ids[i] for i in e.wrong_supports]]
        for e in episodes
    ]
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
