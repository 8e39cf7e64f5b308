"""What no change of shape may change: run ids, scenes, episode lists, initial parameters, batches, counts.

`python tests/core/test_golden.py` writes `golden.json` anew, for a change that is meant to change results.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import BASE, FULL, RECIPE, TRAINING, balance, run

from dpnet import augment, backbones, episodes, evaluate, train
from dpnet import data as benchmarks
from dpnet.companion import experiments, presets, runner
from dpnet.config import Evaluation, Recipe, Variant
from dpnet.data import shapes
from dpnet.data.index import Benchmark

GOLDEN = Path(__file__).with_name("golden.json")
# Those of today: others may be added without a change here.
TARGETS = "table1+table2+table3+table4+table5+table6+fig3+fig4+fig5"
BENCHMARKS = ("shapes", "pascal", "pascal-part", "coco", "folder")
TINY = presets.resolve("shapes", "tiny")


def digest(*parts: Any) -> str:
    """Of arrays, tensors and plain values."""
    whole = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part) if isinstance(part, (np.ndarray, torch.Tensor)) else None
        whole.update(json.dumps(part).encode() if array is None else array.tobytes())
    return whole.hexdigest()[:16]


def ids(data: Benchmark) -> dict[str, str]:
    """Of each benchmark and preset: the ids of every run and of all baselines that any target needs."""
    known = {}
    for benchmark, preset in itertools.product(BENCHMARKS, presets.PRESETS):
        targets = f"{TARGETS}+diversity" if benchmark == "shapes" else TARGETS
        diversities = experiments.DIVERSITIES if benchmark == "shapes" else [Recipe.diversity]
        cohorts = [
            runner.Cohort(targets, presets.resolve(benchmark, preset), fold, seed, Path(), diversity)
            for diversity in diversities
            for fold, seed in ((0, 0), (3, 2))
        ]
        every = [record.id for cohort in cohorts for record in (*cohort.runs, *cohort.baselines)]
        known[f"{benchmark}-{preset}"] = digest(every)
    return known


def evaluations(data: Benchmark) -> str:
    cohort = runner.Cohort(f"{TARGETS}+diversity", presets.resolve("shapes", "quick"), 1, 0, Path())
    return digest({run.id: names for run, names in cohort.scored.items()})


def scenes(data: Benchmark) -> list[str]:
    chosen = [([0, 0, 1], 161, 0.4), ([0, 1, 7], 65, 1.0), ([3, 0, 2], 97, 0.0)]
    return [digest(*shapes.render(seed, range(1, 21), size, diversity)) for seed, size, diversity in chosen]


def lists(data: Benchmark) -> list[str]:
    tests = [episodes.test_episodes(data, fold, shot, 5, 30) for fold in (0, 3) for shot in (1, 5)]
    digests = [digest(episodes.to_json(data, one)) for one in tests]
    for novel in ("drop", "background"):
        pools = episodes.training_pools(data, 2, novel)
        batches = [episodes.training_batch(data, pools, 2, 4, step, 4) for step in range(3)]
        digests.append(digest([dataclasses.astuple(e) for batch in batches for e in batch]))
    return digests


def parameters(data: Benchmark) -> dict[str, str]:
    known = {}
    for variant in (Variant(), BASE, Variant(reduction="1x1-separate", msf_convs="separate")):
        state = train.build_head(TINY.run(variant, 0, 3), 32).state_dict()
        known[variant.slug] = digest(*(part for name, value in state.items() for part in (name, value)))
    return known


def draws(data: Benchmark) -> list[str]:
    flips = [np.random.default_rng([0, 1, s, 1]).random(8) < 0.5 for s in range(3)]
    motions = [augment.motions(np.random.default_rng(s), 8).round(9) for s in range(3)]
    return [digest(*of_step) for of_step in zip(flips, motions, strict=True)]


def batches(data: Benchmark) -> list[str]:
    digests = []
    for how, source in train.SOURCES.items():
        one = run(FULL, augment=how, steps=3)
        pools = episodes.training_pools(data, one.fold, one.training.novel)
        positions = sorted({i for pool in pools.values() for i in pool})
        drawn = source(data, backbones.build(TRAINING.backbone), one.training, positions)
        digests += [digest(*batch) for _, batch in train.batches(drawn, data, pools, one, 0)]
    return digests


def counts(data: Benchmark) -> list[str]:
    """Two heads, trained for a moment and scored in several ways."""
    runs = [run(FULL), run(BASE)]
    backbone = backbones.build(TRAINING.backbone)
    heads = train.train({one: data.root / one.id for one in runs}, data, backbone)
    ways = [Evaluation(24, beta=beta) for beta in (0.0, 0.5, 0.6)]
    ways += [Evaluation(24, scales=(0.7, 1.0)), Evaluation(24, branch="aux")]
    ways += [Evaluation(24, shot=5), Evaluation(24, support="wrong")]
    scene = evaluate.Scene(data, backbone, 65, 0, 0)
    balance(heads.values(), scene)
    scored, _ = evaluate.evaluate(heads, scene, dict.fromkeys(runs, ways))
    return [digest(scored[one, way]) for one in runs for way in ways]


Maker = Callable[[Benchmark], Any]
ANYWHERE: dict[str, Maker] = {f.__name__: f for f in (ids, evaluations, scenes, lists, parameters, draws)}
ANYWHERE["data"] = lambda data: data.digest
SAME_PROCESSOR = {"batches": batches, "counts": counts}  # the last bits of floats are a processor's


def processor() -> list[str]:
    """What decides the last bits: torch, its instruction set, and what of them rounds to bf16 or adds otherwise."""
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    sets = [flag for flag in flags if flag.startswith(("avx", "amx", "fma"))]
    return [torch.__version__, torch.backends.cpu.get_cpu_capability(), digest(sorted(sets))]


def on_one_thread(make: Maker, data: Benchmark) -> Any:
    """Sums in another order are other sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return make(data)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("what", ANYWHERE)
def test_golden(what: str, data: Benchmark) -> None:
    assert ANYWHERE[what](data) == json.loads(GOLDEN.read_text())[what]


@pytest.mark.parametrize("what", SAME_PROCESSOR)
def test_golden_to_the_last_bit(what: str, data: Benchmark) -> None:
    golden = json.loads(GOLDEN.read_text())
    if not Path("/proc/cpuinfo").exists() or golden["processor"] != processor():
        pytest.skip("golden.json was made with another processor or torch")
    assert on_one_thread(SAME_PROCESSOR[what], data) == golden[what]


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as aside:
        prepared = benchmarks.prepare("shapes", Path(aside), RECIPE)
        made = {name: on_one_thread(make, prepared) for name, make in {**ANYWHERE, **SAME_PROCESSOR}.items()}
    GOLDEN.write_text(json.dumps({**made, "processor": processor()}, indent=1) + "\n")
