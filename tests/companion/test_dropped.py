"""What images of novel classes change: the same queries, with such images kept and dropped."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import choose
import dropped
import numpy as np
import pandas as pd
import pytest
from invented import scores_in

from dpnet.companion import results
from dpnet.companion.experiments import PAPER_METRIC
from dpnet.companion.presets import Setting
from dpnet.companion.results import MEAN
from dpnet.io import ROOT, Places, to_json


def test_only_what_differs_is_a_difference(tmp_path: Path) -> None:
    one, other = scores_in(tmp_path / "a", seeds=3), scores_in(tmp_path / "b", seeds=3, lost=0.6)
    table = dropped.table(one, other, {"2": 0.25})
    assert (table["class"] == "").tolist() == [True] * 5 + [False] * 4  # folds and mean, then tested classes
    assert (table.kept == table.dropped).all()
    assert table["images left out"].dropna().to_dict() == {2: 0.25}
    assert (table["kept, wrong support"] > table["dropped, wrong support"]).all()
    assert (table.kept > table.prototype).all()
    assert (table.loc[:4, ["difference", "low", "high"]] == 0).all(axis=None)
    assert table.loc[5:, ["difference", "low", "high"]].isna().all(axis=None)
    # Their queries differ from the second benchmark's, but the sign of a difference is that of dropped over kept.
    last = dropped.table(one, scores_in(tmp_path / "c", seeds=3, seed_of_counts=1), {}).iloc[4]
    assert np.isclose(last.difference, last.dropped - last.kept, atol=0.02)
    assert last.low < last.difference < last.high


def test_of_base_classes_each_training_stands_in_its_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ["fold 0, classes of fold 1", "fold 2, classes of fold 3"]
    monkeypatch.setattr(choose, "scenes", lambda *_, half_trained: dict.fromkeys(where if half_trained else []))

    def measure(setting: Setting, where: str, seed: int, *more: Any) -> Path:
        assert more[1:] == ([dropped.TABLE3.best], True)
        right = 10 * int(where[5]) + seed + 0.5 * (setting.training.novel == "drop")
        file = tmp_path / f"{right}.json"
        file.write_bytes(to_json({dropped.TABLE3.best.label: right, choose.WRONG: -right}))
        return file

    monkeypatch.setattr(choose, "measure", measure)
    with ThreadPoolExecutor(2) as pool:
        table = dropped.on_base_classes(Places(tmp_path, tmp_path, "cpu"), pool)
    right = [10 * fold + seed for fold in (0, 2) for seed in range(dropped.BASE_SEEDS)]
    assert table.kept.tolist() == right
    assert (table.dropped == table.kept + 0.5).all()
    assert (table["kept, wrong support"] == -table.kept).all()
    assert (table["dropped, wrong support"] == -table.dropped).all()


def test_the_committed_table_is_about_the_published_runs() -> None:
    kept = dropped.settings()[0]
    table = pd.read_csv(ROOT / "results" / kept.name / dropped.FILE)
    published = results.load(kept, ROOT / "results", dropped.SEEDS)
    for fold in (*map(str, published.folds), MEAN):
        (line,) = table[table["class"].isna() & (table.fold == fold)].to_dict("records")
        for column, support in zip(("kept", "kept, wrong support"), dropped.SUPPORTS, strict=True):
            selection = published.of_row(dropped.TABLE3.best, support)
            assert abs(line[column] - published.estimate([(1.0, selection)], fold, PAPER_METRIC).value) < 0.001
