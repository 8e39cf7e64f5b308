"""What a target needs: the trainings, grouped by fold and seed, how each is scored, and what of it is there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from dpnet import episodes
from dpnet.companion import experiments, notebooks
from dpnet.companion.examples import RENDERED
from dpnet.companion.experiments import Row
from dpnet.companion.presets import Setting
from dpnet.companion.store import Store
from dpnet.config import Baselines, Evaluation, Run, Variant
from dpnet.data.index import Benchmark
from dpnet.io import CHECKPOINT, DPNetError


@dataclass(frozen=True)
class Cohort:
    """Variants that train together: what some targets need at one setting, on one fold, from one seed."""

    targets: str  # an experiment's name, several joined by "+", or "all"
    usual: Setting
    fold: int  # whose classes are novel
    seed: int  # of parameters, episodes and dropout
    results: Path  # the folder of all results
    diversity: float | None = None  # of `shapes`: only rows that ask for it belong here; None: the usual one
    only: str | None = None  # one variant, by its slug

    @property
    def setting(self) -> Setting:
        """What its runs are trained on."""
        return self.usual.at(self.diversity)

    @property
    def mark(self) -> str:
        """What cohorts of the same runs have in common, whatever their targets."""
        return f"fold{self.fold}-seed{self.seed}{self.setting.recipe.mark}"

    @property
    def name(self) -> str:
        """Readable, unique among a benchmark's results."""
        return f"{self.targets}-{self.mark}"

    @property
    def store(self) -> Store:
        """Where its runs are kept."""
        return Store(self.results / self.setting.name)

    @cached_property
    def wanted(self) -> dict[Run, list[Evaluation]]:
        """Its runs, and how each is scored: its rows, and the control with wrong supports."""
        wanted: dict[Run, dict[Evaluation, None]] = {}
        for row, controlled in self._rows():
            asked = wanted.setdefault(self.setting.run(row.variant, self.fold, self.seed), {})
            asked[row.evaluation(self.setting.episodes)] = None
            if controlled:
                asked[row.evaluation(self.setting.episodes, "wrong")] = None
        slugs = [run.variant.slug for run in wanted]
        if self.only is not None and self.only not in slugs:
            raise DPNetError(f"unknown variant {self.only!r}: {self.targets} has {', '.join(slugs)}")
        return {run: list(asked) for run, asked in wanted.items() if self.only in (None, run.variant.slug)}

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
        """The run whose predictions are stored and drawn: the full model, or the last one."""
        return next((run for run in self.runs if run.variant == Variant()), self.runs[-1])

    @property
    def baselines(self) -> list[Baselines]:
        """What needs no training, for each number of shots that a controlled row has."""
        shots = {row.shot for row, controlled in self._rows() if controlled} | {1}
        return [self.setting.baselines(self.fold, self.seed, shot) for shot in sorted(shots)]

    def _rows(self) -> list[tuple[Row, bool]]:
        """The rows of its diversity, and whether each is compared with wrong supports and baselines."""
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
        return [run for run in self.runs if not (self.store.folder(run) / CHECKPOINT).exists()]

    def missing(self, run: Run) -> list[Evaluation]:
        """How a run is still to be scored."""
        names = self.store.missing(run, self.scored[run])
        return [e for e in self.wanted[run] if e.id in names]

    def pending(self) -> list[Run]:
        """Runs that are untrained, or lack an evaluation."""
        untrained = self.untrained()
        return [run for run in self.runs if run in untrained or self.missing(run)]

    def complete(self, data_mark: str | None) -> bool:
        """Whether runs, baselines (of that data, if its mark is given) and an executed notebook are there."""
        if self.pending() or any(self.store.missing(b, b.measured, data_mark) for b in self.baselines):
            return False
        lists = (self.store.list_file(self.fold, self.seed, b.shot, self.setting.episodes) for b in self.baselines)
        if self.setting == self.usual and not all(file.exists() for file in lists):
            return False
        return not notebooks.installed() or any(self.store.root.glob(f"train/*-{self.mark}.ipynb"))


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


def plan(planned: Sequence[Cohort]) -> pd.DataFrame:
    """A line per cohort: its runs, those that targets share, what is finished and what is not."""
    lines = []
    for cohort in planned:
        targets = [replace(cohort, targets=one.name) for one in experiments.several("all", cohort.usual.benchmark)]
        users = Counter(run for target in targets for run in target.runs)
        to_train, pending = len(cohort.untrained()), len(cohort.pending())
        lines.append({
            "cohort": cohort.name,
            "runs": len(cohort.runs),
            "shared": sum(users[run] > 1 for run in cohort.runs),
            "finished": len(cohort.runs) - pending,
            "to score": pending - to_train,
            "to train": to_train,
            "steps": to_train * cohort.usual.training.steps,
        })  # fmt: skip
    return pd.DataFrame(lines)
