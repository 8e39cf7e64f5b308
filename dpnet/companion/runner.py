"""From a target to finished runs: the plan, one notebook per cohort, and Dask where several run at once."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dpnet import data as benchmarks
from dpnet import episodes, evaluate, io
from dpnet.companion import cluster, experiments, notebooks, presets, results
from dpnet.companion.experiments import Experiment
from dpnet.companion.store import Counts, Store
from dpnet.config import Evaluation, Recipe, Run, Variant, Yardsticks
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError, file_lock, progress, read_json, to_json, write
from dpnet.metrics import intersection_union
from dpnet.model import Head
from dpnet.parallel import ALONE, Team
from dpnet.train import build_head, load_checkpoint, train, trained_on

RENDERED = ("shapes",)  # benchmarks whose pictures are ours to publish
PER_STEP, PER_SCORE = "seconds per step and head", "seconds per score and run"  # what throughput.json records
PICTURED = ("fig3", "fig4")  # notebooks that show images


@dataclass(frozen=True)
class Cohort:
    """Variants that train together: what some targets need of one benchmark, preset, fold and seed.

    Arguments:
        targets: an experiment's name, several joined by "+", or "all".
        benchmark, preset, fold, seed: what the variants share.
        diversity: of `shapes`; only rows that ask for it belong here.
        only: one variant, by its slug; None: all of them.
    """

    targets: str
    benchmark: str
    preset: str
    fold: int
    seed: int
    diversity: float = Recipe.diversity
    only: str | None = None

    @property
    def name(self) -> str:
        """Readable, unique among a benchmark's results."""
        return f"{self.targets}-fold{self.fold}-seed{self.seed}{self.recipe.mark}"

    @property
    def recipe(self) -> Recipe:
        """What its images are."""
        return experiments.recipe(self.benchmark, self.preset, self.diversity)

    @property
    def store(self) -> Store:
        """Where its runs are kept."""
        return Store(io.places().results / f"{self.benchmark}-{self.preset}")

    @property
    def notebook(self) -> Path:
        """Its executed training notebook."""
        return self.store.root / "train" / f"{self.name}.ipynb"

    @cached_property
    def wanted(self) -> dict[Run, list[Evaluation]]:
        """Its runs, and how each is scored: its rows, and the control with wrong supports.

        Raises:
            DPNetError: the targets have no such variant.
        """
        found: dict[Variant, list[Evaluation]] = {}
        count = presets.get(self.benchmark, self.preset).episodes
        for experiment, number, row in self._rows():
            mine = found.setdefault(row.variant, [])
            mine.append(row.evaluation(count))
            if number in self._held(experiment):
                mine.append(row.evaluation(count, "wrong"))
        if self.only is not None:
            slugs = [v.slug for v in found]
            if self.only not in slugs:
                raise DPNetError(f"unknown variant {self.only!r}: {self.targets} has {', '.join(slugs)}")
            found = {v: e for v, e in found.items() if v.slug == self.only}
        where = (self.benchmark, self.preset, self.fold, self.seed, self.diversity)
        return {experiments.run(v, *where): list(dict.fromkeys(e)) for v, e in found.items()}

    @property
    def scored(self) -> dict[Run, list[str]]:
        """`wanted`, by the evaluations' ids."""
        return {run: [e.id for e in asked] for run, asked in self.wanted.items()}

    @property
    def runs(self) -> list[Run]:
        """One run per variant."""
        return list(self.wanted)

    @property
    def pictured(self) -> Run:
        """The run whose predictions are kept and shown: the full model, or the last one."""
        return next((r for r in self.runs if r.variant == Variant()), self.runs[-1])

    @property
    def yardsticks(self) -> list[Yardsticks]:
        """What needs no training, for each number of shots that a yardstick is needed for."""
        shots = {
            row.shot for experiment, number, row in self._rows() if number in self._held(experiment)
        } | {1}  # fmt: skip
        where = (self.benchmark, self.preset, self.fold, self.seed)
        return [experiments.yardsticks(*where, shot, self.diversity) for shot in sorted(shots)]

    def _rows(self) -> list[tuple[Experiment, int, experiments.Row]]:
        return [
            (experiment, number, row)
            for experiment in experiments.several(self.targets, self.benchmark)
            for number, row in enumerate(experiment.rows)
            if experiments.recipe(self.benchmark, self.preset, row.diversity) == self.recipe
        ]

    def _held(self, experiment: Experiment) -> list[int]:
        return [number % len(experiment.rows) for number in experiment.held]

    def configuration(self) -> pd.DataFrame:
        """What its runs have in common, for people: columns setting, value."""
        training = presets.get(self.benchmark, self.preset).training
        values = {"benchmark": self.benchmark, "fold": self.fold, "seed": self.seed, **vars(training)}
        if self.benchmark in RENDERED:
            values |= {f"recipe: {k}": v for k, v in vars(self.recipe).items() if k != "images"}
        return pd.DataFrame({"setting": values.keys(), "value": [str(v) for v in values.values()]})

    def untrained(self) -> list[Run]:
        """Runs without a checkpoint here: published scores alone are no reproduction."""
        return [r for r in self.runs if not (self.store.folder(r) / "checkpoint.safetensors").exists()]

    def missing(self, run: Run) -> list[Evaluation]:
        """How a run is still to be scored."""
        names = self.store.missing(run, self.scored[run])
        return [e for e in self.wanted[run] if e.id in names]

    def pending(self) -> list[Run]:
        """Runs that are untrained, or lack an evaluation."""
        untrained = self.untrained()
        return [r for r in self.runs if r in untrained or self.missing(r)]

    def shown(self) -> bool:
        """Whether an executed training notebook is there, its own or another target's."""
        return any(self.notebook.parent.glob(f"*-fold{self.fold}-seed{self.seed}{self.recipe.mark}.ipynb"))

    def complete(self, data: str | None = None) -> bool:
        """Whether everything is there, the yardsticks too, and those of that data if it is named by its mark."""
        return not self.pending() and not any(self.store.missing(y, y.measured, data) for y in self.yardsticks)


def cohorts(targets: str, benchmark: Benchmark, preset: str, seeds: int) -> list[Cohort]:
    """What some targets consist of: a cohort per recipe, fold and seed.

    Arguments:
        targets: an experiment's name, or "all".
        benchmark: as the preset has it.
        preset: sizes.
        seeds: trainings per variant and fold, from seed 0.

    Returns:
        the cohorts; those of other diversities last.
    """
    usual = experiments.recipe(benchmark.name, preset).diversity
    asked = {
        row.diversity
        for experiment in experiments.several(targets, benchmark.name)
        for row in experiment.rows or (None,)
        if row is not None and row.diversity is not None
    }
    return [
        Cohort(targets, benchmark.name, preset, fold, seed, diversity)
        for diversity in [usual, *sorted(asked - {usual})]
        for seed in range(seeds)
        for fold in episodes.folds(benchmark)
    ]


def run_cohort(cohort: Cohort, device: str = "cpu", team: Team = ALONE) -> None:
    """Train and score what a cohort lacks; what it has is left alone, and the end is the same.

    Arguments:
        cohort: what.
        device: "cpu" or "cuda".
        team: the processes that train together; the first of them scores.

    Raises:
        DPNetError: bad data, a loss that is not finite, or a corrupt file.
    """
    # What shares runs with it, and what trains the same runs for another target, is of its fold, seed and recipe.
    mark = f"fold{cohort.fold}-seed{cohort.seed}{cohort.recipe.mark}"
    first = team.rank == 0
    with file_lock(cohort.store.root / "held" / mark, f"fold {cohort.fold}") if first else nullcontext():
        team.meet()
        _run_cohort(cohort, device, team)


def _run_cohort(cohort: Cohort, device: str, team: Team) -> None:
    store, pending = cohort.store, cohort.pending()
    if team.rank == 0:
        store.clean([*pending, *cohort.yardsticks])
    sizes = presets.get(cohort.benchmark, cohort.preset)
    benchmark = benchmarks.prepare(cohort.benchmark, io.places().data, cohort.recipe)
    first, *_ = cohort.yardsticks
    scene = evaluate.scene_of(first, benchmark, device)
    shots = sorted({e.shot for asked in cohort.wanted.values() for e in asked} | {y.shot for y in cohort.yardsticks})
    # Before training: bad data is found out now, not in hours.
    lists = {shot: scene.episodes(shot, sizes.episodes) for shot in shots}
    _check_data(cohort, benchmark)
    heads: dict[str, Head] = {}
    untrained = cohort.untrained()
    if untrained:
        pace = partial(remember, cohort, device, PER_STEP, time.monotonic())
        heads |= train(untrained, benchmark, store, device, scene.backbone, team, pace)
    if team.rank:
        return
    if pending:
        for run in pending:
            if run.id not in heads:
                heads[run.id] = load_head(run, store, scene.backbone.channels, device)
        # Whoever was trained anew lost its scores, and is scored in every way that is asked for here.
        wanted = {run.id: cohort.missing(run) for run in pending}
        begun = time.monotonic()
        counts, scored = evaluate.evaluate(heads, scene, sizes.training, wanted)
        remember(cohort, device, PER_SCORE, begun, sum(map(len, wanted.values())))
        for run in pending:
            _keep_examples(cohort, run, heads[run.id], scene, lists[1], counts[run.id])
            evaluate.finish(store, benchmark, run, counts[run.id], scored)  # last: it says that nothing is left
    for wanted_sticks in cohort.yardsticks:
        if store.missing(wanted_sticks, wanted_sticks.measured, benchmark.digest[:16]):
            measured = evaluate.measure_yardsticks(scene, wanted_sticks)
            store.forget(wanted_sticks)  # those of other data
            store.begin(wanted_sticks)
            evaluate.finish(store, benchmark, wanted_sticks, *measured)
    if cohort.recipe == sizes.recipe:
        for shot, listed in lists.items():
            store.write_episodes(cohort.fold, cohort.seed, shot, sizes.episodes, episodes.to_json(benchmark, listed))


def _check_data(cohort: Cohort, benchmark: Benchmark) -> None:
    """Runs that were trained here on other data, in part or not yet scored, are neither kept for its own nor lost."""
    untrained = cohort.untrained()
    for run in cohort.runs:
        found = trained_on(cohort.store.folder(run))
        if run not in untrained:
            scored = cohort.store.metrics(run)["evaluations"].values()
            found |= {about["data"] for about in scored if "data" in about}
        if found - {benchmark.digest[:16]}:
            raise DPNetError(
                f"{cohort.store.folder(run)}: trained or scored on other data than {benchmark.root} now holds: bring "
                "back what was changed there, or choose another folder with RESULTS=…"
            )


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


def examples(cohort: Cohort, run: Run) -> dict[int, np.ndarray]:
    """Stored predictions of a run: episode -> uint8 [2, H, W], auxiliary and main branch.

    They are those of the list's first episode of each class, and those that Fig. 4 shows.
    """
    with np.load(cohort.store.folder(run) / "examples.npz") as kept:
        side = run.recipe.size
        masks = np.unpackbits(kept["masks"], axis=-1, count=side * side).reshape(-1, 2, side, side)
        return dict(zip(kept["episodes"].tolist(), masks, strict=True))


def _keep_examples(
    cohort: Cohort, run: Run, head: Head, scene: evaluate.Scene, listed: Sequence[episodes.Episode], counts: Counts
) -> None:
    if cohort.benchmark not in RENDERED or run != cohort.pictured:
        return
    chosen = set(evaluate.first_of_each_class(listed))
    pair = [Evaluation(len(listed), branch=branch).id for branch in ("aux", "main")]
    if run.variant == Variant() and counts.keys() >= set(cohort.store.missing(run, pair)):
        tables = [counts[name] if name in counts else cohort.store.counts(run, name)[0] for name in pair]
        found = [intersection_union(table, results.PAPER_METRIC) for table in tables]
        before, after = (100 * hit / np.maximum(union, 1) for hit, union in found)
        looks = results.chosen_looks(before, after, evaluate.class_ids(listed))
        chosen |= {episode for _, _, episode in looks}
    numbers = sorted(chosen)
    masks = evaluate.predictions(head, scene, run.training, [listed[n] for n in numbers], Evaluation.beta)
    packed = np.packbits(torch.stack(masks).flatten(2).numpy(), axis=-1)
    np.savez_compressed(buffer := BytesIO(), episodes=np.array(numbers), masks=packed)
    write(cohort.store.folder(run) / "examples.npz", buffer.getvalue())


def remember(cohort: Cohort, device: str, what: str, begun: float, amount: int) -> None:
    """Note how long a unit of work took here, so that `plan` can say what is to be expected; git ignores it."""
    if amount:
        file = cohort.store.root / "throughput.json"
        known = read_json(file) if file.exists() else {}
        known.setdefault(device, {})[what] = round((time.monotonic() - begun) / amount, 5)
        write(file, to_json(known))


def describe(benchmark: Benchmark, store: Store) -> None:
    """Keep what tables need to know of the data, so that they can do without it."""
    about = {
        "name": benchmark.name,
        "classes": benchmark.classes,
        "folds": benchmark.folds,
        "tested": benchmark.tested,
        "images": {split: sum(e.split == split for e in benchmark.entries) for split in ("train", "val")},
        "scarce": {str(shot): episodes.scarce(benchmark, shot) for shot in (1, 5)},
        "digest": benchmark.digest,
    }
    write(store.root / "benchmark.json", to_json(about))


def plan(found: Sequence[Cohort]) -> pd.DataFrame:
    """What a target needs: a line per cohort, with how many of its runs are shared, there, to train.

    Arguments:
        found: a target's cohorts.

    Returns:
        columns cohort, runs, shared (by several targets), finished, to score, to train.
    """
    lines = []
    for cohort in found:
        where = (cohort.benchmark, cohort.preset, cohort.fold, cohort.seed)
        users = Counter(
            run
            for experiment in experiments.several("all", cohort.benchmark)
            for run in {experiments.run(row.variant, *where, row.diversity) for row in experiment.rows}
        )
        train, pending = len(cohort.untrained()), len(cohort.pending())
        lines.append(
            {
                "cohort": cohort.name,
                "runs": len(cohort.runs),
                "shared": sum(users[run] > 1 for run in cohort.runs),
                "finished": len(cohort.runs) - pending,
                "to score": pending - train,
                "to train": train,
            }
        )
    return pd.DataFrame(lines)


def costs(targets: str, benchmark: Benchmark, preset: str, seeds: int, device: str) -> pd.DataFrame:
    """What each target would still take by itself, from what was recorded here before.

    Arguments:
        targets, benchmark, preset, seeds: as `cohorts` takes them.
        device: "cpu" or "cuda".

    Returns:
        target, heads to train, scores to make, training and scoring time ("?" where nothing was recorded).
        What targets share is counted for each of them.
    """
    lines = []
    for experiment in experiments.several(targets, benchmark.name):
        mine = cohorts(experiment.name, benchmark, preset, seeds)
        steps, scores = _left(mine)
        training, scoring = _durations(mine[0].store, device, steps, scores)
        lines.append(
            {
                "target": experiment.name,
                "heads": sum(len(c.untrained()) for c in mine),
                "scores": scores,
                f"training on {device}": "?" if training is None else _time(training),
                f"scoring on {device}": "?" if scoring is None else _time(scoring),
            }
        )
    return pd.DataFrame(lines)


def expected(found: Sequence[Cohort], device: str) -> str:
    """How long a target's pending work will take, from what was recorded here before, in words."""
    steps, scores = _left(found)
    if not steps + scores:
        return "Nothing is left to do."
    training, scoring = _durations(found[0].store, device, steps, scores)
    if training is None:
        return (
            f"Expected time: unknown, since nothing like it has been run here on {device} yet; then it is recorded "
            "(two minutes of training are enough)."
        )
    if scoring is None:
        return f"Expected time: about {_time(training)} on {device} to train, from recorded throughput; then scoring."
    return f"Expected time: about {_time(training + scoring)} on {device}, from recorded throughput."


def _left(found: Sequence[Cohort]) -> tuple[int, int]:
    """Steps of a head, and scores of a run, that are still to be made."""
    steps = sum(len(c.untrained()) for c in found) * presets.get(found[0].benchmark, found[0].preset).training.steps
    scores = sum(len(c.wanted[run]) if run in c.untrained() else len(c.missing(run)) for c in found for run in c.runs)
    return steps, scores


def _durations(store: Store, device: str, steps: int, scores: int) -> tuple[float | None, float | None]:
    """Seconds for steps and for scores; None where no rate was recorded."""
    file = store.root / "throughput.json"
    known: dict[str, float] = read_json(file).get(device, {}) if file.exists() else {}
    training, scoring = (
        amount * known[what] if what in known else None if amount else 0.0
        for amount, what in ((steps, PER_STEP), (scores, PER_SCORE))
    )
    return training, scoring


def _time(seconds: float) -> str:
    return (
        f"{seconds / 3600:,.0f} h" if seconds > 36_000 else f"{max(1, round(seconds / 60))} min" if seconds else "0"
    )


def reproduce(
    targets: str, name: str, preset: str, seeds: int = 1, jobs: int = 1, device: str = "cpu", where: str = ""
) -> results.Reader:
    """Make everything that a target consists of: runs, tables as CSV, executed notebooks.

    Arguments:
        targets: an experiment's name, or "all".
        name: of the benchmark.
        preset: sizes.
        seeds: trainings per variant and fold, from seed 0.
        jobs: cohorts at a time; more than one needs the extra `cluster`.
        device: "cpu" or "cuda"; elsewhere also "auto", what each machine has.
        where: "" for this machine, "slurm", or the address of a Dask scheduler.

    Returns:
        a reader of the results.

    Raises:
        DPNetError: bad data or results; what was finished stays finished.
    """
    store = Store(io.places().results / f"{name}-{preset}")
    asked = experiments.several(targets, name)
    recipe = presets.get(name, preset).recipe
    benchmark = benchmarks.prepare(name, io.places().data, recipe)
    every = cohorts(targets, benchmark, preset, seeds)
    for cohort in every:
        if cohort.recipe == recipe:
            _check_data(cohort, benchmark)
    describe(benchmark, store)
    data = benchmark.digest[:16]
    pending = [
        c
        for c in every
        if not c.complete(data if c.recipe == recipe else None) or (notebooks.installed() and not c.shown())
    ]
    number = sum(len(c.untrained()) for c in pending)
    if pending:
        print(f"{targets}: {number} of {sum(len(c.runs) for c in every)} runs to train, "
              f"in {len(pending)} cohort(s)", flush=True)  # fmt: skip
    else:
        print(f"{targets}: all {sum(len(c.runs) for c in every)} runs are there; nothing to train")
    _run_all(pending, f"{targets} on {name}", jobs, device, where)
    reader = results.Reader(name, preset, seeds=seeds)
    publish(reader, asked)
    return reader


def _run_all(pending: list[Cohort], what: str, jobs: int, device: str, where: str) -> None:
    """Execute cohorts, one after the other or on workers; those that fail do not keep others from being done."""
    named = {cohort.name: cohort for cohort in pending}
    work = partial(attempt, device=device)
    ends: Iterable[tuple[str, str | None]]
    if pending and (where or jobs > 1):  # for one cohort, too: with as many threads as it has beside others
        ends = cluster.spread(work, named, jobs, device, where)
    else:
        ends = ((name, work(cohort)) for name, cohort in named.items())
    failed = {name: wrong for name, wrong in progress(ends, what, "cohort", len(named)) if wrong}
    if len(failed) > 1:
        print(pd.DataFrame({"failed": failed.keys(), "why": failed.values()}).to_string(index=False), flush=True)
    if failed:
        name, wrong = next(iter(failed.items()))
        raise DPNetError(f"{len(failed)} of {len(named)} cohorts failed; {name}: {wrong}")


def attempt(cohort: Cohort, device: str) -> str | None:
    """Execute a cohort, and return what went wrong, or None."""
    try:
        execute(cohort, device)
    except DPNetError as error:
        return str(error)
    return None


def publish(reader: results.Reader, asked: Sequence[Experiment]) -> None:
    """Write the CSVs of targets, and execute their notebooks that are not up to date; nothing is trained or scored.

    Arguments:
        reader: the results.
        asked: the targets.

    Raises:
        DPNetError: a notebook fails.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for experiment in asked:
        for suffix, table in results.tables(reader, experiment).items():
            text = table.to_csv(index=False, lineterminator="\n")
            write(reader.store.root / f"{experiment.name}{suffix}.csv", text.encode())
        parameters = {"benchmark": reader.benchmark, "preset": reader.preset, "seeds": len(reader.seeds)}
        if experiment.name in PICTURED:
            parameters |= {"fold": reader.folds[0], "pictures": reader.benchmark in RENDERED}
        wanted[experiment.name] = parameters
    notebooks.execute_stale(reader.store.root, wanted)


def execute(cohort: Cohort, device: str) -> None:
    """Run a cohort in a kernel of its own, through its notebook; in this process where papermill is not there."""
    if not notebooks.installed():
        run_cohort(cohort, device if device != "auto" else io.places().device)
        return
    parameters = {
        "targets": cohort.targets,
        "benchmark": cohort.benchmark,
        "preset": cohort.preset,
        "fold": cohort.fold,
        "seed": cohort.seed,
        "diversity": cohort.diversity,
        "pictures": cohort.benchmark in RENDERED,
    }
    notebooks.execute("train", cohort.notebook, parameters)
