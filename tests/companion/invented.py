"""Results with invented counts: they test the arithmetic, and mean nothing."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dpnet.companion import presets, results, runner
from dpnet.companion.presets import Setting
from dpnet.companion.results import Scores
from dpnet.companion.store import Record, Store
from dpnet.data.index import Benchmark, Entry
from dpnet.episodes import Episode
from dpnet.io import write

TINY = presets.resolve("shapes", "tiny")
ENTRIES = tuple(Entry(f"image{n}", "val", "", "", (4, 4), {1: 8}) for n in range(40))
FOLDS = ((1, 5), (2, 6), (3, 7), (4, 8))
BENCHMARK = Benchmark("shapes", Path(), tuple("abcdefgh"), FOLDS, FOLDS, ENTRIES, "0123456789abcdef" * 4)
ABOUT = {"tested": FOLDS, "folds": FOLDS, "classes": BENCHMARK.classes, "scarce": {}}
ABOUT |= {"images": {"train": 1, "val": 1}, "digest": BENCHMARK.digest}
ABOUT |= {"shows": {f"q{i}": 1 + (i % 4 == 0) for i in range(40)}}


def keep(store: Store, record: Record, names: Iterable[str], counts: np.ndarray, lost: float = 0.3) -> None:
    """Store the same counts [40, 2, 3] under some names, part of the hits lost with a wrong support."""
    store.begin(record)
    episodes = [Episode(record.fold + 1, n, ((n + 1) % 40,)) for n in range(40)]
    names, fewer = list(names), counts.copy()
    fewer[:, :, 1] += np.outer((lost * counts[:, 1, 1]).astype(int), [1, -1])
    of_names = {name: fewer if "wrong" in name else counts for name in names}
    store.finish(record, of_names, dict.fromkeys(names, episodes), BENCHMARK)


def scores_in(
    folder: Path,
    folds: Iterable[int] = range(4),
    setting: Setting = TINY,
    seed_of_counts: int = 0,
    seeds: int = 1,
    lost: float = 0.3,
) -> Scores:
    """Table 3's runs and baselines of some seeds; runs with a cycle hit more pixels, alike in both branches."""
    store, rng = Store(folder / setting.name), np.random.default_rng(seed_of_counts)
    write(store.root / "benchmark.json", json.dumps(ABOUT).encode())
    for fold in folds:
        first = rng.integers(10, 100, (40, 2, 3))
        for seed in range(seeds):
            base = _predicted_anew(first, seed) if seed else first
            for run, names in runner.Cohort("table3", setting, fold, seed, folder).scored.items():
                better = base.copy()  # the same pixels, some of the missed ones hit
                better[:, :, 1] += np.outer(base[:, 0, 1] // 2, [-1, 1]) * (run.variant.pseudo == "cycle")
                keep(store, run, names, better, lost)
            listed = [[fold + 1, f"q{i}", [f"s{i}"], 2 - (i % 2), [f"w{i}"]] for i in range(40)]
            store.write_episodes(fold, seed, 1, 40, json.dumps(listed))
            baselines = setting.baselines(fold, seed)
            keep(store, baselines, baselines.names, base // 2)
    return results.load(setting, folder)


def add_seed(folder: Path, seed: int, folds: Iterable[int] = range(4)) -> None:
    """Table 3's runs of another seed, with other counts."""
    store, rng = Store(folder / TINY.name), np.random.default_rng(seed)
    for fold in folds:
        for run, names in runner.Cohort("table3", TINY, fold, seed, folder).scored.items():
            keep(store, run, names, rng.integers(10, 100, (40, 2, 3)))


def _predicted_anew(counts: np.ndarray, seed: int) -> np.ndarray:
    """Counts of the same labels, of another training: half of each kind of pixel is foreground, more or less."""
    whole = counts.sum(1)
    hit = np.random.default_rng(seed).binomial(whole, 0.5)
    return np.stack([whole - hit, hit], 1)
