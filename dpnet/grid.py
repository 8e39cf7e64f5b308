"""From a target to finished runs: the plan, one notebook per cohort, and Dask where several run at once."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dpnet import benchmarks, episodes, evaluate, experiments, notebooks, paths, presets, results
from dpnet.benchmarks.layout import Benchmark
from dpnet.config import Run
from dpnet.errors import DPNetError
from dpnet.experiments import Experiment
from dpnet.files import write
from dpnet.model import Head
from dpnet.progress import RELAY, progress
from dpnet.store import Store, to_json
from dpnet.train import build_head, load_checkpoint, train

RENDERED = ("shapes",)  # benchmarks whose pictures are ours to publish


@dataclass(frozen=True)
class Cohort:
    """Variants that train together: one experiment, benchmark, preset, fold and seed.

    Arguments:
        experiment: its name.
        benchmark, preset, fold, seed: what the variants share.
        only: one variant, by its slug; None: all of the experiment's.
    """

    experiment: str
    benchmark: str
    preset: str
    fold: int
    seed: int
    only: str | None = None

    @property
    def name(self) -> str:
        """Readable, unique among a benchmark's results."""
        return f"{self.experiment}-fold{self.fold}-seed{self.seed}"

    @property
    def store(self) -> Store:
        """Where its runs are kept."""
        return Store(paths.results() / f"{self.benchmark}-{self.preset}")

    @property
    def notebook(self) -> Path:
        """Its executed training notebook."""
        return self.store.root / "train" / f"{self.name}.ipynb"

    @property
    def runs(self) -> list[Run]:
        """One run per variant.

        Raises:
            DPNetError: the experiment has no such variant.
        """
        variants = experiments.get(self.experiment).variants()
        if self.only is not None:
            slugs = [v.slug for v in variants]
            if self.only not in slugs:
                raise DPNetError(f"unknown variant {self.only!r}: {self.experiment} has {', '.join(slugs)}")
            variants = [v for v in variants if v.slug == self.only]
        return [experiments.run(v, self.benchmark, self.preset, self.fold, self.seed) for v in variants]

    def configuration(self) -> pd.DataFrame:
        """What its runs have in common, for people: columns setting, value."""
        run = self.runs[0]
        values = {"benchmark": self.benchmark, "fold": self.fold, "seed": self.seed, **vars(run.training)}
        if self.benchmark in RENDERED:
            values |= {f"recipe: {k}": v for k, v in vars(run.recipe).items() if k != "images"}
        return pd.DataFrame({"setting": values.keys(), "value": [str(v) for v in values.values()]})

    def wanted(self, run: Run) -> list[str]:
        """Ids of the evaluations that its experiment needs of a run."""
        count = presets.get(self.benchmark, self.preset).episodes
        return [e.id for e in experiments.get(self.experiment).evaluations(run.variant, count)]

    def untrained(self) -> list[Run]:
        """Runs without a checkpoint here: published scores alone are no reproduction."""
        return [r for r in self.runs if not (self.store.folder(r) / "checkpoint.safetensors").exists()]

    def pending(self) -> list[Run]:
        """Runs that are untrained, or lack an evaluation."""
        untrained = self.untrained()
        return [r for r in self.runs if r in untrained or self.store.missing(r, self.wanted(r))]


def cohorts(experiment: Experiment, benchmark: Benchmark, preset: str, seeds: int) -> list[Cohort]:
    """What an experiment consists of: a cohort per fold and seed."""
    return [
        Cohort(experiment.name, benchmark.name, preset, fold, seed)
        for seed in range(seeds)
        for fold in episodes.folds(benchmark)
    ]


def run_cohort(cohort: Cohort, device: str = "cpu") -> None:
    """Train and score what a cohort lacks; what it has is left alone, and the end is the same.

    Arguments:
        cohort: what.
        device: "cpu" or "cuda".

    Raises:
        DPNetError: bad data, a loss that is not finite, or a corrupt file.
    """
    store, pending = cohort.store, cohort.pending()
    sizes = presets.get(cohort.benchmark, cohort.preset)
    benchmark = benchmarks.prepare(cohort.benchmark, paths.data(), sizes.recipe)
    experiment = experiments.get(cohort.experiment)
    yardsticks = experiments.yardsticks(cohort.benchmark, cohort.preset, cohort.fold, cohort.seed)
    scene = evaluate.scene_of(yardsticks, benchmark, device)
    listed = scene.episodes(1, sizes.episodes)  # before training: bad data is found out now, not in hours
    if pending:
        heads: dict[str, Head] = {}
        untrained = [r for r in pending if r in cohort.untrained()]
        if untrained:
            heads |= train(untrained, benchmark, store, device, scene.backbone)
        for run in pending:
            if run.id not in heads:
                heads[run.id] = load_head(run, store, scene.backbone.channels, device)
        wanted = {run.id: experiment.evaluations(run.variant, sizes.episodes) for run in pending}
        counts, lists = evaluate.evaluate(heads, scene, sizes.training, wanted)
        for run in pending:
            _keep_examples(cohort, run, heads[run.id], scene, listed)
            evaluate.finish(store, benchmark, run, counts[run.id], lists)
    store.begin(yardsticks)
    evaluate.finish(store, benchmark, yardsticks, *evaluate.measure_yardsticks(scene, yardsticks))
    name = f"fold{cohort.fold}-seed{cohort.seed}-1shot-{sizes.episodes}"
    store.write_episodes(name, episodes.to_json(benchmark, listed))


def load_head(run: Run, store: Store, channels: int, device: str) -> Head:
    """A trained head from its checkpoint.

    Arguments:
        run: which.
        store: where.
        channels: of the backbone's features.
        device: where it is to live.

    Returns:
        the head, in evaluation mode.

    Raises:
        DPNetError: no checkpoint, or a corrupt one.
    """
    head = build_head(run, channels)
    head.load_state_dict(load_checkpoint(store.folder(run) / "checkpoint.safetensors"))
    return head.to(device).eval()


def examples(cohort: Cohort, run: Run) -> np.ndarray:
    """Stored predictions of a run: uint8 [n, 2, H, W], auxiliary and main branch, of the first episode of
    each class."""
    packed = np.load(cohort.store.folder(run) / "examples.npy")
    side = run.recipe.size
    return np.unpackbits(packed, axis=-1, count=side * side).reshape(*packed.shape[:2], side, side)


def _keep_examples(
    cohort: Cohort, run: Run, head: Head, scene: evaluate.Scene, listed: list[episodes.Episode]
) -> None:
    if cohort.benchmark not in RENDERED:
        return
    chosen = evaluate.first_of_each_class(listed)
    masks = evaluate.predictions(head, scene, run.training, chosen, beta=0.2)
    packed = np.packbits(torch.stack(masks).flatten(2).numpy(), axis=-1)
    with (cohort.store.folder(run) / "examples.npy").open("wb") as file:
        np.save(file, packed)


def describe(benchmark: Benchmark, store: Store) -> None:
    """Keep what tables need to know of the data, so that they can do without it."""
    about = {
        "name": benchmark.name,
        "classes": benchmark.classes,
        "folds": benchmark.folds,
        "tested": benchmark.tested,
        "images": {split: sum(e.split == split for e in benchmark.entries) for split in ("train", "val")},
        "digest": benchmark.digest,
    }
    write(store.root / "benchmark.json", to_json(about))


def plan(found: Iterable[Cohort]) -> pd.DataFrame:
    """What a target needs: a line per cohort, with how many runs are there, to train and to score."""
    return pd.DataFrame(
        {
            "cohort": c.name,
            "runs": len(c.runs),
            "to train": len(c.untrained()),
            "to score": len(c.pending()) - len(c.untrained()),
            "finished": len(c.runs) - len(c.pending()),
        }
        for c in found
    )


def reproduce(
    experiment: Experiment, name: str, preset: str, seeds: int = 1, jobs: int = 1, device: str = "cpu"
) -> results.Reader:
    """Make everything that a target consists of: runs, table as CSV, executed notebooks.

    Arguments:
        experiment: the target.
        name: of the benchmark.
        preset: sizes.
        seeds: trainings per variant and fold, from seed 0.
        jobs: cohorts at a time; more than one needs the extra `cluster`.
        device: "cpu" or "cuda".

    Returns:
        a reader of the results.

    Raises:
        DPNetError: bad data or results; what was finished stays finished.
    """
    store = Store(paths.results() / f"{name}-{preset}")
    benchmark = benchmarks.prepare(name, paths.data(), presets.get(name, preset).recipe)
    describe(benchmark, store)
    every = cohorts(experiment, benchmark, preset, seeds)
    pending = [c for c in every if c.pending() or (notebooks.installed() and not c.notebook.exists())]
    number = sum(len(c.untrained()) for c in pending)
    if pending:
        print(f"{experiment.name}: {number} of {sum(len(c.runs) for c in every)} runs to train, "
              f"in {len(pending)} cohort(s)", flush=True)  # fmt: skip
    else:
        print(f"{experiment.name}: all {sum(len(c.runs) for c in every)} runs are there; nothing to train")
    if jobs > 1 and len(pending) > 1:
        _with_dask(pending, jobs, device)
    else:
        for cohort in progress(pending, f"{experiment.name} on {name}", "cohort"):
            execute(cohort, device)
    reader = results.Reader(name, preset, seeds=seeds)
    for suffix, make in results.TABLES.items():
        text = make(reader, experiment).to_csv(index=False, lineterminator="\n")
        write(store.root / f"{experiment.name}{suffix}.csv", text.encode())
    output = store.root / f"{experiment.name}.ipynb"
    if not notebooks.installed():
        print("papermill is not installed: no executed notebooks (pip install -e '.[notebooks]')")
    elif notebooks.current(experiment.name, output):
        print(f"{output.name}: up to date")
    else:
        notebooks.execute(experiment.name, output, {"benchmark": name, "preset": preset, "seeds": seeds})
    return reader


def execute(cohort: Cohort, device: str) -> None:
    """Run a cohort in a kernel of its own, through its notebook; in this process where papermill is not there."""
    if not notebooks.installed():
        run_cohort(cohort, device)
        return
    parameters = {
        "experiment": cohort.experiment,
        "benchmark": cohort.benchmark,
        "preset": cohort.preset,
        "fold": cohort.fold,
        "seed": cohort.seed,
        "pictures": cohort.benchmark in RENDERED,
    }
    notebooks.execute("train", cohort.notebook, parameters)


def _with_dask(pending: list[Cohort], jobs: int, device: str) -> None:
    """Several cohorts at a time: Dask is only the queue, the store on disk is the truth."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise DPNetError("JOBS above 1 needs Dask: pip install -e '.[cluster]', or JOBS=1") from None
    with (
        LocalCluster(
            jobs,
            threads_per_worker=1,
            host="127.0.0.1",  # its default listens on all interfaces, without authentication
            dashboard_address=None,
            # More threads than cores is far slower; and several processes' bars would overwrite each other.
            env={"OMP_NUM_THREADS": max(1, (os.cpu_count() or 1) // jobs), RELAY: os.devnull},
        ) as cluster,
        Client(cluster) as client,
    ):
        futures = client.map(execute, pending, device=device, retries=0, pure=False)
        failed = []
        for future in progress(as_completed(futures), f"{jobs} jobs", "cohort", len(futures)):
            if future.status == "error":
                failed.append(f"{pending[futures.index(future)].name}: {future.exception()}")
    if failed:
        raise DPNetError(f"{len(failed)} of {len(pending)} cohorts failed; the first: {failed[0]}")
