"""What came out, in words: claims and targets, the report, and documents whose numbers come from results."""

import os
import re
from pathlib import Path
from typing import Any

import documents
import matplotlib.pyplot as plt
import numpy as np
import pytest
from invented import TINY, scores_in

from dpnet import io
from dpnet.companion import (
    details,
    experiments,
    figures,
    notebooks,
    paper,
    report,
    results,
    sentences,
    tables,
    verdicts,
)
from dpnet.companion.results import Scores
from dpnet.io import DPNetError, write

TABLE_3 = experiments.get("table3")


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    return scores_in(tmp_path_factory.mktemp("results"), seeds=3)


def test_what_the_paper_claims_is_compared_with_runs(invented: Scores) -> None:
    claims = verdicts.claims(invented)
    status = claims.set_index("effect").status
    assert status[["PIM", "MSF", "CCM"]].tolist() == ["undecided", "same direction", "undecided"]
    assert status["three scales, 1 shot"] == "not run"
    assert (claims.effect == "with the pseudo-prototype over without (the same as Table 3, CCM)").sum() == 1
    page = report.as_markdown(invented)
    assert f"Of {len(claims) - 1} differences" in page  # CCM counts once
    assert "| SCL" not in page
    assert "57.7" in page
    assert all(where in page for where in paper.lint()["where"])


def test_fewer_than_three_trainings_have_no_verdict_and_say_so(invented: Scores) -> None:
    for seeds in (1, 2):
        few = results.load(TINY, invented.store.root.parent, seeds)
        assert set(verdicts.claims(few).query(f"trainings == '{seeds}'").status) == {"needs 3 seeds"}
        assert verdicts.outcome(few, TABLE_3)[0] == "needs 3 seeds"
        assert verdicts.outcome(few, experiments.get("fig3"))[0] == "needs 3 seeds"
    assert "from one training" in verdicts.opening(results.load(TINY, invented.store.root.parent, 1), TABLE_3)
    assert "the mean of 3 trainings. Of the variance" in verdicts.opening(invented, TABLE_3)


def test_undecided_effects_say_how_many_trainings_would_tell_them(invented: Scores) -> None:
    effects = results.effects(invented, TABLE_3).query("fold == 'mean' and metric == 'canet'").set_index("effect")
    assert effects.needed["PIM"] == 3  # it is 0 in all trainings
    assert effects.needed.drop("PIM").dropna().index.tolist() == ["CCM"]
    assert "as large as the paper's is excluded: PIM (+1.7); CCM (+2.0)." in sentences.rests(invented, TABLE_3)[1]
    assert [sentences.needed(n, 8) for n in (np.nan, 5, np.inf, 14.0)] == ["—", "—", "not with these images", "14"]


def test_what_these_trainings_would_tell_is_not_listed(invented: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    effects = results.effects(invented, TABLE_3).assign(paper=0.0)  # inside each interval that contains zero
    for number, listed in ((3.0, False), (9.0, True)):
        monkeypatch.setattr(results, "effects", lambda *_, n=number: effects.assign(needed=n))
        assert ("the paper's size: " in " ".join(sentences.rests(invented, TABLE_3))) == listed


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ((0.45, 0.03, 0.87), "+0.45 [0.03, 0.87]"),
        ((0.43, -0.01, 0.86), "+0.43 [-0.01, 0.86]"),
        ((-0.2, -1.04, 0.6), "-0.2 [-1.0, 0.6]"),
        ((-0.04, -1.0, 0.9), "0.0 [-1.0, 0.9]"),
        ((np.nan, np.nan, np.nan), "—"),
    ],
)
def test_a_bound_beside_zero_keeps_its_sign(cells: tuple[float, float, float], text: str) -> None:
    assert tables.spanned(*cells, "+").removeprefix("+") == text.removeprefix("+")


def test_the_report_lists_what_was_said_before_and_what_holds(
    invented: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "What we said before" not in report.as_markdown(invented)  # nothing was, of this preset
    line = {"benchmark": "shapes", "preset": "tiny", "trainings": "1", "status": "same direction"}
    msf = results.effects(invented, TABLE_3).query("effect == 'MSF' and fold == 'mean'").iloc[0]
    spans = {"CCM": (0.0, 1.0), "PIM": (5.0, 9.0), "MSF": (msf.low, msf.high)}
    told = [line | {"effect": e, "difference": str(a), "low": str(a), "high": str(b)} for e, (a, b) in spans.items()]
    words = lambda kind, target: told if (kind, target) == ("earlier", "table3") else []  # noqa: E731
    monkeypatch.setattr(paper, "words", words)
    page = report.as_markdown(invented)
    lines = [text for text in page[page.index("What we said before") :].splitlines() if "| Table 3, " in text]
    assert [text.split(" | ")[-1] for text in lines] == [
        "before: one training of another schedule |",
        "before: one training of another schedule |",
        " |",
    ]
    few = report.as_markdown(results.load(TINY, invented.store.root.parent, 2))
    assert few.count("| too few trainings |") == 3


def test_what_was_said_before_names_effects_that_there_are() -> None:
    for experiment in experiments.several("all", "shapes"):
        names = {effect.name for effect in experiment.effects}
        for line in paper.words("earlier", experiment.name):
            assert line["effect"] in names
            assert line["status"] in verdicts.SYMBOLS


def test_a_picture_has_a_dot_for_each_training_of_rows_and_effects(invented: Scores) -> None:
    figure = figures.of_target(invented, TABLE_3)
    left, right = figure.axes
    assert [len(axis.get_yticklabels()) for axis in (left, right)] == [4, 4]
    dots = [line for axis in (left, right) for line in axis.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [12, 12]
    by_training = results.rows(invented, TABLE_3).query("fold == 'mean' and metric == 'canet'").by_training
    assert [f"{x:.2f}" for x in dots[0].get_xdata()] == " ".join(by_training).split()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"a training", "mean, 95 % interval", "the paper's effect, on its own data"} < set(names)
    plt.close(figure)


def test_targets_are_not_run_incomplete_or_have_an_outcome(invented: Scores, tmp_path: Path) -> None:
    status = verdicts.overview(invented).set_index("target").status
    assert status["table5"] == status["table6"] == "not run"  # of which only a row of other targets is there
    assert status["fig4"] == "undecided"
    assert status["table3"] == "mixed"
    three = verdicts.overview(scores_in(tmp_path, range(3))).set_index("target")
    assert three.status["table3"] == "incomplete"
    assert "fold 3" in three.outcome["table3"]
    assert set(three.status[["table1", "table2", "fig3"]]) == {"not run"}


def test_a_notebook_opens_with_what_is_asked_and_what_came_out(invented: Scores) -> None:
    text = verdicts.opening(invented, TABLE_3)
    assert text.startswith("# Table 3: Effect of each component\n\nThe paper adds")
    assert "**On `shapes` at `tiny`: ± mixed.** PIM +0.00 [0.00, 0.00]; MSF" in text
    assert sentences.support_verdict(invented, TABLE_3) in text
    fig3 = verdicts.opening(invented, experiments.get("fig3"))
    assert "The way back adds +0.0" in fig3


def test_each_target_has_its_csvs_and_its_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: dict[str, Any] = {}
    monkeypatch.setattr(notebooks, "execute_stale", lambda _, more: wanted.update(more))
    one = scores_in(tmp_path)
    report.write_tables(one, [TABLE_3, experiments.get("fig4")])
    usual = {"benchmark": "shapes", "preset": "tiny", "seeds": 1}
    assert wanted == {"table3": usual | {"target": "table3"}, "fig4": usual | {"fold": 0, "pictures": True}}
    names = {"table3": ["", "_effects", "_printed", "_yardsticks"], "fig4": ["", "_effects", "_looks", "_yardsticks"]}
    expected = {f"{target}{suffix}.csv" for target, suffixes in names.items() for suffix in suffixes}
    assert {p.name for p in one.store.root.glob("*.csv")} == expected


def test_a_report_of_nothing_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPNET_RESULTS", str(tmp_path))
    with pytest.raises(DPNetError, match=r"no results to report: run `make reproduce-table3`"):
        report.publish_all(None, "quick")


def test_every_mark_is_filled_and_links_lead_to_the_results(tmp_path: Path) -> None:
    document = tmp_path / "docs" / "page.md"
    write(document, b"a <!-- lint:shapes-quick --> old <!-- end -->, <!-- glance:shapes-quick --><!-- end --> z")
    text = documents.filled(document)
    assert text.startswith(f"a <!-- lint:shapes-quick -->{len(paper.lint())}<!-- end -->, ")
    assert text.endswith("<!-- end --> z")
    folder = Path(os.path.relpath(io.ROOT / "results", document.parent)).as_posix()
    assert re.search(rf"\| Table 3 \| .* \| \[.\]\({folder}/shapes-quick/table3.ipynb\) \|", text)


def test_what_a_wrong_support_keeps_is_told_by_queries_pairs_and_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, table3 = scores_in(tmp_path), experiments.get("table3")
    lines = ["candidate,seed,PIM + MSF + CCM,wrong support", "2400 steps,0,60,30", "2400 steps,0,40,20"]
    lines += ["2400 steps,1,90,90", "absent 0.25,0,40,10"]  # what has a seed of its own is not compared
    write(scores.store.root / "recipe.csv", "\n".join(lines).encode())
    monkeypatch.setattr(documents, "KINDS", {"letters": ("a", "c")})
    told = {line.split(" | ")[0][2:]: line[:-2].split(" | ")[1:] for line in documents._explained(scores).split("\n")}
    assert told[documents.LACKING["2400 steps"]] == ["50.0", "25.0", "50%"]
    assert told[documents.LACKING["absent 0.25"]] == ["40.0", "10.0", "25%"]
    below = results.of_metric(results.baselines(scores, table3), table3).query("fold == 'mean'")
    assert told["all queries"][0] == f"{below.set_index('yardstick').miou[table3.best.label]:.1f}"
    pairs = details.pairs(scores, table3)
    alike = pairs["query of"].isin(["a", "c"]) & pairs["wrong support of"].isin(["a", "c"])
    assert told["pairs of two letters"][0] == f"{pairs[alike].right.mean():.1f}"
    assert told["other pairs of classes"][1] == f"{pairs[~alike].wrong.mean():.1f}"


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("wrong:shapes-quick", r"page\.md: unknown marker 'wrong': choose from glance, .*speed, faults"),
        ("speed:no-device", r"no-device\.md: missing: run `make speed`"),
        ("faults:no-device", r"no-device\.csv: missing: run `make test-faults`"),
        ("expect:pascal-paper", r"make reproduce-table3 BENCHMARK=pascal PRESET=paper"),
    ],
)
def test_a_mark_that_cannot_be_filled_is_named(mark: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "page.md", f"<!-- {mark} --><!-- end -->".encode())
    with pytest.raises(DPNetError, match=message):
        documents.filled(tmp_path / "page.md")
