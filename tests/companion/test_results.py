"""From records on disk to tables: what is read, how it is averaged, and what the committed files say."""

import dataclasses
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from invented import ABOUT, BENCHMARK, TINY, add_seed, keep, scores_in
from scipy.stats import t

from dpnet import io
from dpnet.companion import (
    details,
    estimates,
    experiments,
    presets,
    report,
    results,
    runner,
    sentences,
    tables,
    verdicts,
)
from dpnet.companion.results import Scores
from dpnet.companion.store import Store
from dpnet.config import Evaluation, Variant
from dpnet.episodes import Episode
from dpnet.io import DPNetError, read_json, write
from dpnet.metrics import mean_iou

TABLE_3 = experiments.get("table3")
COMMITTED = [p.parent for p in sorted((io.ROOT / "results").glob("*-*[!y]/table3.csv"))]  # all but tiny ones


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return scores_in(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return scores_in(tmp_path_factory.mktemp("results"), seeds=3)


def test_a_record_and_an_evaluation_are_a_row(invented: Scores) -> None:
    frame = invented.frame
    assert list(frame.columns) == results.COLUMNS
    runs = frame[frame.variant != ""]
    assert len(runs) == 4 * (1 + 1 + 3)  # two variants, and the full model: both branches, and wrong supports
    assert not runs.duplicated(["folder", "evaluation"]).any()
    for row in runs.itertuples():
        assert row.folder == row.record.id == TINY.run(row.record.variant, row.fold, row.seed).id
    assert set(frame[frame.variant == ""].evaluation) >= {"prototype", "objects", "ceiling", "matches-cycle"}
    assert frame.fold.is_monotonic_increasing


def test_records_of_another_schedule_recipe_or_list_are_left_out(tmp_path: Path) -> None:
    whole, run = scores_in(tmp_path, range(1)), TINY.run(Variant(), 0, 0)
    others = [
        dataclasses.replace(run, training=dataclasses.replace(run.training, steps=61)),
        dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, size=97)),
        dataclasses.replace(TINY.baselines(0, 0), episodes=41),
    ]
    for other in others:
        keep(whole.store, other, [Evaluation(40).id], np.ones((40, 2, 3), int))
    assert results.load(TINY, tmp_path).frame.folder.tolist() == whole.frame.folder.tolist()


@pytest.mark.parametrize("change", [{"variant": {"later": 1}}, {"kind": "Other"}])
def test_records_of_another_version_are_left_out(change: dict[str, Any], tmp_path: Path) -> None:
    whole = scores_in(tmp_path, range(1))
    file = whole.store.folder(TINY.run(Variant(), 0, 0)) / "run.json"
    file.write_text(json.dumps(read_json(file) | change))
    assert len(results.load(TINY, tmp_path).frame) == len(whole.frame) - 3


def test_another_diversity_and_fields_at_their_default_belong_to_the_setting(tmp_path: Path) -> None:
    store = scores_in(tmp_path, range(1)).store
    other = TINY.at(1.0).run(Variant(), 0, 0)
    keep(store, other, [Evaluation(40).id, Evaluation(41).id], np.ones((40, 2, 3), int))
    content = read_json(store.folder(other) / "run.json")
    del content["training"]["warmup"], content["variant"]["alpha"]  # as an older version wrote it
    (store.folder(other) / "run.json").write_text(json.dumps(content))
    one = results.load(TINY, tmp_path)
    records = one.records(one.of_row(experiments.Row({}, "", diversity=1.0)))
    assert records.evaluation.tolist() == [Evaluation(40).id]  # 41 are another setting's


def test_what_is_missing_or_corrupt_is_named(tmp_path: Path) -> None:
    with pytest.raises(DPNetError, match=r"make reproduce-table3 BENCHMARK=pascal PRESET=paper"):
        results.table(3, benchmark="pascal", preset="paper", results=tmp_path)
    file = next(scores_in(tmp_path, range(1)).store.root.glob("runs/*/metrics.json"))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DPNetError, match=r"metrics\.json: corrupt"):
        results.load(TINY, tmp_path)


def test_seeds_are_those_that_every_fold_has(tmp_path: Path) -> None:
    assert list(scores_in(tmp_path).seeds) == [0]
    add_seed(tmp_path, 1, range(3))
    assert list(results.load(TINY, tmp_path).seeds) == [0]
    add_seed(tmp_path, 1, [3])
    both = results.load(TINY, tmp_path)
    assert list(both.seeds) == [0, 1]
    full = [(1.0, both.of_row(TABLE_3.best))]
    each = both.samples(full, "mean", "canet")[:, 0]
    assert each[0] != each[1]
    assert each[0] == results.load(TINY, tmp_path, 1).estimate(full, "mean", "canet").value
    assert both.estimate(full, "mean", "canet").value == pytest.approx(np.mean(each))


def test_what_has_fewer_seeds_is_the_mean_of_those_that_it_has(three: Scores, tmp_path: Path) -> None:
    scores_in(tmp_path, seeds=3)
    base, full = (three.of_row(TABLE_3.rows[i]) for i in (0, 3))
    for fold in (1, 2):
        shutil.rmtree(Store(tmp_path / TINY.name).folder(TINY.run(TABLE_3.rows[0].variant, fold, fold)))
    fewer = results.load(TINY, tmp_path)
    parts = [(1.0, full), (-1.0, base)]
    assert [fewer.trainings(parts, fold) for fold in (0, 1, 2, "mean")] == [3, 1, 2, 1]
    assert fewer.trainings([(1.0, full)], "mean") == 3
    ours = results.effects(fewer, TABLE_3).query("effect == 'all three' and metric == 'canet'").set_index("fold")
    assert set(ours.trainings) == {1}  # those that all rows of the table have on every fold
    assert ours.runs["2"].count("fold2-seed") == 2
    first = results.effects(results.load(TINY, tmp_path, 1), TABLE_3).query(
        "effect == 'all three' and fold == 'mean'"
    )
    assert ours.loc["mean", ["low", "high"]].tolist() == first.iloc[0][["low", "high"]].tolist()
    assert sentences.trainings(fewer, TABLE_3) == 1


def test_table3_has_the_papers_columns_and_ours(invented: Scores) -> None:
    tidy = results.table(3, benchmark="shapes", preset="tiny", results=invented.store.root.parent)
    columns = "pim msf ccm fold metric miou low high trainings by_training paper delta status runs"
    assert list(tidy.columns) == columns.split()
    assert len(tidy) == 4 * 5 * 2
    assert ((tidy.low <= tidy.miou) & (tidy.miou <= tidy.high)).all()
    full = tidy.query("pim == 1 and msf == 1 and ccm == 1 and metric == 'canet'").set_index("fold")
    assert full.paper.to_dict() == {"0": 54.6, "1": 66.6, "2": 57.2, "3": 53.5, "mean": 58.0}
    assert full.miou["mean"] == pytest.approx(full.miou.drop("mean").mean(), abs=0.01)
    assert full.runs["mean"].split() == [TINY.run(Variant(), fold, 0).id for fold in range(4)]
    assert set(tidy.status) == {"not comparable"}  # not the paper's benchmark: no absolute comparison
    assert tidy.delta.isna().all()


def test_the_papers_setting_is_compared(invented: Scores) -> None:
    cells = pd.DataFrame({"miou": [50.0, 50, np.nan, 50], "low": 48.0, "high": 52.0, "paper": [51.0, 55, 51, 51]})
    cells["trainings"] = [3, 3, 0, 2]
    compared = results.against_paper(cells, True)
    assert compared.status.tolist() == ["reproduced", "differs", "not run", "needs 3 seeds"]
    assert compared.delta.tolist()[:2] == [-1.0, -5.0]
    assert results.against_paper(cells, False).delta.isna().all()
    cases = [("pascal", "paper", 3), ("coco", "paper", 2), ("pascal", "paper", 2), ("coco", "paper", 3)]
    for number, (benchmark, preset, table) in enumerate([*cases, ("pascal", "quick", 3)]):
        one = dataclasses.replace(invented, setting=presets.resolve(benchmark, preset))
        assert one.comparable(experiments.get(f"table{table}")) == (number < 2)


def test_effects_are_paired(three: Scores) -> None:
    effects = results.effects(three, TABLE_3)
    canet = effects.query("metric == 'canet' and fold == 'mean'").set_index("effect")
    assert canet.loc["PIM", ["difference", "low", "high"]].tolist() == [0, 0, 0]  # equal counts in every resample
    assert canet.status[["PIM", "MSF"]].tolist() == ["undecided", "same direction"]
    assert canet.loc["MSF", "low"] > 0
    assert canet.paper.drop(canet.index[-1]).to_dict() == {"PIM": 1.7, "MSF": 0.5, "CCM": 2.0, "all three": 4.2}
    over = three.of_row(TABLE_3.best), three.baseline("prototype", TABLE_3.best)
    full, prototype = (three.estimate([(1.0, selection)], "mean", "canet").value for selection in over)
    assert canet.difference.iloc[-1] == pytest.approx(full - prototype, abs=0.01)
    assert canet.status.iloc[-1] == "positive"


def test_a_direction_needs_three_trainings_and_one_of_the_papers() -> None:
    three, two = ({"difference": 5.0, "low": 4.0, "high": 6.0, "trainings": n} for n in (3, 2))
    words = [estimates.direction(three, theirs) for theirs in (0.0, -0.1, 0.1)]
    assert words == ["positive", "opposite direction", "same direction"]
    assert {estimates.direction(two, theirs) for theirs in (0.0, -0.1, 0.1)} == {"needs 3 seeds"}


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda p: p.name)
def test_no_verdict_changes_sides_without_one_of_the_trainings(folder: Path) -> None:
    """Leaving out any one seed makes of no "same direction" an "opposite direction", nor the reverse."""
    scores = results.load(presets.resolve(*folder.name.rsplit("-", 1)), folder.parent)
    told = {"same direction", "opposite direction"}
    for experiment in experiments.several("all", scores.setting.benchmark):
        for line in tables.headline(scores, experiment).to_dict("records"):
            for left_out in range(line["trainings"] if line["status"] in told else 0):
                others = np.delete(np.array(line["by_training"].split(), float), left_out)
                half = t.ppf(0.975, len(others) - 1) * others.std(ddof=1) / len(others) ** 0.5
                parts = {"difference": others.mean(), "low": others.mean() - half, "high": others.mean() + half}
                stated = line["paper"] if abs(line["paper"]) > 0 else 1.0
                now = estimates.direction(parts | {"trainings": estimates.ENOUGH}, stated)
                assert {line["status"], now} != told, (experiment.name, line["effect"], left_out)


def test_a_mean_exists_only_with_all_folds(tmp_path: Path) -> None:
    three = scores_in(tmp_path, range(3))
    table = tables.beside(three, TABLE_3)
    assert set(table["mean"]) == set(table["fold 3"]) == {"—"}
    assert "—" not in set(table["fold 2"])
    (sentence,) = sentences.missing(three, TABLE_3)  # one for all that lack the same fold
    assert "PIM + MSF + CCM: no mean, since fold 3 is not run" in sentence
    assert set(results.rows(three, TABLE_3).query("fold == 'mean'").status) == {"not run"}
    assert "not run" in sentences.support_verdict(three, TABLE_3)


def test_pairs_and_classes_are_what_a_loop_counts(invented: Scores) -> None:
    pairs = details.pairs(invented, TABLE_3)
    assert len(pairs) == 8  # in each fold half of the queries have one wrong class, and half the other
    row = pairs[(pairs["query of"] == "c") & (pairs["wrong support of"] == "a")].iloc[0]
    assert row.episodes == 20
    for support in ("right", "wrong"):
        ((counts, _),) = invented.counts(invented.of_row(TABLE_3.best, support), 2)
        hit = sum(int(counts[i, 1, 1]) for i in range(40) if i % 2)
        union = sum(int(counts[i, 1, 1] + counts[i, 0, 1] + counts[i, 1, 0]) for i in range(40) if i % 2)
        assert row[support] == pytest.approx(100 * hit / union, abs=0.05)
    classes = details.by_class(invented, TABLE_3)
    assert classes["class"].tolist() == list("abcd")
    assert classes.images.tolist() == classes.episodes.tolist() == [40] * 4
    folds = results.rows(invented, TABLE_3).query("pim == 0 and metric == 'canet' and fold != 'mean'")
    assert classes.base.to_numpy() == pytest.approx(folds.miou.to_numpy(), abs=0.06)
    others = {"wrong support": invented.of_row(TABLE_3.best, "wrong"), "prototype": invented.baseline("prototype")}
    for name, selection in others.items():
        ((counts, of),) = invented.counts(selection, 2)
        assert classes[name][2] == pytest.approx(mean_iou(counts, of, "canet"), abs=0.05)
    assert (classes["wrong support"] < classes[TABLE_3.best.label] - 5).all()


def test_queries_with_several_classes_are_scored_by_themselves(invented: Scores) -> None:
    table = tables.by_queries(invented, TABLE_3).set_index("")
    assert len(table) == len(TABLE_3.rows) + 1 + len(results.BASELINES)  # and the wrong support
    for head, chosen in (
        ("that show one class", [i for i in range(40) if i % 4]),
        ("that show several", range(0, 40, 4)),
    ):
        for name, selection in (
            ("base", invented.of_row(TABLE_3.rows[0])),
            ("PIM + MSF + CCM, wrong support", invented.of_row(TABLE_3.best, "wrong")),
            ("training-free prototype", invented.baseline("prototype")),
        ):
            folds = []
            for fold in range(4):
                ((counts, _),) = invented.counts(selection, fold)
                hit = sum(int(counts[i, 1, 1]) for i in chosen)
                folds.append(
                    100 * hit / sum(int(counts[i].sum() - counts[i, 0, 0] - counts[i, 0, 2]) for i in chosen)
                )
            assert table.loc[name, head].startswith(f"{sum(folds) / 4:.1f} ["), (name, head)
    whole = results.rows(invented, TABLE_3).query("fold == 'mean' and metric == 'canet'")
    assert [text.split()[0] for text in table["all queries"][:4]] == [f"{value:.1f}" for value in whole.miou]


def test_right_and_wrong_supports_are_compared_on_the_same_queries(tmp_path: Path) -> None:
    """Half of the queries lack no class of their fold, and have no wrong support."""
    one = scores_in(tmp_path)
    shares = []
    for fold in range(4):
        listed = [[fold + 1, f"q{i}", [f"s{i}"], i % 2, [f"w{i}"] if i % 2 else []] for i in range(40)]
        one.store.write_episodes(fold, 0, 1, 40, json.dumps(listed))
        names = [TABLE_3.best.evaluation(40, support).id for support in ("right", "wrong")]
        ((counts, _),) = one.counts(one.of_row(TABLE_3.best), fold)
        of_support = dict(zip(names, (counts, counts[1::2] // 3), strict=True))
        asked = {name: [Episode(fold + 1, n, (0,)) for n in range(len(part))] for name, part in of_support.items()}
        one.store.finish(TINY.run(TABLE_3.best.variant, fold, 0), of_support, asked, BENCHMARK)
        shares.append([_pfenet(part) for part in (counts[1::2], counts[1::2] // 3)])
    right, wrong = np.mean(shares, 0)
    words = sentences.support_verdict(results.load(TINY, tmp_path), TABLE_3)
    assert f"scores {wrong:.1f}, with the right one {right:.1f} (PFENet" in words


def _pfenet(counts: np.ndarray) -> float:
    """IoU in % of one class, void left out."""
    return 100 * counts[:, 1, 1].sum() / (counts[:, 1, :2].sum() + counts[:, 0, 1].sum())


@pytest.mark.parametrize(("theirs", "rank", "status"), [(20, 1, "same direction"), (0, 16, "opposite direction")])
def test_the_best_of_sixteen_is_more_than_pairs(theirs: int, rank: int, status: str, tmp_path: Path) -> None:
    one = scores_in(tmp_path)
    assert details.best_weights(one) is None
    for fold, seed in product(range(4), range(3)):
        cohort = runner.Cohort("table5", TINY, fold, seed, tmp_path)
        for number, (run, names) in enumerate(cohort.scored.items()):
            counts = np.full((40, 2, 3), 100) + np.arange(40)[:, None, None]
            gain = theirs if (run.variant.lambda_1, run.variant.lambda_2) == (1, 1) else 1 + number % 15
            counts[:, :, 1] += np.array([-gain, gain])
            keep(one.store, run, names, counts)
    best = details.best_weights(results.load(TINY, tmp_path))
    assert best is not None
    assert best["ours"] != best["theirs"]  # the best of the others
    assert (best["theirs"], best["rank"], best["status"]) == ("λ1 = 1, λ2 = 1", rank, status)


def test_fig_4_shows_what_its_rule_chooses(invented: Scores) -> None:
    fig4 = experiments.get("fig4")
    examples = details.qualitative_examples(invented, fig4, 1)
    assert examples.rule.tolist() == ["largest gain", "median", "largest loss"]
    assert examples["query"].tolist() == [f"q{n}" for n in examples.episode]
    assert (examples.gain == 0).all()  # the invented counts are the same for both branches
    assert details.qualitative_examples(dataclasses.replace(invented, seeds=range(1, 2)), fig4, 1).empty


def test_matches_are_rates_of_cells(invented: Scores) -> None:
    matches = details.matches(invented).set_index(["matches", "fold"])
    ((counts, _),) = invented.counts(invented.baseline("matches-cycle"), 2)
    total = counts.sum(0)
    assert matches.precision["cycle", "2"] == pytest.approx(100 * total[1, 1] / total[1, :2].sum(), abs=0.01)
    assert matches.recall["cycle", "2"] == pytest.approx(100 * total[1, 1] / total[:, 1].sum(), abs=0.01)
    assert matches.cells["cosine", "2"] == pytest.approx(counts[:, 1].sum(1).mean(), abs=0.01)
    assert (matches.loc["cycle - cosine"][["precision", "precision_low", "precision_high"]] == 0).all(axis=None)


def test_folds_of_one_class_have_baselines_and_no_wrong_support(tmp_path: Path) -> None:
    """As own images of three classes have them."""
    one = scores_in(tmp_path)
    write(one.store.root / "benchmark.json", json.dumps(ABOUT | {"tested": [[1], [2], [3], [4]]}).encode())
    alone = results.load(TINY, tmp_path)
    assert (
        sentences.support_verdict(alone, TABLE_3) == "Wrong-support control: none, since a fold tests a single class."
    )
    below = results.baselines(alone, TABLE_3).set_index("yardstick").miou
    assert below[results.BASELINES["prototype"]].notna().all()


def test_where_the_paper_has_no_number_none_is_reproduced(tmp_path: Path) -> None:
    setting, fig5 = presets.resolve("pascal", "paper"), experiments.get("fig5")
    scores = scores_in(tmp_path, setting=setting)
    for fold in range(4):
        for run, names in runner.Cohort("fig5", setting, fold, 0, tmp_path).scored.items():
            keep(scores.store, run, names, np.full((40, 2, 3), 50))
    assert scores.comparable(fig5)
    assert verdicts.outcome(results.load(setting, tmp_path), fig5)[0] == estimates.TOO_FEW


def test_the_protocol_names_classes_where_not_all_are_tested(tmp_path: Path) -> None:
    one = scores_in(tmp_path)
    assert "folds 0, 1, 2, 3;" in sentences.protocol(one, TABLE_3)
    write(one.store.root / "benchmark.json", json.dumps(ABOUT | {"tested": [[], [2], [3], []]}).encode())
    assert "folds 1 (b), 2 (c);" in sentences.protocol(results.load(TINY, tmp_path), TABLE_3)


def test_the_verdict_says_when_the_support_is_ignored(invented: Scores, tmp_path: Path) -> None:
    assert "It reads its support" in sentences.support_verdict(invented, TABLE_3)
    ignored = scores_in(tmp_path, lost=0)  # with a wrong support it hits as much
    assert "hardly reads which class is asked for" in sentences.support_verdict(ignored, TABLE_3)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda p: p.name)
def test_committed_tables_are_what_their_runs_give(folder: Path) -> None:
    setting = presets.resolve(*folder.name.rsplit("-", 1))
    committed = results.load(setting, folder.parent)
    for experiment in experiments.several("all", setting.benchmark):
        if (folder / f"{experiment.name}.csv").exists():
            for suffix, table in report.csvs(committed, experiment).items():
                text = table.to_csv(index=False, lineterminator="\n")
                assert text == (folder / f"{experiment.name}{suffix}.csv").read_text()
    assert (folder / "REPORT.md").read_text() == report.as_markdown(committed), "run `make report`"
    assert pd.read_csv(folder / "table3.csv").miou.notna().all()
    assert COMMITTED
