"""A schedule is chosen without a look at what tables test."""

import dataclasses
from pathlib import Path

import choose
import choose_plot
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dpnet import episodes
from dpnet.companion import presets
from dpnet.data import shapes
from dpnet.data.index import Benchmark, Entry
from dpnet.io import ROOT, DPNetError, Places

CLASSES = ("a", "b", "c", "d", "e", "f", "g", "h")
FOLDS = ((1, 2), (3, 4), (5, 6), (7, 8))
BIG = 100 * 100 // 2
PAIRS = [(fold, other) for fold in range(4) for other in range(4) if fold != other]


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
    return Benchmark("invented", Path("nowhere"), CLASSES, FOLDS, FOLDS, entries, "digest")


@pytest.mark.parametrize(("fold", "other"), PAIRS)
def test_nothing_that_a_table_tests_is_scored(fold: int, other: int) -> None:
    whole = invented(6)
    apart = choose.validation(whole, fold, other)
    assert episodes.folds(apart) == [fold]
    scored = set(apart.tested[fold])
    assert scored == set(FOLDS[other])
    # No image that a table tests, and none on both sides.
    splits = {e.id: e.split for e in apart.entries}
    assert {name.split("-")[0]: split == "unused" for name, split in splits.items()} == {"train": False, "val": True}
    assert [e.id for e in apart.entries] == [e.id for e in whole.entries]  # whose stored features it reads
    # What is scored is not trained on, in its own images or in others; nor is what the fold tests.
    pools = episodes.training_pools(apart, fold, "background")
    assert set(pools) == set(range(1, 9)) - scored - set(FOLDS[fold])
    trained = {i for pool in pools.values() for i in pool}
    assert not [i for i in trained if scored & apart.entries[i].pixels.keys()]
    for episode in episodes.test_episodes(apart, fold, 1, 0, 50):
        assert episode.class_id in scored
        assert {apart.entries[i].split for i in (episode.query, *episode.supports)} == {"val"}
    assert apart.digest != whole.digest  # stored features are not mixed up
    # Half of them in training: what is scored is in its backgrounds, and never a target.
    half = choose.validation(whole, fold, other, half_trained=True)
    trained = {i for pool in episodes.training_pools(half, fold, "background").values() for i in pool}
    tested = {n for n, e in enumerate(half.entries) if e.split == "val"}
    assert len(tested) == (sum(e.split == "val" for e in apart.entries) + 1) // 2
    assert not tested & trained
    assert {c for n in tested for c in half.entries[n].pixels} >= scored
    assert not set(episodes.training_pools(half, fold, "background")) & (scored | set(FOLDS[fold]))
    dropped = {i for pool in episodes.training_pools(half, fold, "drop").values() for i in pool}
    assert not [i for i in dropped if (scored | set(FOLDS[fold])) & half.entries[i].pixels.keys()]
    assert len({half.root, half.digest, apart.root, apart.digest}) == 4
    changed = choose.validation(dataclasses.replace(whole, digest="another"), fold, other)
    assert changed.root != apart.root  # nor are runs, where images were changed


def test_no_class_of_the_other_scenes_is_one_of_the_benchmark() -> None:
    def looks(some: tuple[shapes.ShapeClass, ...]) -> set[tuple[object, ...]]:
        return {(c.silhouette, c.body, c.second, c.body_hue, c.second_hue) for c in some}

    assert len(looks(choose.OTHERS)) == len(choose.OTHERS) == len(shapes.SHAPES)
    for part in (slice(0, 3), slice(1, 5)):  # silhouettes with their textures, textures with their hues
        benchmark, others = ({look[part] for look in looks(some)} for some in (shapes.SHAPES, choose.OTHERS))
        assert not benchmark & others


def test_only_what_has_candidates_is_chosen_for() -> None:
    with pytest.raises(
        DPNetError, match=r"no candidates for shapes at mini: choose\.py has them for shapes at quick"
    ):
        choose.choose(presets.resolve("shapes", "mini"), Places(Path("data"), Path("results"), "cpu"))


def test_a_candidate_that_is_not_known_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choose.CANDIDATES, ("shapes", "tiny"), {"plain": {}})
    at = Places(tmp_path / "data", tmp_path / "results", "cpu")
    with pytest.raises(DPNetError, match="unknown candidates fast: choose from plain, or none"):
        choose.choose(presets.resolve("shapes", "tiny"), at, only="plain; fast")


def test_candidates_are_trained_once_and_scored_on_each_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = presets.resolve("shapes", "tiny")
    candidates = {"plain": {"steps": 10}, "faster": {"steps": 10, "learning_rate": 0.1, "warmup": 2, "clip": 1.0}}
    monkeypatch.setitem(choose.CANDIDATES, ("shapes", "tiny"), candidates)
    at = Places(tmp_path / "data", tmp_path / "results", "cpu")
    table = choose.choose(setting, at, jobs=1)
    assert table.groupby(["candidate", "scenes", "seed"]).size().to_dict() == {
        (candidate, f"fold {fold}", seed): 1 for candidate in candidates for fold in range(4) for seed in (0, 1)
    }
    rows = [column for column in table if column not in (*choose.KEYS, *choose.NOTES)]
    assert rows == [*(row.label for row in choose.TABLE3), choose.WRONG]
    assert table[rows].notna().all(axis=None)
    assert not (table[choose.WRONG] == table["PIM + MSF + CCM"]).all()
    file = at.results / "shapes-tiny" / choose.FILE
    written = file.read_bytes()
    assert file.with_suffix(".png").stat().st_size > 10_000
    start = pd.Timestamp.now().timestamp()
    choose.choose(setting, at, jobs=1)
    scores = list(at.data.rglob("scores.json"))
    assert len(scores) == 16
    assert all(one.stat().st_mtime < start for one in scores)  # nothing is trained again
    assert file.read_bytes() == written
    # On another machine what is in the file stays; but neither lines of other settings, nor half a seed.
    for one in scores:
        one.unlink()
    lines = pd.read_csv(file)
    lines.loc[(lines.candidate == "faster") & (lines.seed == 1) & (lines.scenes == "fold 2"), "run"] = "another"
    lines.to_csv(file, index=False)
    kept = choose.choose(setting, at, only="none")
    assert kept.to_csv() == table[(table.candidate == "plain") | (table.seed == 0)].to_csv()
    of_one = choose_plot.printed(kept).set_index("candidate").base
    assert "±" in of_one["plain"]
    assert "±" not in of_one["faster"]


def test_the_spread_is_that_of_trainings_on_the_same_scenes() -> None:
    """Scenes that differ widely add nothing; and the interval of the mean holds the truth as often as it says."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        lines = [
            (
                "c",
                f"fold {fold}",
                seed,
                "run",
                "cpu",
                1.0,
                *(20.0 * fold + row + 2 * rng.standard_normal() for row in range(4)),
            )
            for fold in range(4)
            for seed in range(2)
        ]
        names = [*choose.KEYS, *choose.NOTES, "base", "PIM", "PIM + MSF", "PIM + MSF + CCM"]
        mean, spread, half = choose_plot.moments(choose_plot.parts(pd.DataFrame(lines, columns=names)))
        inside += abs(mean.loc["c", "PIM"] - 31.0) <= half.loc["c", "PIM"]
    assert 0.92 <= inside / 300 <= 0.98
    assert spread.loc["c", "PIM"] < 6


@pytest.mark.parametrize("file", sorted(ROOT.glob("results/*/recipe.csv")), ids=lambda f: f.parent.name)
def test_the_committed_comparison_can_be_drawn(file: Path) -> None:
    setting = presets.resolve(*file.parent.name.rsplit("-", 1))
    table, candidates = pd.read_csv(file), choose.trainings(setting)
    assert set(table.candidate) <= set(candidates)
    figure = choose_plot.plot(table, candidates)
    assert all((np.diff(line.get_xdata()) > 0).all() for line in figure.axes[1].lines)  # steps ascend
    assert setting.training in candidates.values()
    plt.close(figure)
