"""Every number that the paper's tables print, and the paper's claims checked against them."""

import operator
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from dpnet.io import DPNetError

TABLES = {1: "pascal", 2: "coco", 3: "modules", 4: "pseudo_prototype", 5: "loss_weights", 6: "multiscale"}
ACROSS = {2: ("shot", r"miou_(\d)shot"), 5: ("lambda1_aux", r"lambda1_aux=(.+)")}  # keys that are columns there
FOLDS = ["fold0", "fold1", "fold2", "fold3"]
RELATIONS = {"equals": operator.eq, "above": operator.gt, "below": operator.lt}


def table(number: int | None) -> pd.DataFrame:
    """One of the paper's tables (1 to 6) as printed, a row per line and shot; the caller may change it."""
    if number is None or number not in TABLES:
        raise DPNetError(f"the paper has no table {number!r}; its tables: {', '.join(map(str, TABLES))}")
    return _read(f"table{number}_{TABLES[number]}.csv").copy()


def cells(number: int) -> pd.DataFrame:
    """A table with a line per cell: the keys of its row (as in `experiments`), fold ("0" to "3", "mean") and miou."""
    frame = table(number).drop(columns=["backbone", "params_m"], errors="ignore")
    keys = [c for c in frame if not c.startswith(("fold", "mean", "miou", "lambda1"))]
    tidy = frame.melt(keys, var_name="fold", value_name="miou")
    tidy["fold"] = tidy.fold.str.removeprefix("fold")
    if number in ACROSS:
        key, pattern = ACROSS[number]
        tidy[key] = tidy.fold.str.extract(pattern, expand=False).astype(float)
        tidy["fold"] = "mean"
    return tidy


def by_row(number: int | None, keys: list[str]) -> dict[tuple[Any, ...], float]:
    """A table's cells: (values of the keys, fold) -> mIoU; none of no table."""
    return cells(number).set_index([*keys, "fold"])["miou"].to_dict() if number else {}


def printed(number: int | None, tidy: pd.DataFrame) -> pd.DataFrame:
    """Cells of ours (as `cells` has them; for Tables 1 and 2 also backbone and params_m) in the table's own form."""
    columns = list(table(number).columns)
    names = ("fold" + tidy.fold).where(tidy.fold != "mean", "mean")
    if number in ACROSS:
        key, pattern = ACROSS[number]
        tidy = tidy[tidy.fold == "mean"]
        names = tidy[key].map({float(match[1]): c for c in columns if (match := re.fullmatch(pattern, c))})
    keys = [c for c in columns if c in tidy.columns]
    return across(tidy.assign(column=names), keys, "column", "miou").reindex(columns=columns)


def across(tidy: pd.DataFrame, keys: list[str], names: str, values: str) -> pd.DataFrame:
    """A row for each value of the keys, a column for each of the names, both in their first order."""
    table = tidy.set_index([*keys, names])[values].unstack(names, sort=False)
    return table.reset_index().rename_axis(columns=None)


def claims() -> pd.DataFrame:
    """What the paper claims in numbers (means, sentences, rows printed twice), checked against its tables."""
    columns = ["where", "text", "stated", "computed", "holds", "reading"]
    return pd.DataFrame([*_means(), *_comparisons()], columns=columns)


def lint() -> pd.DataFrame:
    """The claims that do not hold."""
    every = claims()
    return every[~every.holds].reset_index(drop=True)


def words(kind: str, target: str) -> list[dict[str, str]]:
    """What is told of a target: "targets" has its title and note, "effects" what is compared and claimed."""
    return _read(f"{kind}.csv", dtype=str, na_filter=False).query(f"target == '{target}'").to_dict("records")


@cache
def _read(name: str, **options: Any) -> pd.DataFrame:
    with (files("dpnet.companion") / "paper_tables" / name).open(encoding="utf-8") as file:
        return pd.read_csv(file, **options)


def _means() -> Iterator[tuple[Any, ...]]:
    for number in (1, 3, 4, 6):
        frame = table(number).drop(columns=["backbone", "params_m"], errors="ignore")
        excess = frame[FOLDS] - frame[FOLDS].median()
        for i, row in enumerate(frame.to_dict("records")):
            keys = [f"{key} {value}" for key, value in row.items() if key not in (*FOLDS, "mean")]
            # Tables print one decimal: tenths are whole numbers, and a tie is a tie.
            tenths, stated = sum(round(10 * row[fold]) for fold in FOLDS), round(10 * row["mean"])
            gap, reading = abs(tenths - 4 * stated), ""  # in fortieths: two of them are rounded either way
            if gap == 2:
                reading = "a tie: either rounding passes"
            elif 2 < gap <= 4:
                reading = "rounding step: the folds before they were rounded could give it"
            elif gap > 4:  # the suspect is the fold that lies furthest on the wrong side of its column
                fold = excess.loc[i].idxmin() if tenths < 4 * stated else excess.loc[i].idxmax()
                low, high = ((round(10 * row[fold]) + 4 * stated - tenths + half) / 10 for half in (-2, 2))
                reading = f"{fold} of {low:.1f} to {high:.1f} would fit"
            where = ", ".join([f"Table {number}", *keys])
            yield where, "mean of the folds", row["mean"], tenths / 40, gap <= 2, reading


def _comparisons() -> Iterator[tuple[Any, ...]]:
    for claim in _read("claims.csv", dtype=str, na_filter=False).itertuples():
        if not claim.table:
            yield "Fig. 5", claim.text, float(claim.stated), None, True, claim.reading
        for column in claim.column.split():
            stated, other = _largest(claim.table, claim.row, column), 0.0
            if claim.other_row:
                other = _largest(claim.other_table or claim.table, claim.other_row, claim.other_column or column)
            if claim.stated:  # the text's own number: a cell, or what a cell has more than another
                stated, other = float(claim.stated), round(stated - other, 2)
            holds = RELATIONS[claim.relation](stated, other)
            row = claim.row.replace(" == ", " ").replace(" and ", ", ").replace("'", "")
            where = f"Table {claim.table}, {row}, {column}"
            yield where, claim.text, stated, other, holds, "" if holds else claim.reading


def _largest(number: str, rows: str, columns: str) -> float:
    return float(table(int(number)).query(rows)[columns.split()].max(axis=None))
