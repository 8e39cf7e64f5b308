"""A recipe is chosen without a look at what tables test."""

import dataclasses
from pathlib import Path

import choose
import pandas as pd
import pytest

from dpnet import episodes
from dpnet.companion import presets
from dpnet.data.index import Benchmark, Entry
from dpnet.io import ROOT, DPNetError, Places

CLASSES = ("a", "b", "c", "d", "e", "f", "g", "h")
FOLDS = ((1, 2), (3, 4), (5, 6), (7, 8))
TESTED = ((), (3,), (5,), (7,))  # so 1, 2, 4, 6 and 8 are spare
BIG = 100 * 100 // 2


def invented(images: int) -> Benchmark:
    """`images` training and test images of each class; some show the next class too."""
    entries = tuple(
        Entry(
            f"{split}-{c}-{n}", split, "x.jpg", "x.png", (100, 100), {c: BIG} | ({c % 8 + 1: BIG} if n == 0 else {})
        )
        for split in ("train", "val")
        for c in range(1, 9)
        for n in range(images)
    )
    return Benchmark("invented", Path("nowhere"), CLASSES, FOLDS, TESTED, entries, "digest")


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_nothing_that_a_table_tests_is_scored(fold: int) -> None:
    whole = invented(6)
    apart = choose.validation(whole, fold)
    assert episodes.folds(apart) == [fold]
    scored = set(apart.tested[fold])
    assert scored == {1, 2, 4, 6, 8} - set(FOLDS[fold])
    # No image that a table tests, and none on both sides.
    splits = {e.id: e.split for e in apart.entries}
    assert all(name.startswith("train-") for name in splits)
    assert len(splits) == len(apart.entries) == 8 * 6
    # What is scored is not trained on, in its own images or in others.
    pools = episodes.training_pools(apart, fold, "background")
    assert set(pools) == set(range(1, 9)) - scored - set(FOLDS[fold])
    trained = {i for pool in pools.values() for i in pool}
    assert not [i for i in trained if scored & apart.entries[i].pixels.keys()]
    for episode in episodes.test_episodes(apart, fold, 1, 0, 50):
        assert episode.class_id in scored
        assert {apart.entries[i].split for i in (episode.query, *episode.supports)} == {"val"}
    assert apart.digest != whole.digest  # stored features are not mixed up
    changed = choose.validation(dataclasses.replace(whole, digest="another"), fold)
    assert changed.root != apart.root  # nor are runs, where images were changed


def test_too_few_classes_to_choose_on_are_refused() -> None:
    with pytest.raises(DPNetError, match=r"0 class.es. that no fold tests have 5 training images"):
        choose.validation(invented(3), 1)


def test_only_what_has_candidates_is_chosen_for() -> None:
    with pytest.raises(DPNetError, match=r"presets\.py has them for pascal-mini at quick"):
        choose.choose("shapes", "quick", Places(Path("data"), Path("results"), "cpu"))


def test_candidates_are_trained_once_and_scored_on_each_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = dataclasses.replace(presets.resolve("shapes", "tiny").training, steps=2)
    candidates = {"plain": few, "faster": dataclasses.replace(few, learning_rate=0.1)}
    monkeypatch.setitem(presets.CANDIDATES, ("shapes", "tiny"), candidates)
    monkeypatch.setattr(choose, "validation", lambda benchmark, fold: benchmark)  # all classes of shapes are tested
    at = Places(tmp_path / "data", tmp_path / "results", "cpu")
    table = choose.choose("shapes", "tiny", at)
    assert table.candidate.value_counts().to_dict() == {"plain": 2 * 5, "faster": 2 * 5}
    for _, rows in table.groupby(["candidate", "metric"]):
        assert rows[rows.fold == "mean"].miou.item() == pytest.approx(rows[rows.fold != "mean"].miou.mean())
    file = at.results / "shapes-tiny" / choose.FILE
    written = file.read_bytes()
    monkeypatch.setattr(choose, "train", None)
    choose.choose("shapes", "tiny", at)
    assert file.read_bytes() == written


@pytest.mark.parametrize(("name", "preset"), presets.CANDIDATES)
def test_the_preset_is_the_candidate_with_the_highest_mean(name: str, preset: str) -> None:
    recipes = pd.read_csv(ROOT / "results" / f"{name}-{preset}" / choose.FILE, dtype={"fold": str})
    means = recipes.query("fold == 'mean' and metric == 'canet'").set_index("candidate").miou
    candidates = presets.CANDIDATES[name, preset]
    assert set(means.index) == set(candidates)
    assert presets.resolve(name, preset).training == candidates[means.idxmax()]
