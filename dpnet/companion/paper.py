"""Every number that the paper's tables print, and the paper's claims checked against them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dpnet.io import DPNetError

if TYPE_CHECKING:
    import pandas as pd

TABLES = {1: "pascal", 2: "coco", 3: "modules", 4: "pseudo_prototype", 5: "loss_weights", 6: "multiscale"}
FOLDS = ["fold0", "fold1", "fold2", "fold3"]
RELATIONS = {"equals": operator.eq, "above": operator.gt, "below": operator.lt}
HALF, STEP = Decimal("0.05"), Decimal("0.1")  # the tables print one decimal


@dataclass(frozen=True)
class Claim:
    """What the paper states (the text quotes it where it has words), and what its tables give.

    `computed` is None where the paper prints nothing to check against; nothing contradicts it then: it holds.
    """

    where: str
    text: str
    stated: float
    computed: float | None
    holds: bool
    reading: str = ""


def table(number: int) -> pd.DataFrame:
    """Read one of the paper's tables, as printed, one row per line and shot.

    Arguments:
        number: 1 to 6.

    Returns:
        a fresh DataFrame.

    Raises:
        DPNetError: the paper has no such table.
    """
    if number not in TABLES:
        raise DPNetError(f"the paper has no table {number!r}; its tables: {', '.join(map(str, TABLES))}")
    return _read(f"table{number}_{TABLES[number]}.csv").copy()


def cells(number: int) -> pd.DataFrame:
    """One of the paper's tables, one row per cell.

    Arguments:
        number: 1 to 6.

    Returns:
        the columns that name a row (as in `experiments`), then fold ("0" to "3", or "mean") and miou.

    Raises:
        DPNetError: the paper has no such table.
    """
    frame = table(number).drop(columns=["backbone", "params_m"], errors="ignore")
    keys = [c for c in frame if not c.startswith(("fold", "mean", "miou", "lambda1"))]
    tidy = frame.melt(keys, var_name="column", value_name="miou")
    if number == 2:
        tidy["shot"] = tidy.column.str.extract(r"(\d)shot", expand=False).astype(int)
    if number == 5:
        tidy["lambda1_aux"] = tidy.column.str.removeprefix("lambda1_aux=").astype(float)
        tidy["lambda2_dis"] = tidy.lambda2_dis.astype(float)
    folded = tidy.column.str.startswith("fold")
    tidy["fold"] = tidy.column.str.removeprefix("fold").where(folded, "mean")
    return tidy.drop(columns="column")


def printed(number: int, tidy: pd.DataFrame) -> pd.DataFrame:
    """Numbers of ours in the columns that the paper's table has.

    Arguments:
        number: of the table, 1 to 6.
        tidy: the columns that name a row, then fold and miou; and for Table 1 and 2 backbone (and params_m).

    Returns:
        one row per line, its columns named and ordered as in `table`.
    """
    if number == 2:
        tidy = tidy[tidy.fold == "mean"].assign(column="miou_" + tidy.shot.astype(str) + "shot")
    elif number == 5:
        texts = {float(c.partition("=")[2]): c for c in table(5).columns[1:]}
        tidy = tidy[tidy.fold == "mean"].assign(column=tidy.lambda1_aux.map(texts))
    else:
        tidy = tidy.assign(column=("fold" + tidy.fold).where(tidy.fold != "mean", "mean"))
    columns = list(table(number).columns)
    keys = [c for c in columns if c in tidy.columns]
    lines: dict[tuple[Any, ...], dict[str, float]] = {}
    for cell in tidy.to_dict("records"):
        lines.setdefault(tuple(cell[k] for k in keys), {})[cell["column"]] = cell["miou"]
    rows = [dict(zip(keys, key, strict=True)) | line for key, line in lines.items()]
    return type(tidy)(rows).reindex(columns=columns)


def claims() -> list[Claim]:
    """What the paper claims in numbers (means, sentences, rows printed twice), each checked: it holds or not."""
    return [*_means(), *_comparisons()]


def lint() -> pd.DataFrame:
    """The claims that do not hold, one row each, one column per field of `Claim`."""
    import pandas as pd

    return pd.DataFrame([asdict(c) for c in claims() if not c.holds], columns=[f.name for f in fields(Claim)])


@cache
def _read(name: str, **options: Any) -> pd.DataFrame:
    import pandas as pd

    with (files("dpnet.companion") / "paper_tables" / name).open(encoding="utf-8") as file:
        frame: pd.DataFrame = pd.read_csv(file, **options)
    return frame


def _exact(value: Any) -> Decimal:
    return Decimal(str(value))  # by its printed digits: in binary, the tie 58.7 - 58.65 is more than 0.05


def _largest(number: str, rows: str, columns: str) -> Decimal:
    return _exact(table(int(number)).query(rows)[columns.split()].max(axis=None))


def _means() -> Iterator[Claim]:
    for number in (1, 3, 4, 6):
        frame = table(number).drop(columns=["backbone", "params_m"], errors="ignore")
        for row in frame.to_dict("records"):
            where = ", ".join(
                [f"Table {number}", *(f"{key} {row[key]}" for key in row if key not in (*FOLDS, "mean"))]
            )
            stated, mean = _exact(row["mean"]), sum(_exact(row[fold]) for fold in FOLDS) / Decimal(4)
            gap, reading = abs(mean - stated), ""
            if gap == HALF:
                reading = "a tie: either rounding passes"
            elif HALF < gap <= STEP:
                reading = "rounding step: the folds before they were rounded could give it"
            elif gap > STEP:  # the suspect is the fold that lies furthest on the wrong side of its column
                excess = {fold: row[fold] - frame[fold].median() for fold in FOLDS}
                fold = (min if mean < stated else max)(FOLDS, key=excess.__getitem__)
                low, high = (_exact(row[fold]) + 4 * (stated + half - mean) for half in (-HALF, HALF))
                reading = f"{fold} of {low:.1f} to {high:.1f} would fit"
            yield Claim(where, "mean of the folds", float(stated), float(mean), gap <= HALF, reading)


def _comparisons() -> Iterator[Claim]:
    for _, claim in _read("claims.csv", dtype=str, na_filter=False).iterrows():
        if not claim.table:
            yield Claim("Fig. 5", claim.text, float(claim.stated), None, True, claim.reading)
        for column in claim.column.split():
            stated, other = _largest(claim.table, claim.row, column), Decimal()
            if claim.other_row:
                other = _largest(claim.other_table or claim.table, claim.other_row, claim.other_column or column)
            if claim.stated:  # the text's own number: a cell, or what a cell has more than another
                stated, other = _exact(claim.stated), stated - other
            holds = RELATIONS[claim.relation](stated, other)
            row = claim.row.replace(" == ", " ").replace(" and ", ", ").replace("'", "")
            where = f"Table {claim.table}, {row}, {column}"
            yield Claim(where, claim.text, float(stated), float(other), holds, "" if holds else claim.reading)
