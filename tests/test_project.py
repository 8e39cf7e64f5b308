"""The house: configuration, run ids, store, notebooks, commands, files that must agree."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpnet.companion import experiments, paper, report, results, runner, tables
from dpnet.companion.store import Store, Thing
from dpnet.config import Evaluation, Run, Variant
from dpnet.io import DPNetError, write

ROOT = Path(__file__).parents[1]


def some_run(**changes: object) -> Run:
    run = experiments.run(Variant(), "shapes", "tiny", 0, 0)
    return dataclasses.replace(run, **changes)


# ---- results


def keep(store: Store, thing: Thing, names: Iterable[str], counts: np.ndarray, classes: np.ndarray) -> None:
    store.finish(thing, dict.fromkeys(names, counts), dict.fromkeys(names, classes), {name: {} for name in names})


def reader_of(tmp_path: Path, folds: range = range(4)) -> results.Reader:
    """Results with invented counts: they test the arithmetic, and mean nothing."""
    store = Store(tmp_path / "shapes-tiny")
    about = {"tested": [[1], [2], [3], [4]], "images": {"train": 1, "val": 1}, "scarce": {}, "classes": list("abcd")}
    about["folds"] = about["tested"]
    write(store.root / "benchmark.json", json.dumps(about).encode())
    rng = np.random.default_rng(0)
    for fold in folds:
        base = rng.integers(10, 100, (40, 2, 3))
        classes = np.full(40, fold + 1)
        for run, names in runner.Cohort("table3", "shapes", "tiny", fold, 0).scored.items():
            better = base.copy()  # the same pixels, some of the missed ones hit
            better[:, :, 1] += np.outer(base[:, 0, 1] // 2, [-1, 1]) * (run.variant.pseudo == "cycle")
            keep(store, run, names, better, classes)
        listed = [[fold + 1, f"q{i}", [f"s{i}"], 2 - (i % 2), [f"w{i}"]] for i in range(40)]
        store.write_episodes(fold, 0, 1, 40, json.dumps(listed))
        sticks = experiments.yardsticks("shapes", "tiny", fold, 0)
        keep(store, sticks, sticks.names, base // 2, classes)
    return results.Reader("shapes", "tiny", tmp_path)


def test_seeds_are_those_that_every_fold_has(tmp_path: Path) -> None:
    assert list(reader_of(tmp_path).seeds) == [0]
    store, rng = Store(tmp_path / "shapes-tiny"), np.random.default_rng(1)
    for fold in range(4):
        for run, names in runner.Cohort("table3", "shapes", "tiny", fold, 1).scored.items():
            keep(store, run, names, rng.integers(10, 100, (40, 2, 3)), np.full(40, fold + 1))
        assert list(results.Reader("shapes", "tiny", tmp_path).seeds) == ([0, 1] if fold == 3 else [0])
    both = results.Reader("shapes", "tiny", tmp_path)
    full = both.of_row(experiments.get("table3").best)
    each = [both.of_seed(seed).samples(full, "mean", "canet").value for seed in both.seeds]  # type: ignore[union-attr]
    assert each[0] != each[1]
    assert both.samples(full, "mean", "canet").value == pytest.approx(np.mean(each))  # type: ignore[union-attr]
    claims = report.claims(both).set_index("effect")
    alone = [tables.headline(both.of_seed(s), experiments.get("table3")).set_index("effect") for s in both.seeds]
    assert claims.loc["CCM", "by seed"] == ", ".join(f"{one.loc['CCM', 'difference']:+.1f}" for one in alone)
    assert "by seed" not in report.claims(both.of_seed(0))


def test_table3_has_the_papers_columns_and_ours(tmp_path: Path) -> None:
    reader_of(tmp_path)
    tidy = results.table(3, benchmark="shapes", preset="tiny", results=tmp_path)
    columns = ["pim", "msf", "ccm", "fold", "metric", "miou", "low", "high", "paper", "delta", "status", "runs"]
    assert list(tidy.columns) == columns
    assert len(tidy) == 4 * 5 * 2
    assert ((tidy.low <= tidy.miou) & (tidy.miou <= tidy.high)).all()
    full = tidy.query("pim == 1 and msf == 1 and ccm == 1 and metric == 'canet'").set_index("fold")
    assert full.paper.to_dict() == {"0": 54.6, "1": 66.6, "2": 57.2, "3": 53.5, "mean": 58.0}
    assert full.miou["mean"] == pytest.approx(full.miou.drop("mean").mean(), abs=0.01)
    assert set(tidy.status) == {"not comparable"}  # not the paper's benchmark: no absolute comparison
    assert tidy.delta.isna().all()


def test_the_papers_setting_is_compared(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    cell = {"miou": 50.0, "low": 48.0, "high": 52.0}
    assert results._against_paper(cell, 51.0, True) == {"delta": -1.0, "status": "reproduced"}
    assert results._against_paper(cell, 55.0, True) == {"delta": -5.0, "status": "differs"}
    assert np.isnan(results._against_paper(cell, 51.0, False)["delta"])
    table2, table3 = experiments.get("table2"), experiments.get("table3")
    assert not reader.comparable(table3)
    assert results.Reader("pascal", "paper", tmp_path).comparable(table3)
    assert not results.Reader("pascal", "paper", tmp_path).comparable(table2)  # the paper's is COCO's
    assert results.Reader("coco", "paper", tmp_path).comparable(table2)
    assert not results.Reader("pascal", "quick", tmp_path).comparable(table3)


def test_effects_are_paired(tmp_path: Path) -> None:
    effects = results.effects(reader_of(tmp_path), experiments.get("table3"))
    canet = effects.query("metric == 'canet' and fold == 'mean'").set_index("effect")
    assert canet.loc["PIM", "difference"] == 0
    assert canet.loc["PIM", "low"] == canet.loc["PIM", "high"] == 0  # equal counts differ in no resample
    assert canet.loc["PIM", "status"] == "undecided"
    assert canet.loc["MSF", "status"] == "same direction"
    assert canet.loc["MSF", "low"] > 0
    assert canet.paper.drop(canet.index[-1]).to_dict() == {"PIM": 1.7, "MSF": 0.5, "CCM": 2.0, "all three": 4.2}
    assert canet.status.iloc[-1] == "positive"  # the full model over the training-free prototype


def test_a_mean_exists_only_with_all_folds(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, range(3))
    table3 = experiments.get("table3")
    shown = tables.beside(reader, table3)
    assert set(shown["mean"]) == {"—"}
    assert set(shown["fold 3"]) == {"—"}
    assert "—" not in set(shown["fold 2"])
    assert len(tables.missing(reader, table3)) == 1  # one sentence for all that lack the same fold
    assert "PIM + MSF + CCM: no mean, since fold 3 is not run" in tables.missing(reader, table3)[0]
    assert set(results.rows(reader, table3).query("fold == 'mean'").status) == {"not run"}
    assert "not run" in tables.support_verdict(reader, table3)
    glance = report.overview("shapes", "tiny", tmp_path).set_index("target")
    assert glance.status["table3"] == "incomplete"
    assert "fold 3" in glance.said["table3"]
    assert set(glance.status[["table1", "table2", "fig3"]]) == {"not run"}


def test_the_verdict_says_when_the_support_is_ignored(tmp_path: Path) -> None:
    """The invented counts are the same for right and wrong supports: the very case that it must catch."""
    assert "hardly reads which class is asked for" in tables.support_verdict(
        reader_of(tmp_path), experiments.get("table3")
    )


def test_seeds_draw_the_same_images(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(10, 100, (6, 2, 3))
    order = np.array([3, 1, 1, 0, 5, 2, 4])
    one = (counts, np.array([1, 1, 1, 2, 2, 2]))
    first, second = results._draws(0, [one, (counts[order], one[1][order])])
    assert np.array_equal(first[:, order], second)
    assert first.std(0).min() > 0


def test_where_the_paper_has_no_difference_it_has_no_direction() -> None:
    clear = {"difference": 5.0, "low": 4.0, "high": 6.0}
    assert results.direction(clear, 0.0) == "positive"
    assert results.direction(clear, -0.1) == "opposite direction"
    assert results.direction(clear, 0.1) == "same direction"


def test_pairs_and_classes_are_what_a_loop_counts(tmp_path: Path) -> None:
    reader, table3 = reader_of(tmp_path), experiments.get("table3")
    found = results.pairs(reader, table3)
    assert len(found) == 8  # in each fold half of the queries have one wrong class, and half the other
    best, fold = reader.of_row(table3.best), 2
    counts, _ = reader.store.counts(reader.thing(best, fold, 0), best.evaluation)
    hit = sum(int(counts[i, 1, 1]) for i in range(40) if i % 2)
    union = sum(int(counts[i, 1, 1] + counts[i, 0, 1] + counts[i, 1, 0]) for i in range(40) if i % 2)
    row = found[(found["class"] == "c") & (found.support == "a")].iloc[0]
    assert (row.episodes, row.right) == (20, pytest.approx(100 * hit / union))
    classes = results.by_class(reader, table3).query("row == 'base'")
    assert classes["class"].tolist() == list("abcd")
    assert classes.images.tolist() == classes.episodes.tolist() == [40] * 4
    folds = results.rows(reader, table3).query("pim == 0 and metric == 'canet' and fold != 'mean'")
    assert classes.iou.to_numpy() == pytest.approx(folds.miou.to_numpy(), abs=0.01)


@pytest.mark.parametrize(("theirs", "rank", "status"), [(20, 1, "same direction"), (0, 16, "opposite direction")])
def test_the_best_of_sixteen_is_more_than_pairs(theirs: int, rank: int, status: str, tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    assert results.best_weights(reader) is None
    for fold in range(4):
        for number, (run, names) in enumerate(runner.Cohort("table5", "shapes", "tiny", fold, 0).scored.items()):
            counts = np.full((40, 2, 3), 100) + np.arange(40)[:, None, None]
            gain = theirs if (run.variant.lambda_1, run.variant.lambda_2) == (1, 1) else 1 + number % 15
            counts[:, :, 1] += np.array([-gain, gain])
            keep(reader.store, run, names, counts, np.full(40, fold + 1))
    found = results.best_weights(results.Reader("shapes", "tiny", tmp_path))
    assert found is not None
    assert (found["theirs"], found["rank"], found["status"]) == ("λ1 = 1, λ2 = 1", rank, status)


def test_the_protocol_names_classes_where_not_all_are_tested(tmp_path: Path) -> None:
    reader, table3 = reader_of(tmp_path), experiments.get("table3")
    assert "folds 0, 1, 2, 3;" in tables.protocol(reader, table3)
    about = {**reader.about, "tested": [[], [2], [3], []]}
    write(reader.store.root / "benchmark.json", json.dumps(about).encode())
    assert "folds 1 (b), 2 (c);" in tables.protocol(results.Reader("shapes", "tiny", tmp_path), table3)


def test_a_target_of_which_only_a_shared_row_is_there_is_not_run(tmp_path: Path) -> None:
    reader_of(tmp_path)
    glance = report.overview("shapes", "tiny", tmp_path).set_index("target")
    assert glance.status["table5"] == glance.status["table6"] == "not run"
    assert glance.status["fig4"] == "undecided"  # the invented counts are the same for both branches


def test_nothing_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DPNetError, match=r"make reproduce-table3 BENCHMARK=pascal PRESET=paper"):
        results.table(3, benchmark="pascal", preset="paper", results=tmp_path)


def test_committed_tables_are_what_their_runs_give() -> None:
    found = [p for p in sorted((ROOT / "results").glob("*/table3.csv")) if not p.parent.name.endswith("-tiny")]
    assert found
    for path in found:
        benchmark, preset = path.parent.name.rsplit("-", 1)
        reader = results.Reader(benchmark, preset, ROOT / "results")
        for experiment in experiments.several("all", benchmark):
            if not (path.parent / f"{experiment.name}.ipynb").exists():
                continue
            for suffix, table in results.tables(reader, experiment).items():
                text = table.to_csv(index=False, lineterminator="\n")
                assert text == path.with_name(f"{experiment.name}{suffix}.csv").read_text()
        assert (path.parent / "REPORT.md").read_text() == report.as_markdown(reader), "run `make report`"


def test_the_readme_reads_its_numbers_from_results() -> None:
    from dpnet.companion import report

    assert report.filled((ROOT / "README.md").read_text()) == (ROOT / "README.md").read_text(), "run `make report`"


# ---- every table and figure as a declaration


@pytest.mark.parametrize("number", range(1, 7))
def test_each_row_finds_its_number_in_the_paper(number: int) -> None:
    experiment = experiments.get(f"table{number}")
    assert experiment.table == number
    printed = paper.cells(number).set_index([*experiment.keys, "fold"])["miou"]
    found = [printed.loc[(*row.key.values(), "mean")] for row in experiment.rows]
    if number > 2:  # ours are all of the paper's rows, in its order
        columns = ["mean"] if number != 5 else list(paper.table(5).columns[1:])
        assert found == paper.table(number)[columns].to_numpy().ravel().tolist()
    else:
        assert found == {1: [58.7, 62.0, 62.7, 66.2], 2: [37.2, 42.9]}[number]


def test_our_numbers_fit_into_the_papers_columns() -> None:
    for number in paper.TABLES:
        cells = paper.cells(number).assign(backbone="lite", params_m=1.0)
        frame = paper.printed(number, cells)
        theirs = paper.table(number)
        assert list(frame.columns) == list(theirs.columns)
        numbers = [c for c in theirs if c.startswith(("fold", "mean", "miou", "lambda1"))]
        pd.testing.assert_frame_equal(frame[numbers], theirs[numbers], check_dtype=False)


def test_tables_share_their_runs() -> None:
    """Table 5 has sixteen, of which one is the other tables' full model; Tables 1, 2, 6 and Fig. 5 have no more."""
    runs = {name: set(runner.Cohort(name, "shapes", "quick", 0, 0).runs) for name in experiments.EXPERIMENTS}
    assert {name: len(found) for name, found in runs.items()} == {
        "table1": 1, "table2": 1, "table3": 3, "table4": 3, "table5": 16, "table6": 1,
        "fig3": 0, "fig4": 1, "fig5": 1, "diversity": 2,
    }  # fmt: skip
    full = {experiments.run(Variant(), "shapes", "quick", 0, 0)}
    assert all(found >= full for name, found in runs.items() if name != "fig3")
    together = runner.Cohort("all", "shapes", "quick", 0, 0)
    assert set(together.runs) == set().union(*runs.values())
    assert len(together.runs) == 21
    asked = together.scored[next(iter(full))]
    assert len(asked) == len(set(asked))
    assert {Evaluation(400, beta=b).id for b in experiments.BETAS} <= set(asked)
    assert Evaluation(400, shot=5, scales=experiments.SCALES).id in asked


def test_diversities_are_cohorts_of_their_own() -> None:
    cohort = runner.Cohort("diversity", "shapes", "quick", 0, 0, diversity=1.0)
    assert cohort.name == "diversity-fold0-seed0-diversity1"
    assert [r.recipe.diversity for r in cohort.runs] == [1.0, 1.0]
    assert all("-diversity1-" in r.id for r in cohort.runs)
    assert not runner.Cohort("table3", "shapes", "quick", 0, 0, diversity=1.0).runs


def test_the_slope_is_that_of_least_squares() -> None:
    effect = next(e for e in experiments.get("diversity").effects if e.name == "slope of the gain")
    gains = np.random.default_rng(0).normal(size=len(experiments.DIVERSITIES))
    values = np.zeros(3 * len(gains))
    values[2::3] = gains + 7
    values[0::3] = 7
    found = sum(w * values[i] for i, w in effect.weights.items())
    assert found == pytest.approx(np.polyfit(experiments.DIVERSITIES, gains, 1)[0])


def test_looks_are_the_best_the_middle_and_the_worst_of_each_class() -> None:
    before, after = np.array([10.0, 10, 10, 10, 50, 50]), np.array([9.0, 30, 10, 11, 40, 60])
    chosen = results.chosen_looks(before, after, np.array([1, 1, 1, 1, 2, 2]))
    assert chosen == [("largest gain", 1, 1), ("largest gain", 2, 5), ("median", 1, 2), ("median", 2, 4),
                      ("largest loss", 1, 0), ("largest loss", 2, 4)]  # fmt: skip


def test_what_the_paper_claims_is_held_against_runs(tmp_path: Path) -> None:
    reader = reader_of(tmp_path)
    found = report.claims(reader).set_index("effect")
    assert found.status["PIM"] == "undecided"
    assert found.status["CCM"] == "undecided"  # the invented counts are the same for both branches
    assert found.status["MSF"] == "same direction"
    assert found.status["three scales, 1 shot"] == "not run"
    once = report.claims(reader).effect
    assert (once == "with the pseudo-prototype over without (the same as Table 3, CCM)").sum() == 1
    page = report.as_markdown(reader)
    assert f"Of {len(once) - 1} differences" in page  # CCM counts once
    assert "| SCL" not in page
    assert "57.7" in page
    for row in paper.lint().itertuples():
        assert row.where in page


def test_a_report_of_nothing_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPNET_RESULTS", str(tmp_path))
    with pytest.raises(DPNetError, match=r"no results to report: run `make reproduce-table3`"):
        report.publish_all(None, "quick")
