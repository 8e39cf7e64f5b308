"""From a target to finished runs: which trainings it needs, one notebook per cohort, several at once."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dpnet import data, episodes, evaluate
from dpnet.companion import baselines, cluster, experiments, notebooks
from dpnet.companion.examples import first_of_each_class, predictions
from dpnet.companion.experiments import PAPER_METRIC, Experiment, Row
from dpnet.companion.presets import Setting
from dpnet.companion.store import Counts, Store
from dpnet.config import Baselines, Evaluation, Run, Variant
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.io import DPNetError, Places, file_lock, load_checkpoint, places, progress, to_json, trained_on, write
from dpnet.metrics import intersection_union
from dpnet.model import Head
from dpnet.train import build_head, train

RENDERED = ("shapes",)  # benchmarks whose pictures are ours to publish


@dataclass(frozen=True)
class Cohort:
    """Variants that train together: what some targets need at one setting, on one fold, from one seed.

    Arguments:
        targets: an experiment's name, several joined by "+", or "all".
        usual: benchmark and sizes.
        fold, seed: what the variants share.
        results: the folder of all results.
        diversity: of `shapes`; only rows that ask for it belong here. None: the usual one.
        only: one variant, by its slug; None: all of them.
    """

    targets: str
    usual: Setting
    fold: int
    seed: int
    results: Path
    diversity: float | None = None
    only: str | None = None

    @property
    def setting(self) -> Setting:
        """What its runs are trained on."""
        return self.usual.at(self.diversity)

    @property
    def name(self) -> str:
        """Readable, unique among a benchmark's results."""
        return f"{self.targets}-{self.mark}"

    @property
    def mark(self) -> str:
        """What cohorts of the same runs have in common, whatever their targets."""
        return f"fold{self.fold}-seed{self.seed}{self.setting.recipe.mark}"

    @property
    def store(self) -> Store:
        """Where its runs are kept."""
        return Store(self.results / self.setting.name)

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
        by_variant: dict[Variant, dict[Evaluation, None]] = {}
        for row, controlled in self._rows():
            asked = by_variant.setdefault(row.variant, {})
            asked[row.evaluation(self.setting.episodes)] = None
            if controlled:
                asked[row.evaluation(self.setting.episodes, "wrong")] = None
        slugs = [v.slug for v in by_variant]
        if self.only is not None and self.only not in slugs:
            raise DPNetError(f"unknown variant {self.only!r}: {self.targets} has {', '.join(slugs)}")
        return {
            self.setting.run(v, self.fold, self.seed): list(asked)
            for v, asked in by_variant.items()
            if self.only in (None, v.slug)
        }

    @property
    def scored(self) -> dict[Run, list[str]]:
        """`wanted`, by the evaluations' ids."""
        return {run: [e.id for e in asked] for run, asked in self.wanted.items()}

    @property
    def runs(self) -> list[Run]:
        """One run per variant."""
        return list(self.wanted)

    @property
    def example_run(self) -> Run:
        """The run whose predictions are kept and drawn: the full model, or the last one."""
        return next((r for r in self.runs if r.variant == Variant()), self.runs[-1])

    @property
    def baselines(self) -> list[Baselines]:
        """What needs no training, for each number of shots that a controlled row has."""
        shots = {row.shot for row, controlled in self._rows() if controlled} | {1}
        return [self.setting.baselines(self.fold, self.seed, shot) for shot in sorted(shots)]

    def _rows(self) -> list[tuple[Row, bool]]:
        """The rows of its diversity, and whether each is held against wrong supports and baselines."""
        return [
            (row, row in experiment.controlled_rows)
            for experiment in experiments.several(self.targets, self.setting.benchmark)
            for row in experiment.rows
            if self.usual.at(row.diversity) == self.setting
        ]

    def configuration(self) -> pd.DataFrame:
        """What its runs have in common, for people: columns setting, value."""
        setting = self.setting
        values = {"benchmark": setting.benchmark, "fold": self.fold, "seed": self.seed, **vars(setting.training)}
        if setting.benchmark in RENDERED:
            values |= {f"recipe: {k}": v for k, v in vars(setting.recipe).items() if k != "images"}
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

    def complete(self, data_mark: str | None = None) -> bool:
        """Whether runs, baselines (of that data, if its mark is given) and an executed notebook are there."""
        if self.pending() or any(self.store.missing(b, b.measured, data_mark) for b in self.baselines):
            return False
        return not notebooks.installed() or any(self.notebook.parent.glob(f"*-{self.mark}.ipynb"))


def cohorts(targets: str, setting: Setting, benchmark: Benchmark, seeds: int, results: Path) -> list[Cohort]:
    """What some targets consist of: a cohort per diversity, fold and seed (from 0); other diversities last."""
    rows = [row for experiment in experiments.several(targets, setting.benchmark) for row in experiment.rows]
    others = {row.diversity for row in rows if row.diversity is not None} - {setting.recipe.diversity}
    return [
        Cohort(targets, setting, fold, seed, results, diversity)
        for diversity in (None, *sorted(others))
        for seed in range(seeds)
        for fold in episodes.folds(benchmark)
    ]


def run_cohort(cohort: Cohort, at: Places) -> None:
    """Train and score what a cohort lacks; what it has is left alone, and the end is the same.

    Raises:
        DPNetError: bad data, a loss that is not finite, or a corrupt file.
    """
    # What shares runs with it, and what trains the same runs for another target, is of its fold, seed and recipe.
    with file_lock(cohort.store.root / "held" / cohort.mark, f"fold {cohort.fold}"):
        store, pending = cohort.store, cohort.pending()
        store.clean([*pending, *cohort.baselines])
        benchmark = data.prepare(cohort.setting.benchmark, at.data, cohort.setting.recipe)
        scene = evaluate.scene_of(cohort.baselines[0], benchmark, at.device)
        shots = {e.shot for asked in cohort.wanted.values() for e in asked} | {b.shot for b in cohort.baselines}
        # Before training: bad data is found out now, not in hours.
        lists = {shot: scene.episodes(shot, cohort.setting.episodes) for shot in sorted(shots)}
        check_data(cohort, benchmark)
        untrained = {run: store.begin_training(run) for run in cohort.untrained()}
        heads = train(untrained, benchmark, scene.backbone, at.device) if untrained else {}
        for run in pending:
            if run not in heads:
                heads[run] = load_head(run, store, scene.backbone.channels, at.device)
        _score(cohort, {run: heads[run] for run in pending}, scene, lists[1])
        for record in cohort.baselines:
            if store.missing(record, record.measured, benchmark.digest[:16]):
                measured = baselines.measure(scene, record)
                store.forget(record)  # those of other data
                store.begin(record)
                store.finish(record, *measured, benchmark)
        if cohort.setting == cohort.usual:
            for shot, episode_list in lists.items():
                text = episodes.to_json(benchmark, episode_list)
                store.write_episodes(cohort.fold, cohort.seed, shot, len(episode_list), text)


def _score(cohort: Cohort, heads: dict[Run, Head], scene: evaluate.Scene, one_shot: Sequence[Episode]) -> None:
    """Score heads in every way that is missing; a run's examples come before the file that says it is finished."""
    # Whoever was trained anew lost its scores, and is scored in every way that is asked for here.
    wanted = {run: cohort.missing(run) for run in heads}
    counts, lists = evaluate.evaluate(heads, scene, wanted)
    for run, head in heads.items():
        of_run = {e.id: counts[run, e] for e in wanted[run]}
        if cohort.setting.benchmark in RENDERED and run == cohort.example_run:
            _keep_examples(cohort, run, head, scene, one_shot, of_run)
        cohort.store.finish(run, of_run, {e.id: lists[e] for e in wanted[run]}, scene.benchmark)


def check_data(cohort: Cohort, benchmark: Benchmark) -> None:
    """Runs that were trained here on other data, in part or not yet scored, are neither kept for its own nor lost."""
    untrained = cohort.untrained()
    for run in cohort.runs:
        marks = trained_on(cohort.store.folder(run))
        if run not in untrained:
            evaluations = cohort.store.metrics(run)["evaluations"].values()
            marks |= {about["data"] for about in evaluations if "data" in about}
        if marks - {benchmark.digest[:16]}:
            raise DPNetError(
                f"{cohort.store.folder(run)}: trained or scored on other data than {benchmark.root} now holds: bring "
                "back what was changed there, or choose another folder with RESULTS=…"
            )


def load_head(run: Run, store: Store, channels: int, device: str | torch.device) -> Head:
    """A trained head from its checkpoint, in evaluation mode.

    Raises:
        DPNetError: no checkpoint, or a corrupt one.
    """
    head = build_head(run, channels)
    head.load_state_dict(load_checkpoint(store.folder(run)))
    return head.to(device).eval()


def examples(cohort: Cohort, run: Run) -> dict[int, np.ndarray]:
    """Stored predictions of a run: episode -> uint8 [2, H, W], auxiliary and main branch.

    They are those of the list's first episode of each class, and those that Fig. 4 shows.
    """
    with np.load(cohort.store.folder(run) / "examples.npz") as stored:
        side = run.recipe.size
        masks = np.unpackbits(stored["masks"], axis=-1, count=side * side).reshape(-1, 2, side, side)
        return dict(zip(stored["episodes"].tolist(), masks, strict=True))


def _keep_examples(
    cohort: Cohort, run: Run, head: Head, scene: evaluate.Scene, one_shot: Sequence[Episode], counts: Counts
) -> None:
    chosen = set(first_of_each_class(one_shot))
    pair = [Evaluation(len(one_shot), branch=branch).id for branch in ("aux", "main")]
    if run.variant == Variant() and counts.keys() >= set(cohort.store.missing(run, pair)):
        both = [counts[name] if name in counts else cohort.store.counts(run, name)[0] for name in pair]
        overlap = [intersection_union(table, PAPER_METRIC) for table in both]
        before, after = (100 * hit / np.maximum(union, 1) for hit, union in overlap)
        classes = np.array([e.class_id for e in one_shot])
        chosen |= {episode for _, _, episode in experiments.qualitative_examples(before, after, classes)}
    numbers = sorted(chosen)
    masks = predictions(head, scene, run.training, [one_shot[n] for n in numbers], Evaluation.beta)
    packed = np.packbits(torch.stack(masks).flatten(2).numpy(), axis=-1)
    np.savez_compressed(buffer := BytesIO(), episodes=np.array(numbers), masks=packed)
    write(cohort.store.folder(run) / "examples.npz", buffer.getvalue())


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


def plan(planned: Sequence[Cohort]) -> pd.DataFrame:
    """What a target needs, a line per cohort: its runs, those that targets share, what is finished and what is not."""
    lines = []
    for cohort in planned:
        users = Counter(
            run
            for experiment in experiments.several("all", cohort.usual.benchmark)
            for run in {
                cohort.usual.at(row.diversity).run(row.variant, cohort.fold, cohort.seed) for row in experiment.rows
            }
        )
        to_train, pending = len(cohort.untrained()), len(cohort.pending())
        lines.append(
            {
                "cohort": cohort.name,
                "runs": len(cohort.runs),
                "shared": sum(users[run] > 1 for run in cohort.runs),
                "finished": len(cohort.runs) - pending,
                "to score": pending - to_train,
                "to train": to_train,
                "steps": to_train * cohort.usual.training.steps,
            }
        )
    return pd.DataFrame(lines)


def train_all(
    targets: str, setting: Setting, at: Places, seeds: int = 1, jobs: int = 1, scheduler: str = ""
) -> Sequence[Experiment]:
    """Make all runs that some targets consist of, each cohort in a notebook of its own.

    Arguments:
        targets: an experiment's name, several joined by "+", or "all".
        setting: benchmark and sizes.
        at: where.
        seeds: trainings per variant and fold, from seed 0.
        jobs: cohorts at a time; more than one needs the extra `cluster`.
        scheduler: "" for this machine, "slurm", or the address of a Dask scheduler.

    Returns:
        the experiments.

    Raises:
        DPNetError: bad data or results; what was finished stays finished.
    """
    asked = experiments.several(targets, setting.benchmark)
    benchmark = data.prepare(setting.benchmark, at.data, setting.recipe)
    every = cohorts(targets, setting, benchmark, seeds, at.results)
    usual = [cohort for cohort in every if cohort.setting == setting]
    for cohort in usual:
        check_data(cohort, benchmark)
    describe(benchmark, every[0].store)
    pending = [c for c in every if not c.complete(benchmark.digest[:16] if c in usual else None)]
    total, number = sum(len(c.runs) for c in every), sum(len(c.untrained()) for c in pending)
    if pending:
        print(f"{targets}: {number} of {total} runs to train, in {len(pending)} cohort(s)", flush=True)
    else:
        print(f"{targets}: all {total} runs are there; nothing to train")
    _run_all(pending, f"{targets} on {setting.benchmark}", jobs, at.device, scheduler)
    return asked


def _run_all(pending: list[Cohort], what: str, jobs: int, device: str, scheduler: str) -> None:
    """Execute cohorts, one after the other or on workers; those that fail do not keep others from being done."""
    named = {cohort.name: cohort for cohort in pending}
    work = partial(attempt, device=device)
    ends: Iterable[tuple[str, str | None]]
    if pending and (scheduler or jobs > 1):  # for one cohort, too: with as many threads as it has beside others
        ends = cluster.spread(work, named, jobs, device, scheduler)
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


def execute(cohort: Cohort, device: str) -> None:
    """Run a cohort in a kernel of its own, through its notebook; in this process where papermill is not there."""
    if not notebooks.installed():
        run_cohort(cohort, places())
        return
    parameters = {
        "targets": cohort.targets,
        "benchmark": cohort.usual.benchmark,
        "preset": cohort.usual.preset,
        "fold": cohort.fold,
        "seed": cohort.seed,
        "diversity": cohort.setting.recipe.diversity,
        "pictures": cohort.usual.benchmark in RENDERED,
    }
    notebooks.execute("train", cohort.notebook, parameters)
