"""Who supports whom (invariant 7)."""

import dataclasses
from functools import partial

import pytest

from dpnet import episodes
from dpnet.data.index import Benchmark, least
from dpnet.io import DPNetError


@pytest.mark.parametrize("rule", ["drop", "background"])
def test_no_novel_class_is_ever_trained_on(rule: str, data: Benchmark) -> None:
    for fold, novel in enumerate(data.folds):
        pools = episodes.training_pools(data, fold, rule)
        assert not set(novel) & pools.keys()
        for step in range(20):
            for e in episodes.training_batch(data, pools, fold, 0, step, 4):
                assert e.query not in e.supports
                for image in (data.entries[i] for i in (e.query, *e.supports)):
                    assert e.class_id in image.pixels.keys() - set(novel)
                    assert rule == "background" or not set(novel) & image.pixels.keys()


def test_a_share_of_the_queries_may_lack_the_class(data: Benchmark) -> None:
    pools = episodes.training_pools(data, 1, "drop")
    batch = partial(episodes.training_batch, data, pools, 1, 0, size=4)
    usual, some = ([e for step in range(100) for e in batch(step, absent=a)] for a in (0.0, 0.25))
    lacks = [e.class_id not in data.entries[e.query].pixels for e in some]
    assert 0.18 < sum(lacks) / len(some) < 0.32
    for e in some:
        assert e.class_id in data.entries[e.supports[0]].pixels
        assert any(e.query in pool for pool in pools.values())  # no image with a novel class comes in
    assert not any(e.class_id not in data.entries[e.query].pixels for e in usual)


def test_a_test_scene_has_one_folds_classes(data: Benchmark) -> None:
    folds = [{(c - 1) // 5 for c in set(e.pixels) - {255}} for e in data.entries]
    assert all(len(of) == 1 for of, e in zip(folds, data.entries, strict=True) if e.split == "val")
    assert any(len(of) > 1 for of in folds)  # training mixes them


def test_lists_have_their_properties(data: Benchmark) -> None:
    listed = partial(episodes.test_episodes, data, 1)
    whole = listed(2, 0, 60)
    assert whole == listed(2, 0, 60) != listed(2, 1, 60)
    assert whole[:30] == listed(2, 0, 30)  # longer lists extend
    for e, short in zip(whole, listed(1, 0, 60), strict=True):
        assert (e.query, e.supports[:1]) == (short.query, short.supports)  # more shots extend
        assert len({e.query, *e.supports}) == 3
        assert e.class_id in data.tested[1]
        for entry in (data.entries[i] for i in (e.query, *e.supports)):
            assert entry.split == "val"
            assert entry.pixels[e.class_id] >= least(*entry.size)
        if e.wrong_class:
            assert e.wrong_class not in data.entries[e.query].pixels
            assert all(e.wrong_class in data.entries[i].pixels for i in e.wrong_supports)
            assert e.query not in e.wrong_supports
    assert any(e.wrong_class for e in whole)


def test_a_class_with_few_images_has_fewer_supports_and_is_named(data: Benchmark) -> None:
    few = episodes.scarce(data, 6)
    assert 0 < len(few) < 20
    for e in episodes.test_episodes(data, 0, shot=6, seed=0, count=40):
        assert len({e.query, *e.supports}) == 1 + len(e.supports)
        assert len(e.supports) == few.get(data.classes[e.class_id - 1], 6)


def test_what_cannot_be_drawn_is_named(data: Benchmark) -> None:
    others = tuple(e for e in data.entries if e.split == "train" or 1 not in e.pixels)
    alone = next(e for e in data.entries if e.split == "val" and e.pixels.get(1, 0) >= least(*e.size))
    single = dataclasses.replace(data, entries=(*others, alone))
    with pytest.raises(DPNetError, match=r"class '.*' has 1 val image\(s\), and an episode needs a query and a supp"):
        episodes.test_episodes(single, 0, shot=1, seed=0, count=1)
    with pytest.raises(DPNetError, match=r"no fold 7.*\[0, 1, 2, 3\]"):
        episodes.test_episodes(data, 7, shot=1, seed=0, count=1)
    with pytest.raises(DPNetError, match=r"fold 0: only 0 class\(es\) have two training images, and two are needed"):
        episodes.training_pools(dataclasses.replace(data, entries=()), 0, "drop")
