"""What no change of shape may change: run ids, scenes, episode lists, initial parameters, training batches.

`python tests/test_golden.py` writes `golden.json` anew, for a change that is meant to change results.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpnet import augment, episodes
from dpnet import data as benchmarks
from dpnet.companion import experiments, presets, runner
from dpnet.config import Recipe, Variant
from dpnet.data import shapes
from dpnet.data.index import Benchmark
from dpnet.train import build_head

GOLDEN = Path(__file__).with_name("golden.json")
RECIPE = Recipe(size=65, diversity=0.2, train=60, val=60, seed=1)


def digest(*parts: Any) -> str:
    """Sixteen hex digits of arrays, tensors and plain values."""
    whole = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part) if isinstance(part, (np.ndarray, torch.Tensor)) else None
        whole.update(json.dumps(part).encode() if array is None else array.tobytes())
    return whole.hexdigest()[:16]


def ids() -> dict[str, str]:
    """Of each benchmark and preset: the ids of every run and of every set of baselines that any target needs."""
    known = {}
    for benchmark in presets.BENCHMARKS:
        for preset in presets.PRESETS:
            diversities = experiments.DIVERSITIES if benchmark == "shapes" else [Recipe.diversity]
            every = [
                record.id
                for diversity in diversities
                for fold, seed in ((0, 0), (3, 2))
                for cohort in [
                    runner.Cohort("all", presets.resolve(benchmark, preset), fold, seed, Path(), diversity)
                ]
                for record in (*cohort.runs, *cohort.baselines)
            ]
            known[f"{benchmark}-{preset}"] = digest(every)
    return known


def evaluations() -> str:
    """The ids of all evaluations, by run."""
    cohort = runner.Cohort("all", presets.resolve("shapes", "quick"), 1, 0, Path())
    return digest({run.id: names for run, names in cohort.scored.items()})


def scenes() -> list[str]:
    """A few pictures and masks of `shapes`."""
    chosen = [([0, 0, 1], 161, 0.4), ([0, 1, 7], 65, 1.0), ([3, 0, 2], 97, 0.0)]
    return [digest(*shapes.render(seed, range(1, 21), size, diversity)) for seed, size, diversity in chosen]


def lists(data: Benchmark) -> list[str]:
    """Episode lists, and the classes and images of training batches."""
    found = [
        digest(episodes.to_json(data, episodes.test_episodes(data, f, k, 5, 30))) for f in (0, 3) for k in (1, 5)
    ]
    for novel in ("drop", "background"):
        pools = episodes.training_pools(data, 2, novel)
        batches = [episodes.training_batch(data, pools, 2, 4, step, 4) for step in range(3)]
        found.append(digest([dataclasses.astuple(e) for batch in batches for e in batch]))
    return found


def parameters() -> dict[str, str]:
    """Names and values of a head's initial parameters, for each kind of head."""
    known = {}
    setting = presets.resolve("shapes", "tiny")
    for variant in (
        Variant(),
        Variant(pim=False, msf=False, pseudo="none"),
        Variant(reduction="1x1-separate", msf_convs="separate"),
    ):
        state = build_head(setting.run(variant, 0, 3), 32).state_dict()
        known[variant.slug] = digest(*(part for name, value in state.items() for part in (name, value)))
    return known


def draws() -> list[str]:
    """Flips and motions of three steps."""
    return [
        digest(
            augment.flips(np.random.default_rng([0, 1, s, 1]), 8),
            augment.motions(np.random.default_rng(s), 8).round(9),
        )
        for s in range(3)
    ]


def everything(folder: Path) -> dict[str, Any]:
    """All digests; `folder` takes a rendered benchmark."""
    data = benchmarks.prepare("shapes", folder, RECIPE)
    return {
        "ids": ids(),
        "evaluations": evaluations(),
        "scenes": scenes(),
        "data": data.digest,
        "lists": lists(data),
        "parameters": parameters(),
        "draws": draws(),
    }


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return everything(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("what", ["ids", "evaluations", "scenes", "data", "lists", "parameters", "draws"])
def test_golden(what: str, now: dict[str, Any]) -> None:
    assert now[what] == json.loads(GOLDEN.read_text())[what]


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as aside:
        GOLDEN.write_text(json.dumps(everything(Path(aside)), indent=1) + "\n")
