"""What the measurements of `speed.py` share: data, backbone, heads, and steps of cohorts."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import loops
import numpy as np
from instruments import Stopwatch

from dpnet import backbones, data, episodes, evaluate, train
from dpnet.companion import experiments, presets
from dpnet.config import Evaluation, Run, Variant
from dpnet.data.index import Benchmark, Entry
from dpnet.io import Places
from dpnet.model import DPNet, Head

PRACTICE = 200  # steps that the heads are trained, so that their discriminator has something to say
FEW = 12  # episodes and images that the loops are given: their cost per episode does not change
STEPS = 4  # of a training, per measurement


class Bench:
    """Heads, data and backbone that all measurements share, and what was measured."""

    def __init__(self, preset: str, at: Places, scratch: Path, repeats: int) -> None:
        self.setting = presets.resolve("shapes", preset)
        self.training, self.episodes = self.setting.training, self.setting.episodes
        self.device, self.scratch, self.watch = at.device, scratch, Stopwatch(at.device, repeats)
        self.data = data.prepare("shapes", at.data, self.setting.recipe)
        self.backbone = backbones.build(self.training.backbone).to(at.device)
        self.ratios: list[dict[str, Any]] = []
        self.growth: dict[str, Any] = {}
        self.memory: dict[str, float] = {}  # MiB
        self.measured: dict[str, Any] = {"ratios": self.ratios, "growth": self.growth, "memory": self.memory}

    @cached_property
    def heads(self) -> dict[Run, Head]:
        """Table 3's three, trained for a moment."""
        runs = self.runs("table3", min(PRACTICE, self.training.steps), "flip")
        return train.train({run: self.scratch / run.id for run in runs}, self.data, self.backbone, self.device)

    @property
    def full(self) -> Run:
        """The full model's."""
        return next(run for run in self.heads if run.variant == Variant())

    def runs(self, target: str, steps: int, augment: Literal["flip", "geometric"]) -> list[Run]:
        """What a table trains on fold 0, with another number of steps."""
        training = replace(self.training, steps=steps, augment=augment)
        variants = dict.fromkeys(row.variant for row in experiments.get(target).rows)
        return [Run("shapes", self.setting.recipe, training, 0, 0, variant) for variant in variants]

    def scene(self, benchmark: Benchmark | None = None) -> evaluate.Scene:
        """Fold 0 of a benchmark; by default of the one whose features are stored."""
        return evaluate.Scene(benchmark or self.data, self.backbone, self.training.size, 0, 0)

    def wanted(self, count: int) -> dict[Run, list[Evaluation]]:
        """Table 3's four rows: three heads, and the auxiliary branch of the full one."""
        wanted = {run: [Evaluation(count)] for run in self.heads}
        wanted[self.full].append(Evaluation(count, branch="aux"))
        return wanted

    @contextmanager
    def fresh(self, entries: tuple[Entry, ...] | None = None) -> Iterator[Benchmark]:
        """The same files, or some, of which nothing has been computed yet."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            for name in ("images", "labels"):
                (Path(folder) / name).symlink_to((self.data.root / name).resolve())
            yield replace(self.data, root=Path(folder), entries=entries or self.data.entries)

    def by_loops(self, run: Run, evaluation: Evaluation, few: int = FEW) -> np.ndarray:
        """The plain loops' counts of a few episodes, int64 [E, 2, 3]."""
        network = DPNet(self.backbone, width=self.training.width, dilations=self.training.dilations)
        network.head = self.heads[run]
        network.to(self.device).eval()
        listed = episodes.test_episodes(self.data, 0, evaluation.shot, 0, self.episodes)[:few]
        ways = [evaluation.beta], evaluation.branch, evaluation.scales
        return loops.score_one_by_one(network, self.data, listed, self.training.size, *ways)[0]


def stepper(
    bench: Bench, runs: list[Run], backbone: backbones.Backbone | None = None, count: int = STEPS, graph: bool = True
) -> Callable[[], None]:
    """Some steps of a cohort at a time."""
    backbone = backbone or bench.backbone
    nothing = bench.scratch / "nothing"  # no state from which to go on
    members = [train.begin(r, backbone.channels, nothing, bench.device) for r in runs]
    batches = drawn(bench, runs[0], backbone)
    step_of = train.graphed(members, backbone) if graph else partial(train.descend, members, backbone)

    def work() -> None:
        for _ in range(count):
            step, batch = next(batches)
            train.advance(members, batch, step, step_of)

    return work


def plain_stepper(bench: Bench, runs: list[Run]) -> Callable[[], None]:
    """The same steps as the equations tell them, one head after the other, in the same precision."""
    how, members = (
        runs[0].training,
        [train.begin(r, bench.backbone.channels, bench.scratch / "nothing", bench.device) for r in runs],
    )
    batches = drawn(bench, runs[0], bench.backbone)

    def work() -> None:
        for _ in range(STEPS):
            _, batch = next(batches)
            for member in members:
                with train.autocast(how, bench.device):
                    raw_s, rest = batch.raw_s[:, 0], (batch.raw_q, batch.masks, batch.target)
                    loops.descend(bench.backbone, member.head, member.optimizer, raw_s, *rest)

    return work


def drawn(bench: Bench, run: Run, backbone: backbones.Backbone) -> Iterator[tuple[int, train.Batch]]:
    """The batches of a run."""
    how = run.training
    pools = episodes.training_pools(bench.data, 0, how.novel)
    positions = sorted({i for pool in pools.values() for i in pool})
    source = train.SOURCES[how.augment](bench.data, backbone, how, positions)
    return train.batches(source, bench.data, pools, run, 0)
