"""The paper's tables are what it prints, and its claims are checked from them, never from typed results."""

from collections.abc import Callable

import pandas as pd
import pytest

from dpnet.companion import experiments, paper
from dpnet.io import DPNetError

SHAPES = {1: (26, 9), 2: (9, 4), 3: (4, 8), 4: (4, 6), 5: (4, 5), 6: (4, 7)}
BROKEN = {  # (where, stated by the paper) -> a word of the reading
    ("Table 1, method PANet, shot 1", 48.1): "rounding step",
    ("Table 1, method PFENet, shot 1", 60.8): "rounding step",
    ("Table 1, method ASGNet, shot 5", 63.9): "rounding step",
    ("Table 1, method SCL(PFENet), shot 5", 62.9): "fold0 of 64.5",
    ("Table 1, method DPNet(PFENet), shot 5, mean", 66.2): "RePRI",
    ("Table 5, lambda2_dis 1.0, lambda1_aux=1.0", 57.7): "beta",
}


def change(monkeypatch: pytest.MonkeyPatch, number: int, row: str, column: str, value: float) -> None:
    """Let `paper.table` give one table with the cell of a row (a query) and a column changed."""
    read: Callable[[int], pd.DataFrame] = paper.table

    def table(asked: int) -> pd.DataFrame:
        frame = read(asked)
        if asked == number:
            frame.loc[frame.query(row).index, column] = value
        return frame

    monkeypatch.setattr(paper, "table", table)


def broken() -> set[tuple[str, str]]:
    return set(paper.lint()[["where", "text"]].itertuples(index=False, name=None))


@pytest.mark.parametrize(("number", "shape"), SHAPES.items())
def test_tables_have_every_printed_line(number: int, shape: tuple[int, int]) -> None:
    frame = paper.table(number)
    missing = frame.isna().sum()
    assert frame.shape == shape
    assert missing.drop("params_m", errors="ignore").sum() == 0
    assert missing.get("params_m", 0) == (6 if number == 1 else 0)  # both SCL and RePRI print a dash
    frame.insert(0, "own", 0)  # a caller cannot spoil the table
    assert paper.table(number).shape == shape


def test_unknown_table_names_the_known_ones() -> None:
    with pytest.raises(DPNetError, match="1, 2, 3, 4, 5, 6"):
        paper.table(7)


def test_lint_lists_the_contradictions_and_nothing_else() -> None:
    lint = paper.lint()
    assert not lint.holds.any()
    readings = lint.set_index(["where", "stated"]).reading
    assert set(readings.index) == set(BROKEN)
    assert all(word in readings[key] for key, word in BROKEN.items())
    computed = lint.set_index("where").computed
    assert computed["Table 1, method SCL(PFENet), shot 5"] == 60.35
    assert computed["Table 1, method PANet, shot 1"] == 48.175  # its folds give 48.2; the paper prints 48.1
    assert computed["Table 5, lambda2_dis 1.0, lambda1_aux=1.0"] == 58.0


def test_every_mean_is_checked_and_ties_pass() -> None:
    means = paper.claims().query("text == 'mean of the folds'")
    ties = means[means.reading.str.contains("tie")]
    assert len(means) == sum(SHAPES[number][0] for number in (1, 3, 4, 6))
    assert ties.holds.all()
    assert {*ties.stated} >= {62.7, 66.2}  # 62.75 down and 66.15 up, in one line of Table 1


def test_the_texts_numbers_are_the_tables() -> None:
    numbers = {"surpasses 3.3% and 1.9%": [3.3, 1.9], "improves the baseline of PFENet": [4.8, 5.5]}
    numbers |= {"improvement of performance by 1.7%": [1.7], "promotion by 2.0%": [2.0], "0.7% and 1.0%": [0.7, 1.0]}
    numbers |= {"mIoU of 62.7% and 66.2%": [62.7, 66.2], "mIoU of 37.2% and 42.9%": [37.2, 42.9]}
    every = paper.claims()
    for quote, stated in numbers.items():
        quoted = every[every.text.str.contains(quote, regex=False)]
        assert quoted.stated.tolist() == quoted.computed.tolist() == stated
        assert quoted.holds.all()


def test_what_the_tables_cannot_check_says_so_and_rows_printed_twice_agree() -> None:
    every = paper.claims()
    unchecked = every[every.computed.isna()]
    assert unchecked.stated.tolist() == [0.3, 0.6]  # Fig. 5 is a curve
    assert unchecked.reading.str.contains("not checkable").all()
    twice = ("Table 3 without", "the full", "DPNet(CANet) is")
    assert every.text.str.startswith(twice).sum() == 25


@pytest.mark.parametrize(
    ("number", "row", "column", "value", "text"),
    [
        (1, "method == 'CANet' and shot == 1", "fold0", 51.5, "mean of the folds"),
        (1, "method == 'PFENet' and shot == 5", "mean", 61.8, "4.9% and 4.3%"),
        (1, "method == 'RePRI' and shot == 5", "mean", 66.1, "only falls behind by RePRI"),
        (2, "method == 'DPNet'", "miou_5shot", 42.8, "5.5% in 5-shot"),
        (3, "msf == 1 and ccm == 0", "fold2", 57.1, "Table 3 without CCM"),
        (4, "setting == 'Cosine'", "mean", 58.0, "as shown in Table 4"),
        (5, "lambda2_dis == 0.5", "lambda1_aux=0", 55.7, "either Laux or Ldis"),
        (6, "shot == 5 and multiscale == 1", "fold1", 68.8, "with multi-scale inference"),
    ],
)
def test_a_changed_cell_breaks_its_claim(
    number: int, row: str, column: str, value: float, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = broken()
    change(monkeypatch, number, row, column, value)
    assert any(text in claim for _, claim in broken() - before)


def test_a_mended_table_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, 1, "method == 'SCL(PFENet)' and shot == 5", "fold0", 64.5)
    change(monkeypatch, 5, "lambda2_dis == 1.0", "lambda1_aux=1.0", 58.0)
    left = paper.lint()["where"].tolist()
    assert not [where for where in left if "SCL" in where or "Table 5" in where]
    assert len(left) == len(BROKEN) - 2


def test_a_mean_too_high_suspects_the_high_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, 4, "setting == 'Global'", "fold1", 86.6)
    lint = paper.lint().set_index("where")
    assert lint.reading["Table 4, setting Global"] == "fold1 of 66.2 to 66.6 would fit"


@pytest.mark.parametrize("number", range(1, 7))
def test_our_rows_and_columns_are_the_papers(number: int) -> None:
    experiment = experiments.get(f"table{number}")
    assert experiment.table == number
    cells, theirs = paper.cells(number), paper.table(number)
    means = cells.set_index([*experiment.keys, "fold"])["miou"]
    ours = [means.loc[(*row.key.values(), "mean")] for row in experiment.rows]
    columns = [c for c in theirs if c.startswith("lambda1")] if number == 5 else ["mean"]
    expected = {1: [58.7, 62.0, 62.7, 66.2], 2: [37.2, 42.9]}
    assert ours == (expected.get(number) or theirs[columns].to_numpy().ravel().tolist())
    frame = paper.printed(number, cells.assign(backbone="lite", params_m=1.0))
    numbers = [c for c in theirs if c.startswith(("fold", "mean", "miou", "lambda1"))]
    assert list(frame.columns) == list(theirs.columns)
    pd.testing.assert_frame_equal(frame[numbers], theirs[numbers], check_dtype=False)
