"""Tables and figures as declarations: which trainings they share, and the rules that they state."""

from pathlib import Path

import numpy as np
import pytest

from dpnet.companion import experiments, presets, runner
from dpnet.config import Evaluation, Variant

TARGETS = [*(f"table{n}" for n in range(1, 7)), *(f"fig{n}" for n in (3, 4, 5)), "diversity"]
QUICK = presets.resolve("shapes", "quick")


def test_tables_share_their_runs() -> None:
    """Table 5 has sixteen, of which one is the other tables' full model; Tables 1, 2, 6 and Fig. 5 have no more."""
    cohorts = {name: runner.Cohort(name, QUICK, 0, 0, Path()) for name in [*TARGETS, "+".join(TARGETS)]}
    runs = {name: set(cohort.runs) for name, cohort in cohorts.items()}
    assert {name: len(of_target) for name, of_target in runs.items()} == {
        "table1": 1, "table2": 1, "table3": 3, "table4": 3, "table5": 16, "table6": 1,
        "fig3": 0, "fig4": 1, "fig5": 1, "diversity": 2, "+".join(TARGETS): 21,
    }  # fmt: skip
    full = QUICK.run(Variant(), 0, 0)
    assert all(full in of_target for name, of_target in runs.items() if name != "fig3")
    assert runs.pop("+".join(TARGETS)) == set().union(*runs.values())
    asked = cohorts["+".join(TARGETS)].scored[full]
    assert len(asked) == len(set(asked))
    assert {Evaluation(400, beta=b).id for b in experiments.BETAS} <= set(asked)
    assert Evaluation(400, shot=5, scales=experiments.SCALES).id in asked


def test_the_slope_is_that_of_least_squares() -> None:
    effect = next(e for e in experiments.get("diversity").effects if e.name == "slope of the gain")
    gains = np.random.default_rng(0).normal(size=len(experiments.DIVERSITIES))
    values = np.zeros(3 * len(gains))
    values[2::3] = gains + 7
    values[0::3] = 7
    slope = sum(weight * values[i] for i, weight in effect.weights.items())
    assert slope == pytest.approx(np.polyfit(experiments.DIVERSITIES, gains, 1)[0])


def test_fig_4_takes_the_best_the_middle_and_the_worst_of_each_class() -> None:
    before, after = np.array([10.0, 10, 10, 10, 50, 50]), np.array([9.0, 30, 10, 11, 40, 60])
    counts = np.zeros((2, 6, 2, 3), int)
    counts[:, :, 1, 1] = before, after
    counts[:, :, 0, 1] = 100 - counts[:, :, 1, 1]
    chosen = experiments.qualitative_examples(*counts, np.array([1, 1, 1, 1, 2, 2]))
    assert [rule for rule, *_ in chosen] == [r for r in ("largest gain", "median", "largest loss") for _ in range(2)]
    assert [(c, n) for _, c, n, *_ in chosen] == [(1, 1), (2, 5), (1, 2), (2, 4), (1, 0), (2, 4)]
    assert all((without, with_) == (before[n], after[n]) for _, _, n, without, with_ in chosen)
