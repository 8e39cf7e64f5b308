"""One's own results beside the published ones: each verdict, and the interval behind it."""

import json
from pathlib import Path

import numpy as np
import pytest
from invented import TINY, add_seed, keep, scores_in

from dpnet.companion import compare, experiments, figures, results
from dpnet.companion.results import MEAN, Scores
from dpnet.io import write

TABLE_3 = experiments.get("table3")


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DPNET_PUBLISHED", str(tmp_path / "published"))
    scores_in(tmp_path / "published")
    return tmp_path / "published"


def rewrite_pim(scores: Scores, fold: int) -> None:
    """Give a run other counts: nothing is missed."""
    run = TINY.run(TABLE_3.rows[1].variant, fold, 0)
    counts = np.tile([[50, 0, 0], [0, 50, 0]], (40, 1, 1))
    keep(scores.store, run, list(scores.store.metrics(run)["evaluations"]), counts)


def verdicts(folder: Path) -> dict[str, str]:
    tidy = compare.compared(results.load(TINY, folder, 1), TABLE_3)
    return dict(zip(tidy.kind + " " + tidy.name, tidy.verdict, strict=True))


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("more", [1, 3])
def test_the_interval_contains_the_mean_of_more_trainings_in_95_of_100_cases(n: int, more: int) -> None:
    rng = np.random.default_rng(n)
    hits = []
    for _ in range(4000):
        least, most = compare.prediction_interval(rng.normal(40, 2, n), more)
        hits.append(least <= rng.normal(40, 2, more).mean() <= most)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.012)


def test_the_same_counts_are_identical_and_one_other_count_is_not(published: Path, tmp_path: Path) -> None:
    own = scores_in(tmp_path / "own")
    assert set(verdicts(tmp_path / "own").values()) == {compare.IDENTICAL}
    assert "your rows and effects: identical (9 of 9)." in compare.closing(own, TABLE_3)
    rewrite_pim(own, fold=2)
    changed = verdicts(tmp_path / "own")
    assert {name for name, verdict in changed.items() if verdict == compare.NO_SPREAD} == {
        "row PIM", "effect PIM", "effect MSF",
    }  # fmt: skip
    assert list(changed.values()).count(compare.IDENTICAL) == 6


def test_another_training_is_judged_by_the_spread_of_the_published(published: Path, tmp_path: Path) -> None:
    """Within or outside, as a double loop over seeds and folds says; an interval of one seed does not exist."""
    own = scores_in(tmp_path / "own")
    scores_in(published, seed_of_counts=7)
    assert set(verdicts(tmp_path / "own").values()) == {compare.NO_SPREAD}
    for seed in (1, 2, 3):
        add_seed(published, seed)
    for fold in range(4):
        rewrite_pim(own, fold)
    theirs = results.load(TINY, published)
    assert len(theirs.seeds) == 4
    tidy = compare.compared(results.load(TINY, tmp_path / "own", 1), TABLE_3).set_index(["kind", "name"])
    for row in TABLE_3.rows:
        values = [
            np.mean([theirs.samples([(1.0, theirs.of_row(row))], f, "canet")[s, 0] for f in theirs.folds])
            for s in range(4)
        ]
        half = 3.182446 * np.std(values, ddof=1) * np.sqrt(1.25)  # t of three degrees of freedom
        value = own.estimate([(1.0, own.of_row(row))], MEAN, "canet").value
        line = tidy.loc["row", row.label]
        assert line.trainings == pytest.approx(values, abs=0.006)
        assert (line.least, line.most) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.05)
        inside = abs(value - np.mean(values)) <= half
        assert line.verdict == (compare.WITHIN if inside else compare.OUTSIDE)
    assert {compare.WITHIN, compare.OUTSIDE} <= set(tidy.verdict)
    own = results.load(TINY, tmp_path / "own", 1)
    assert compare.closing(own, TABLE_3).startswith("Verdicts on your rows and effects: ")
    assert list(compare.table(own, TABLE_3).columns) == ["", "paper", "published", "trainings", "yours", "verdict"]
    figure = figures.compared(own, TABLE_3)
    assert [len(axis.get_yticklabels()) for axis in figure.axes] == [4, 5]


def test_other_data_and_what_is_published_itself_are_not_compared(published: Path, tmp_path: Path) -> None:
    own = scores_in(tmp_path / "own")
    about = json.loads((published / "shapes-tiny" / "benchmark.json").read_text())
    write(published / "shapes-tiny" / "benchmark.json", json.dumps({**about, "digest": "f" * 64}).encode())
    assert set(verdicts(tmp_path / "own").values()) == {compare.OTHER}
    assert "other data or preset (9 of 9)" in compare.closing(own, TABLE_3)
    assert compare.compared(results.load(TINY, published), TABLE_3).empty


def test_what_is_published_only_of_other_tables_is_no_reference(published: Path, tmp_path: Path) -> None:
    """The same runs and counts, but none of the evaluations that Table 6 needs are published."""
    own = scores_in(tmp_path / "own")
    for fold in range(4):
        run = TINY.run(TABLE_3.rows[-1].variant, fold, 0)
        names = list(own.store.metrics(run)["evaluations"])
        counts, _ = own.store.counts(run, names[0])
        asked = [row.evaluation(TINY.episodes).id for row in experiments.get("table6").rows]
        keep(own.store, run, [*names, *asked], counts)
    tidy = compare.compared(results.load(TINY, tmp_path / "own", 1), experiments.get("table6"))
    alone = set(tidy[tidy.published.isna() & tidy.yours.notna()].verdict)
    assert alone == {compare.NOT_PUBLISHED}


def test_a_row_that_was_not_run_says_so(published: Path, tmp_path: Path) -> None:
    scores_in(tmp_path / "own", folds=[0, 1])
    assert set(verdicts(tmp_path / "own").values()) == {compare.NOT_RUN}
