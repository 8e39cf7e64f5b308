"""Makes what a target needs: trains and scores cohorts, each in a notebook of its own, several at once."""

import ctypes
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec

import torch

from dpnet import data, episodes, evaluate, io
from dpnet.companion import baselines, cluster, experiments, notebooks
from dpnet.companion.cohort import Cohort, cohorts
from dpnet.companion.examples import RENDERED, save_examples
from dpnet.companion.presets import Setting
from dpnet.companion.store import Store
from dpnet.config import VOID, Run
from dpnet.data.index import SPLITS, Benchmark
from dpnet.episodes import Episode
from dpnet.io import DPNetError, Places
from dpnet.model import Head
from dpnet.train import build_head, train

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt


def run_cohort(cohort: Cohort, at: Places) -> None:
    """Train and score what a cohort lacks; what it has is left alone, and the end is the same."""
    # The lock is by fold, seed and recipe, since cohorts of other targets may share runs with this one.
    with io.file_lock(cohort.store.root / "held" / cohort.mark, f"fold {cohort.fold}"):
        settle()
        store, pending = cohort.store, cohort.pending()
        store.clean([*pending, *cohort.baselines])
        benchmark = data.prepare(cohort.setting.benchmark, at.data, cohort.setting.recipe)
        scene = evaluate.scene_of(cohort.baselines[0], benchmark, at.device)
        shots = {e.shot for asked in cohort.wanted.values() for e in asked} | {b.shot for b in cohort.baselines}
        # Before training, so that bad data is an error now and not in hours.
        lists = {shot: scene.episodes(shot, cohort.setting.episodes) for shot in sorted(shots)}
        check_data(cohort, benchmark)
        untrained = {run: store.begin(run) for run in cohort.untrained()}
        trained = train(untrained, benchmark, scene.backbone, at.device) if untrained else {}
        channels = scene.backbone.channels
        heads = {run: trained.get(run) or load_head(run, store, channels, at.device) for run in pending}
        _score(cohort, heads, scene, lists[1])
        for record in cohort.baselines:
            if store.missing(record, record.measured, benchmark.digest[:16]):
                measured = baselines.measure(scene, record)
                store.begin(record)
                store.finish(record, *measured, benchmark)
        if cohort.setting == cohort.usual:
            for shot, listed in lists.items():
                text = episodes.to_json(benchmark, listed)
                store.write_episodes(cohort.fold, cohort.seed, shot, len(listed), text)


def settle() -> None:
    """One thread (or `DPNET_THREADS`), so that no number depends on how many cores are there or free."""
    torch.set_num_threads(io.threads())
    # Memory that is given back at each step is fetched anew at the next: a third of the time would be page faults.
    with suppress(AttributeError, OSError):  # not glibc
        for parameter, value in ((M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            ctypes.CDLL(None).mallopt(parameter, value)


def _score(cohort: Cohort, heads: dict[Run, Head], scene: evaluate.Scene, one_shot: Sequence[Episode]) -> None:
    """Score heads in every way that is missing; a run's examples come before the file that says it is finished."""
    wanted = {run: cohort.missing(run) for run in heads}
    counts, lists = evaluate.evaluate(heads, scene, wanted)
    for run, head in heads.items():
        of_run = {e.id: counts[run, e] for e in wanted[run]}
        if cohort.setting.benchmark in RENDERED and run == cohort.example_run:
            save_examples(cohort.store, run, head, scene, one_shot, of_run)
        cohort.store.finish(run, of_run, {e.id: lists[e] for e in wanted[run]}, scene.benchmark)


def check_data(cohort: Cohort, benchmark: Benchmark) -> None:
    """Refuse results that were trained or scored on other data; they are neither used nor removed."""
    benchmark.need_size(cohort.setting.training.size)
    untrained = cohort.untrained()
    for run in cohort.runs:
        folder = cohort.store.folder(run)
        scored = {} if run in untrained else cohort.store.metrics(run)["evaluations"]
        marks = io.trained_on(folder) | {about["data"] for about in scored.values() if "data" in about}
        if marks - {benchmark.digest[:16]}:
            raise DPNetError(
                f"{folder}: trained or scored on other data than {benchmark.root} now holds: bring back what was "
                "changed there, or choose another folder with RESULTS=…"
            )


def load_head(run: Run, store: Store, channels: int, device: str | torch.device) -> Head:
    """A trained head from its checkpoint, in evaluation mode."""
    head = build_head(run, channels)
    head.load_state_dict(io.load_checkpoint(store.folder(run)))
    return head.to(device).eval()


def describe(benchmark: Benchmark, store: Store) -> None:
    """Write `benchmark.json`: what tables need to know of the data, so that they can do without it."""
    about = {name: getattr(benchmark, name) for name in ("name", "classes", "folds", "tested", "digest")}
    about["images"] = {split: sum(e.split == split for e in benchmark.entries) for split in SPLITS}
    of_tests = [e for e in benchmark.entries if e.split == "val"]
    about["shows"] = {e.id: len(e.pixels.keys() - {VOID}) for e in of_tests}  # labelled classes
    about["scarce"] = {str(shot): episodes.scarce(benchmark, shot) for shot in (1, 5)}
    io.write(store.root / "benchmark.json", io.to_json(about))


def train_all(targets: str, setting: Setting, at: Places, seeds: int = 1, jobs: int = 0, scheduler: str = "") -> None:
    """Make all runs that some targets consist of, each cohort in a notebook of its own, `jobs` at a time.

    Without a number of jobs there is one per core that is free; on a GPU or a cluster, one.
    """
    settle()
    experiments.several(targets, setting.benchmark)  # a mistyped one is an error before anything is prepared
    benchmark = data.prepare(setting.benchmark, at.data, setting.recipe)
    every = cohorts(targets, setting, benchmark, seeds, at.results)
    usual = [cohort for cohort in every if cohort.setting == setting]
    for cohort in usual:
        check_data(cohort, benchmark)
    describe(benchmark, every[0].store)
    pending = [c for c in every if not c.complete(benchmark.digest[:16] if c in usual else None)]
    total, number = sum(len(c.runs) for c in every), sum(len(c.untrained()) for c in pending)
    if pending:
        here = at.device == "cpu" and not scheduler and find_spec("distributed")
        jobs = jobs or (min(len(pending), io.free_cores()) if here else 1)
        print(
            f"{targets}: {number} of {total} runs to train, in {len(pending)} cohort(s), {jobs} at a time", flush=True
        )
        _run_all(pending, f"{targets} on {setting.benchmark}", jobs, at, scheduler)
    else:
        print(f"{targets}: all {total} runs are there; nothing to train")


def _run_all(pending: list[Cohort], what: str, jobs: int, at: Places, scheduler: str) -> None:
    """Execute cohorts, one after the other or on workers; those that fail do not keep others from being done."""
    named = {cohort.name: cohort for cohort in pending}
    work = partial(_attempt, at=at)
    ends: Iterable[tuple[str, str | None]] = ((name, work(cohort)) for name, cohort in named.items())
    if scheduler or jobs > 1:
        ends = cluster.spread(work, named, jobs, at, scheduler)
    failed = {name: error for name, error in io.progress(ends, what, "cohort", len(named)) if error}
    if failed:
        (first, why), *others = failed.items()
        for name, error in others:
            print(f"{name}: {error}", flush=True)
        raise DPNetError(f"{len(failed)} of {len(named)} cohorts failed; {first}: {why}")


def _attempt(cohort: Cohort, at: Places) -> str | None:
    """Run a cohort in its notebook (in this process without papermill), and return what went wrong, or None."""
    parameters = {
        "targets": cohort.targets,
        "benchmark": cohort.usual.benchmark,
        "preset": cohort.usual.preset,
        "fold": cohort.fold,
        "seed": cohort.seed,
        "diversity": cohort.setting.recipe.diversity,
        "pictures": cohort.usual.benchmark in RENDERED and not cohort.seed,  # of one training, or results grow large
    }
    try:
        if notebooks.installed():
            notebooks.execute("train", cohort.store.root / "train" / f"{cohort.name}.ipynb", parameters, at)
        else:
            run_cohort(cohort, io.places(at.data, at.results, at.device))  # a worker finds its own device
    except DPNetError as error:
        return str(error)
    return None
