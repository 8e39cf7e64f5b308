"""Lockstep training and one-pass evaluation: invariants 1, 2, 3, 7 and 9."""

import dataclasses
import hashlib
import os
import shutil
import socket
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import loops as reference
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import dpnet
from dpnet import backbones, episodes, evaluate, io, parallel, train
from dpnet import data as benchmarks
from dpnet.companion import cycles, presets, results, runner
from dpnet.companion.store import COUNTS, Store
from dpnet.config import Baselines, Evaluation, Recipe, Run, Variant
from dpnet.data import cache
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.io import DPNetError, read_json
from dpnet.model import DPNet, Head, Output, hard_masks, shared_counts, soft_masks

RECIPE = Recipe(size=65, diversity=0.2, train=60, val=60, seed=1)
TRAINING = dataclasses.replace(presets.resolve("shapes", "tiny").training, steps=6, width=8, dropout=0.2)
BASE, FULL = Variant(pim=False, msf=False, pseudo="none"), Variant()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return benchmarks.prepare("shapes", tmp_path_factory.mktemp("data"), RECIPE)


def run(variant: Variant, **changes: object) -> Run:
    return Run("shapes", RECIPE, dataclasses.replace(TRAINING, **changes), fold=0, seed=0, variant=variant)


def weights(store: Store, one: Run) -> dict[str, torch.Tensor]:
    return train.load_checkpoint(store.folder(one) / "checkpoint.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- invariants 1, 2 and 9


def test_a_variant_in_a_cohort_is_the_variant_alone(data: Benchmark, tmp_path: Path) -> None:
    together, alone = Store(tmp_path / "together"), Store(tmp_path / "alone")
    runs = [run(BASE), run(FULL), run(Variant(msf=False, pseudo="global"))]
    train.train(runs, data, together, "cpu")
    for one in runs:
        train.train([one], data, alone, "cpu")
        assert same(weights(together, one), weights(alone, one))
        histories = [(store.folder(one) / "history.json").read_bytes() for store in (together, alone)]
        assert histories[0] == histories[1]
    assert not same(weights(together, runs[0]), weights(together, runs[1]))


def test_training_anew_forgets_the_scores_of_before(data: Benchmark, tmp_path: Path) -> None:
    store, one = Store(tmp_path), run(BASE)
    store.begin(one)
    store.finish(one, {"old": np.ones((1, 2, 3), int)}, {"old": np.ones(1, int)}, {"old": {}})
    train.train([one], data, store, "cpu")
    assert store.missing(one, ["old"]) == ["old"]
    assert not (store.folder(one) / COUNTS).exists()


def test_training_does_not_touch_the_global_generator(data: Benchmark, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    train.train([run(BASE)], data, Store(tmp_path), "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], legacy)


@pytest.mark.parametrize("augment", ["flip", "geometric"])
def test_killed_and_started_again_is_the_same(
    augment: str, data: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = Store(tmp_path / "straight"), Store(tmp_path / "broken")
    runs = [run(BASE, augment=augment), run(FULL, augment=augment)]
    train.train(runs, data, straight, "cpu")
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    update, calls = train._update, [0]

    def dying(*arguments: object) -> None:
        calls[0] += 1
        if calls[0] == 8:  # in the middle of a step: one variant is ahead of the other
            raise KeyboardInterrupt
        update(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "_update", dying)
    made: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train.train(runs, data, broken, "cpu", pace=made.append)
    assert made == [2, 4, 6]
    assert train._states(broken.folder(runs[0]))
    monkeypatch.setattr(train, "_update", update)
    train.train(runs, data, broken, "cpu", pace=made.append)
    assert made[-1] == 2 * (TRAINING.steps - 3)  # what was made before is not counted as if it took no time
    for one in runs:
        assert same(weights(straight, one), weights(broken, one))
        assert not train._states(broken.folder(one))


def test_a_variant_that_lags_behind_catches_up(data: Benchmark, tmp_path: Path) -> None:
    """States of different steps: the stream starts at the earlier one, and each joins at its own."""
    whole, mixed = Store(tmp_path / "whole"), Store(tmp_path / "mixed")
    runs = [run(BASE), run(FULL)]
    train.train(runs, data, whole, "cpu")
    member = train.begin(runs[0], 152, mixed, "cpu")
    pools = episodes.training_pools(data, 0, "drop")
    backbone = backbones.build(TRAINING.backbone)
    for step, batch in train.stream(data, backbone, runs[0], pools, "cpu", 0):
        if step == 4:
            break
        train._update(member, batch.raw_s, batch.raw_q, batch, torch.zeros(4, 1, 81, dtype=torch.long), step)
    train._save_state(member, mixed.folder(runs[0]), data.digest[:16])
    train.train(runs, data, mixed, "cpu")
    assert all(same(weights(whole, one), weights(mixed, one)) for one in runs)


EXACT = {"precision": "fp32", "optimizer": "sgd", "learning_rate": 0.05}


def one_of_two(rank: int, port: int, data: Benchmark, folder: Path, augment: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with parallel.team("cpu") as team:
        train.train([run(BASE, augment=augment, **EXACT), run(FULL, augment=augment, **EXACT)], data,
                    Store(folder), "cpu", team=team)  # fmt: skip
    # A thread of the group's that is left may abort the interpreter as it ends.
    names = {(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").glob("*")}
    assert not [name for name in names if "gloo" in name], names


@pytest.mark.parametrize("augment", ["flip", "geometric"])
def test_two_processes_train_what_one_does(augment: str, data: Benchmark, tmp_path: Path) -> None:
    """The same episodes, augmentation and dropout; only sums are in another order."""
    runs = [run(BASE, augment=augment, **EXACT), run(FULL, augment=augment, **EXACT)]
    train.train(runs, data, Store(tmp_path / "one"), "cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, data, tmp_path / "two", augment), nprocs=2)
    for trained in runs:
        one, two = (weights(Store(tmp_path / folder), trained) for folder in ("one", "two"))
        begun = train.build_head(trained, 152).state_dict()
        for name, value in one.items():
            moved = (value - begun[name]).abs().max()
            assert (value - two[name]).abs().max() <= 1e-3 * moved + 1e-7, name
        curves = [np.array(Store(tmp_path / f).history(trained)) for f in ("one", "two")]
        np.testing.assert_allclose(*curves, atol=2e-5)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(DPNetError, match="4 episodes cannot be shared by 3 processes"):
        parallel.Team(0, 3).share(4)


class Weighty(float):
    """A zero that claims to be more."""

    def __gt__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("loss", "part", "layer"),
    [("lambda_1", "aux_decoder", "aux_decoder.fuse.weight"), ("lambda_2", "comparison", "comparison.first.weight")],
)
def test_a_loss_without_weight_costs_no_gradient_and_changes_nothing_else(
    loss: str, part: str, layer: str, data: Benchmark, tmp_path: Path
) -> None:
    """What only that loss trains stays as it began; the rest is what full gradients would give."""
    without, fully = Store(tmp_path / "without"), Store(tmp_path / "fully")
    one, whole = (run(Variant(**{loss: weight})) for weight in (0.0, Weighty(0.0)))  # type: ignore[arg-type]
    train.train([one], data, without, "cpu")
    train.train([whole], data, fully, "cpu")
    begun = train.build_head(one, 152).state_dict()
    for name, value in weights(without, one).items():
        assert torch.equal(value, begun[name] if name.startswith(part) else weights(fully, one)[name]), name
    assert not torch.equal(weights(fully, one)[layer], begun[layer])  # decayed


def test_a_cohort_shares_everything_but_the_variant(data: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(DPNetError, match="share benchmark, fold, seed and schedule"):
        train.train([run(BASE), run(FULL, steps=7)], data, Store(tmp_path), "cpu")


def test_a_loss_that_is_not_finite_stops(data: Benchmark, tmp_path: Path) -> None:
    one = run(BASE, learning_rate=1e30)
    with pytest.raises(DPNetError, match=r"fold0-seed0-diversity0.2-base.*not finite at step \d+.*learning rate"):
        train.train([one], data, Store(tmp_path), "cpu")
    assert not (Store(tmp_path).folder(one) / "checkpoint.safetensors").exists()


def test_a_torn_state_leaves_the_one_before(data: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, torn = Store(tmp_path / "whole"), Store(tmp_path / "torn")
    train.train([run(FULL)], data, whole, "cpu")
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    update, steps = train._update, []

    def dying(*arguments: object) -> None:
        steps.append(arguments[-2])
        if len(steps) == 5:
            raise KeyboardInterrupt
        update(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "_update", dying)
    with pytest.raises(KeyboardInterrupt):
        train.train([run(FULL)], data, torn, "cpu")
    older, newer = train._states(torn.folder(run(FULL)))  # of four, two are kept
    newer.write_bytes(newer.read_bytes()[:1000])
    steps.clear()
    monkeypatch.setattr(train, "_update", lambda *a: (steps.append(a[-2]), update(*a)))
    train.train([run(FULL)], data, torn, "cpu")
    assert steps[0] == 3 == int(older.stem.split("-")[1])
    assert same(weights(whole, run(FULL)), weights(torn, run(FULL)))
    assert not train._states(torn.folder(run(FULL)))


def test_two_torn_states_begin_anew(data: Benchmark, tmp_path: Path) -> None:
    whole, torn = Store(tmp_path / "whole"), Store(tmp_path / "torn")
    train.train([run(BASE)], data, whole, "cpu")
    for step in (3, 4):
        (torn.begin(run(BASE)) / f"state-{step:08}.pt").write_bytes(b"PK torn")
    train.train([run(BASE)], data, torn, "cpu")
    assert same(weights(whole, run(BASE)), weights(torn, run(BASE)))


def test_a_torn_state_that_another_process_removed(
    data: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun each process finds the same torn state."""
    store = Store(tmp_path)
    torn = store.begin(run(BASE)) / "state-00000003.pt"
    torn.write_bytes(b"PK torn")
    load = torch.load

    def beaten(file: Path, **how: Any) -> Any:
        try:
            return load(file, **how)
        finally:
            file.unlink(missing_ok=True)

    monkeypatch.setattr(torch, "load", beaten)
    assert train.begin(run(BASE), 152, store, "cpu").step == 0


def test_it_learns(data: Benchmark, tmp_path: Path) -> None:
    one = run(FULL, steps=60, learning_rate=3e-3)
    train.train([one], data, Store(tmp_path), "cpu")
    curve = np.array(Store(tmp_path).history(one))
    assert curve[-5:, 1].mean() < 0.8 * curve[:5, 1].mean()


# ---- losses (Eq. 9-11)


def test_segmentation_loss_is_the_cross_entropy_of_equation_9() -> None:
    logits = torch.randn(2, 2, 5, 5)
    target = torch.randint(0, 2, (2, 33, 33))
    target[:, :3] = 255
    output = Output(logits, -logits, *[torch.zeros(2, 1, 5, 5, dtype=torch.bool)] * 2, None)
    full = F.interpolate(logits, (33, 33), mode="bilinear", align_corners=True)
    as_background, ignored = target.where(target != 255, 0), target
    L_seg, L_aux, L_dis = train.losses(output, target, Variant(void_in_loss="background"))
    torch.testing.assert_close(L_seg, F.cross_entropy(full, as_background))
    torch.testing.assert_close(L_aux, F.cross_entropy(-full, as_background))
    assert L_dis == 0
    L_seg, _, _ = train.losses(output, target, Variant())
    torch.testing.assert_close(L_seg, F.cross_entropy(full, ignored, ignore_index=255))


@pytest.mark.parametrize("over", ["C", "C'"])
def test_discriminator_loss_is_equation_10(over: str) -> None:
    scores = torch.randn(2, 1, 5, 5)
    candidates = torch.rand(2, 1, 5, 5) < 0.5
    candidates[1] = False  # an episode without candidates contributes 0
    selected = candidates & (scores > 0)
    target = torch.randint(0, 2, (2, 33, 33))
    target[:, 0] = 255  # the first row of cells lies on void
    output = Output(torch.zeros(2, 2, 5, 5), torch.zeros(2, 2, 5, 5), candidates, selected, scores)
    chosen, total, count = candidates if over == "C" else selected, 0.0, 0
    for row in range(1, 5):
        for column in range(5):
            if chosen[0, 0, row, column]:
                h, y = scores[0, 0, row, column].sigmoid(), target[0, 8 * row, 8 * column]
                total -= float(y * h.log() + (1 - y) * (1 - h).log())
                count += 1
    L_dis = train.losses(output, target, Variant(dis_over=over))[2]  # type: ignore[arg-type]
    assert L_dis.item() == pytest.approx(total / count / 2, rel=1e-5)


# ---- episodes (invariant 7)


def test_no_novel_pixel_is_ever_a_target(data: Benchmark) -> None:
    for fold in range(4):
        novel = set(data.folds[fold])
        for rule in ("drop", "background"):
            pools = episodes.training_pools(data, fold, rule)
            assert not novel & pools.keys()
            for step in range(20):
                for e in episodes.training_batch(data, pools, fold, 0, step, 4):
                    assert e.class_id not in novel
                    assert e.query not in e.supports
                    shown = set().union(*(data.entries[i].pixels for i in (e.query, *e.supports)))
                    assert rule == "background" or not novel & shown


def test_targets_of_the_stream_show_base_classes_only(data: Benchmark) -> None:
    """The stream itself, pixel by pixel: what it calls foreground is never a novel object."""
    one = run(BASE, novel="background", steps=5)
    pools = episodes.training_pools(data, 0, "background")
    labels = cache.resized_labels(data, range(len(data.entries)), TRAINING.size)
    for step, batch in train.stream(data, backbones.build(TRAINING.backbone), one, pools, "cpu", 0):
        for e, target in zip(episodes.training_batch(data, pools, 0, 0, step, 4), batch.target, strict=True):
            label = labels[e.query]
            flipped = label.flip(1)
            expected = [torch.where(x == 255, 255, (x == e.class_id).long()) for x in (label, flipped)]
            assert any(torch.equal(target, x) for x in expected)
            assert not {*label[expected[0] == 1].unique().tolist()} & set(data.folds[0])


def test_a_test_scene_shows_one_folds_classes(data: Benchmark) -> None:
    for entry in data.entries:
        shown = set(entry.pixels) - {255}
        in_one = any(shown <= set(fold) for fold in data.folds)
        assert in_one or entry.split == "train"
    assert any(len({(c - 1) // 5 for c in set(e.pixels) - {255}}) > 1 for e in data.entries)  # training mixes them


def test_lists_have_their_properties(data: Benchmark) -> None:
    listed = episodes.test_episodes(data, 1, shot=2, seed=0, count=60)
    assert listed == episodes.test_episodes(data, 1, shot=2, seed=0, count=60)
    assert listed != episodes.test_episodes(data, 1, shot=2, seed=1, count=60)
    assert listed[:30] == episodes.test_episodes(data, 1, shot=2, seed=0, count=30)  # longer lists extend
    for e, short in zip(listed, episodes.test_episodes(data, 1, shot=1, seed=0, count=60), strict=True):
        assert (e.query, e.supports[:1]) == (short.query, short.supports)  # more shots extend
        assert len({e.query, *e.supports}) == 3
        assert e.class_id in data.tested[1]
        for i in (e.query, *e.supports):
            assert data.entries[i].split == "val"
            assert data.entries[i].pixels[e.class_id] >= data.min_pixels(data.entries[i])
        if e.wrong_class:
            assert e.wrong_class not in data.entries[e.query].pixels
            assert all(e.wrong_class in data.entries[i].pixels for i in e.wrong_supports)
            assert e.query not in e.wrong_supports
    assert any(e.wrong_class for e in listed)


def test_a_class_with_few_images_has_fewer_supports_and_is_named(data: Benchmark) -> None:
    most = 6
    few = episodes.scarce(data, most)
    assert 0 < len(few) < 20
    for e in episodes.test_episodes(data, 0, shot=most, seed=0, count=40):
        assert len({e.query, *e.supports}) == 1 + len(e.supports)
        assert len(e.supports) == few.get(data.classes[e.class_id - 1], most)
    entries = tuple(e for e in data.entries if e.split == "train" or 1 not in e.pixels)
    alone = next(e for e in data.entries if e.split == "val" and e.pixels.get(1, 0) >= data.min_pixels(e))
    single = dataclasses.replace(data, entries=(*entries, alone))
    with pytest.raises(DPNetError, match=r"class '.*' has 1 val image\(s\), and an episode needs a query and a supp"):
        episodes.test_episodes(single, 0, shot=1, seed=0, count=1)
    with pytest.raises(DPNetError, match=r"no fold 7.*\[0, 1, 2, 3\]"):
        episodes.test_episodes(data, 7, shot=1, seed=0, count=1)


# ---- evaluation (invariant 3)


@pytest.fixture(scope="module")
def scene(data: Benchmark) -> evaluate.Scene:
    return evaluate.Scene(data, backbones.build("efficientnet_lite0"), "efficientnet_lite0", 65, 0, 0, "cpu")


@pytest.fixture(scope="module")
def heads(scene: evaluate.Scene) -> dict[str, Head]:
    """Untrained heads whose biases are set so that about half of each picture is foreground."""
    found = {run(v).id: train.build_head(run(v), scene.backbone.channels).eval() for v in (BASE, FULL)}
    listed = scene.episodes(1, 8)
    scene.load_labels(listed)
    raw_s, masks = scene.supports(listed, "right")
    raw_q = scene.raw([e.query for e in listed])
    for head in found.values():
        counts = shared_counts(scene.backbone, raw_s, raw_q, masks, head.variant.pseudo)
        with torch.no_grad():
            out = head(raw_s, masks, raw_q, counts, 0.2)
            for decoder, logits in ((head.decoder, out.logits), (head.aux_decoder, out.aux_logits)):
                decoder.classify.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
            if head.comparison is not None and out.scores is not None:
                head.comparison.second.bias -= out.scores.median()  # half of the cells pass at beta = 0.5
    return found


def test_one_pass_gives_what_separate_passes_give(heads: dict[str, Head], scene: evaluate.Scene) -> None:
    ways = [Evaluation(24, beta=b) for b in (0.0, 0.2, 0.5)]
    ways += [Evaluation(24, scales=(0.7, 1.0, 1.3)), Evaluation(24, branch="aux"), Evaluation(24, shot=6)]
    ways += [Evaluation(24, support="wrong")]
    whole, _ = evaluate.evaluate(heads, scene, TRAINING, dict.fromkeys(heads, ways))
    for name, head in heads.items():
        for way in ways:
            alone, lists = evaluate.evaluate({name: head}, scene, TRAINING, {name: [way]})
            assert np.array_equal(whole[name][way.id], alone[name][way.id])
            assert whole[name][way.id].shape == (len(lists[way.id]), 2, 3)
    assert len({len(e.supports) for e in scene.episodes(6, 24)}) > 1  # batches of unlike episodes, back in order
    unlike = {name: [ways[i % len(ways)]] for i, name in enumerate(heads)}
    apart, _ = evaluate.evaluate(heads, scene, TRAINING, unlike)  # heads that are scored in different ways
    for name, (way,) in unlike.items():
        assert apart[name].keys() == {way.id}
        assert np.array_equal(apart[name][way.id], whole[name][way.id])
    full = whole[next(n for n in heads if "ccm" in n)]
    assert not np.array_equal(full[ways[0].id], full[ways[2].id])  # beta matters, or the test shows nothing
    assert not np.array_equal(full[ways[1].id], full[ways[4].id])
    answered = [bool(e.wrong_class) for e in scene.episodes(1, 24)]
    assert not np.array_equal(full[ways[1].id][answered], full[ways[6].id])  # another support, another answer


@pytest.mark.parametrize("shot", [1, 6])
@pytest.mark.parametrize("branch", ["main", "aux"])
def test_the_pass_equals_the_fields_loop(
    heads: dict[str, Head], scene: evaluate.Scene, data: Benchmark, shot: int, branch: Literal["main", "aux"]
) -> None:
    """No banks, no batches, no shared work: one episode, one threshold and one file at a time, in fp32."""
    name = next(n for n in heads if "ccm" in n)
    betas = [0.0, 0.2, 0.5]
    ways = [Evaluation(12, shot=shot, beta=beta, branch=branch) for beta in betas]
    exact = dataclasses.replace(TRAINING, precision="fp32")
    counted = evaluate.evaluate({name: heads[name]}, scene, exact, {name: ways})[0][name]
    network = DPNet(scene.backbone, width=8, dilations=TRAINING.dilations).eval()
    network.head = heads[name]
    plain = reference.score_one_by_one(network, data, scene.episodes(shot, 12), 65, betas, branch)
    for found, way in zip(plain, ways, strict=True):
        assert np.abs(found - counted[way.id]).sum() < 24  # features kept in half precision turn a pixel or two


def test_yardsticks_lie_where_they_must(scene: evaluate.Scene, data: Benchmark) -> None:
    wanted = Baselines("shapes", RECIPE, 0, 0, "efficientnet_lite0", 65, 24)
    counts, lists = evaluate.measure_yardsticks(scene, wanted)
    assert set(counts) == set(wanted.names) == set(wanted.measured)
    more = dataclasses.replace(wanted, shot=5)
    assert set(wanted.names) - set(more.measured) == {"matches-cosine", "matches-cycle"}  # of one support each
    hit = counts["objects"][:, 1, 1]
    missed = counts["objects"][:, 0, 1]
    assert (missed == 0).all()  # all objects hold the class's own
    assert (hit > 0).all()
    score = evaluate.summary(counts, lists, data)
    assert score["ceiling"]["pfenet"] > score["objects"]["pfenet"] > 0  # type: ignore[operator]
    assert score["prototype"]["pfenet"] > score["prototype-wrong"]["pfenet"]  # type: ignore[operator]


def test_your_own_image_is_segmented_as_in_the_evaluation(data: Benchmark, tmp_path: Path) -> None:
    store, one = Store(tmp_path), run(FULL)
    train.train([one], data, store, "cpu")
    (query, support), class_id = [data.entries[i] for i in data.images_of(7, "val")[:2]], 7
    mask = (data.label(support) == class_id).astype(np.uint8)
    paths = data.path(query.image), [data.path(support.image)]
    found, probability = dpnet.segment(paths[0], paths[1], [mask], store.folder(one))
    again, _ = dpnet.segment(data.image(query), [data.image(support)], [Image.fromarray(mask * 9)], store.folder(one))
    assert found.shape == probability.shape == query.size
    assert np.array_equal(found, again)
    assert np.array_equal(found == 1, probability > 0.5)
    scene = evaluate.Scene(data, backbones.build("efficientnet_lite0"), "efficientnet_lite0", 65, 1, 0, "cpu")
    head = train.build_head(one, 152)
    head.load_state_dict(weights(store, one))
    episode = Episode(class_id, data.entries.index(query), (data.entries.index(support),))
    exact = dataclasses.replace(TRAINING, precision="fp32")
    expected = evaluate.predictions(head.eval(), scene, exact, [episode], beta=0.2)[0][1].numpy()
    assert (found != expected).mean() < 0.02  # there the features are kept in fp16


def test_features_are_kept_and_right(data: Benchmark) -> None:
    backbone = backbones.build("efficientnet_lite0")
    bank = cache.kept(data, backbone, "efficientnet_lite0", 65, "train", mirror=True)
    file = next((data.root / "features").glob("*train-2*.npy"))
    before = file.stat().st_mtime_ns
    cache.kept(data, backbone, "efficientnet_lite0", 65, "train", mirror=True)
    assert file.stat().st_mtime_ns == before
    position = next(i for i, e in enumerate(data.entries) if e.split == "train")
    pixels = cache.resized_images(data, [position], 65)
    with torch.no_grad():
        expected = torch.cat([backbone(pixels), backbone(pixels.flip(3))])
    found = bank([position, position], np.array([False, True]))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-2)


def test_features_too_many_to_keep_are_made_as_they_are_asked_for(
    data: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones.build("efficientnet_lite0")
    bank = cache.kept(data, backbone, "efficientnet_lite0", 65, "train", mirror=True)
    asked, mirrored = [i for i, e in enumerate(data.entries) if e.split == "train"][::2], np.arange(30) % 3 == 0
    before = {f.name for f in (data.root / "features").glob("*")}
    monkeypatch.setattr(cache, "LARGEST", bank.data.nbytes - 1)
    fresh = cache.kept(data, backbone, "efficientnet_lite0", 65, "train", mirror=True)
    monkeypatch.setattr(cache, "_kept", None)
    again = [*asked, asked[0]], np.append(mirrored, True)
    torch.testing.assert_close(fresh(*again), bank(*again), rtol=2e-3, atol=1e-3)  # batches of other images
    assert {f.name for f in (data.root / "features").glob("*")} == before


def test_features_without_room_are_refused_before_they_are_made(
    data: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones.build("efficientnet_lite0")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: mock.Mock(free=1_000_000))
    with pytest.raises(DPNetError, match=r"features of val images take 0\.00\d GB, and 0\.001 GB are free.*DATA="):
        cache.kept(data, backbone, "efficientnet_lite0", 105, "val", mirror=False)


def test_features_of_a_gpu_have_a_name_of_their_own(data: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the name is what it always was."""
    found: list[Path] = []
    monkeypatch.setattr(cache, "_kept", lambda file, *_: found.append(file))
    for device in ("cpu", "meta"):
        cache.kept(data, backbones.build("efficientnet_lite0").to(device), "lite", 65, "val", mirror=False)
    sizes = [data.path(e.image).stat().st_size for e in data.entries if e.split == "val"]
    key = hashlib.sha256(f"{data.digest} {sizes} lite {torch.__version__}".encode()).hexdigest()[:8]
    cpu, other = (file.name for file in found)
    assert cpu == f"lite-65px-val-1-{key}.npy" != other


def test_features_are_not_rounded_to_tf32(data: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, backbone, seen = torch.backends.cudnn, backbones.build("efficientnet_lite0"), []

    def settings() -> tuple[bool, ...]:
        return cudnn.allow_tf32, cudnn.enabled, cudnn.benchmark, cudnn.deterministic

    before, encode = settings(), backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda x: (seen.append(settings()), encode(x))[1])
    cache.kept(data, backbone, "efficientnet_lite0", 33, "val", mirror=False)
    assert {*seen} == {(False, *before[1:])}
    assert settings() == before


def test_geometric_augmentation_moves_image_and_label_alike() -> None:
    from dpnet import augment

    rng = np.random.default_rng(0)
    labels = torch.zeros(8, 65, 65, dtype=torch.uint8)
    labels[:, 20:40, 25:50] = 3
    images = ((labels == 3) * 200).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    moved, marked = augment.geometric(images, labels, augment.motions(rng, 8))
    assert set(marked.unique().tolist()) <= {0, 3, 255}
    inside = (marked == 3)[:, None].expand_as(moved)
    assert moved[inside].mean() > 0.7  # 200 / 255, less at the border
    assert moved[(marked == 0)[:, None].expand_as(moved)].mean() < 0.05
    assert len({int((m == 3).sum()) for m in marked}) > 4  # each image on its own
    torch.testing.assert_close(
        moved[(marked == 255)[:, None].expand_as(moved)].mean(), torch.tensor(0.5), atol=0.1, rtol=0
    )


def test_episode_is_hashable() -> None:
    assert len({Episode(1, 2, (3,)), Episode(1, 2, (3,))}) == 1


# ---- Fig. 3


def test_cycles_are_what_they_say(scene: evaluate.Scene, data: Benchmark) -> None:
    listed = scene.episodes(1, 24)
    success, failure = cycles.find(data, scene.backbone, 65, listed)
    assert success.episode == failure.episode
    episode = listed[success.episode]
    label = cache.resized_labels(data, [episode.supports[0]], 65)[episode.supports[0]]
    soft = soft_masks(cache.binary(label, episode.class_id)[None, None], success.forward.shape)
    foreground = hard_masks(soft)[0, 0].reshape(success.forward.shape)
    for cycle in (success, failure):
        S_1, Q_1, S_2 = cycle.cells
        assert foreground[S_1]
        assert bool(foreground[S_2]) == cycle.succeeds
        assert np.unravel_index(cycle.forward.argmax(), cycle.forward.shape) == Q_1
        assert np.unravel_index(cycle.backward.argmax(), cycle.backward.shape) == S_2
        assert cycle.forward[Q_1] == pytest.approx(cycle.backward[S_1], abs=1e-6)  # one affinity, read both ways
        query = data.label(data.entries[episode.query])
        under = query[tuple(round(c * 64 / 8) for c in Q_1)]
        assert cycle.lands == {255: "void", episode.class_id: "object"}.get(int(under), "elsewhere")


def test_matches_are_counted_on_the_grid(scene: evaluate.Scene) -> None:
    """The yardsticks behind Fig. 3 against a plain loop; the cycle keeps a part of what the cosine reaches."""
    wanted = Baselines("shapes", RECIPE, 0, 0, "efficientnet_lite0", 65, 8, names=("matches-cosine", "matches-cycle"))
    counts, lists = evaluate.measure_yardsticks(scene, wanted)
    for row, e in zip(counts["matches-cycle"], lists["matches-cycle"], strict=True):
        F_s, F_q = scene.backbone.comparison(scene.raw([e.supports[0], e.query])).numpy()
        y_s = hard_masks(scene.supports([e], "right")[1])[0, 0].numpy().astype(int)
        C, _ = reference.confidence_set(F_s, F_q, y_s)
        truth = scene.target(e)[::8, ::8].flatten()  # cells lie on pixels 0, 8, …
        expected = np.zeros((2, 3), int)
        for cell, label in enumerate(truth.tolist()):
            expected[int(cell in C), {0: 0, 1: 1, 255: 2}[label]] += 1
        assert row.tolist() == expected.tolist()
    assert counts["matches-cycle"][:, 1].sum() < counts["matches-cosine"][:, 1].sum()


# ---- cohorts


def own_images(folder: Path, size: int) -> Benchmark:
    """20 images of four classes, each a square of `size` pixels, prepared as the benchmark `folder`."""
    for n in range(20):
        rng = np.random.default_rng([n, size])
        label = np.zeros((65, 65), np.uint8)
        for class_id in range(1, 5):
            row, column = rng.integers(0, 32 - size, 2) + 32 * np.array(divmod(class_id - 1, 2))
            label[row : row + size, column : column + size] = class_id
        image = rng.integers(0, 60, (65, 65, 3), dtype=np.uint8) + 40 * label[..., None]
        for kind, pixels in (("images", image), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{n}.png")
    (folder / "names.txt").write_text("a\nb\nc\nd\n")
    return benchmarks.prepare_folder(folder / "images", folder / "labels", folder / "names.txt", io.places().data)


def test_what_was_made_on_other_data_is_not_carried_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed training and an unscored head of other data are named; yardsticks are measured anew."""
    for variable, value in (("DATA", tmp_path / "data"), ("RESULTS", tmp_path / "results"), ("SAVE_EVERY", "0")):
        monkeypatch.setenv(f"DPNET_{variable}", str(value))
    cohort = runner.Cohort("table3", "folder", "tiny", 0, 0, only="base")
    (one,), store = cohort.runs, cohort.store
    folder, update = store.folder(one), train._update

    def dying(*arguments: Any) -> None:
        if arguments[5] == 2:
            raise KeyboardInterrupt
        update(*arguments)

    def refused() -> None:
        before = {f: f.read_bytes() for f in folder.iterdir()}
        with pytest.raises(DPNetError, match=rf"{one.id}: trained or scored on other data.*bring back.*RESULTS="):
            runner.run_cohort(cohort)
        assert before == {f: f.read_bytes() for f in folder.iterdir()}

    own_images(tmp_path / "A", 16)
    monkeypatch.setattr(train, "_update", dying)
    with pytest.raises(KeyboardInterrupt):
        runner.run_cohort(cohort)
    monkeypatch.setattr(train, "_update", update)
    assert train._states(folder)
    own_images(tmp_path / "B", 24)
    refused()
    first = own_images(tmp_path / "A", 16)
    runner.run_cohort(cohort)  # it goes on where it belongs
    assert cohort.complete(first.digest[:16])
    for name in ("metrics.json", COUNTS):
        (folder / name).unlink()
    other = own_images(tmp_path / "B", 24)
    refused()
    shutil.rmtree(folder)
    runner.run_cohort(cohort)
    assert cohort.complete(other.digest[:16])
    assert not cohort.complete(first.digest[:16])
    for thing in (one, *cohort.yardsticks):
        assert {about["data"] for about in store.metrics(thing)["evaluations"].values()} == {other.digest[:16]}
        for name in store.metrics(thing)["evaluations"]:
            store.counts(thing, name)  # whole, and its own


def test_killed_before_the_examples_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says that a run is finished is written last, so the second call makes what is missing."""
    for variable in ("DATA", "RESULTS"):
        monkeypatch.setenv(f"DPNET_{variable}", str(tmp_path / variable))
    cohort = runner.Cohort("fig4", "shapes", "tiny", 0, 0)
    run, keep = cohort.pictured, runner._keep_examples

    def dying(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_keep_examples", dying)
    with pytest.raises(KeyboardInterrupt):
        runner.run_cohort(cohort)
    monkeypatch.setattr(runner, "_keep_examples", keep)
    runner.run_cohort(cohort)
    aux, main = (Evaluation(40, branch=branch).id for branch in ("aux", "main"))
    (before, classes), (after, _) = (results.overlaps(cohort.store, run, name) for name in (aux, main))
    shown = {episode for _, _, episode in results.chosen_looks(before, after, classes)}
    assert runner.examples(cohort, run).keys() == shown | {classes.tolist().index(c) for c in set(classes)}


def test_the_papers_schedule_starts_is_measured_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PASCAL, fold 0, ResNet-50 at 321² and 297,650 steps: killed after the first two, planned, taken up again."""
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    ids = np.arange(1, 21, dtype=np.uint8).reshape(4, 5).repeat(12, 0).repeat(12, 1)  # every class in every image
    for n in range(8):
        noise = np.random.default_rng(n).integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(voc / "JPEGImages" / f"{n}.jpg")
        Image.fromarray(np.roll(ids, n, 1)).save(voc / "SegmentationClassAug" / f"{n}.png")
    for name, listed in (("train", (0, 1)), ("train_noval", (2, 3)), ("val", (4, 5, 6, 7))):
        (voc / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{n}\n" for n in listed))
    for variable, value in (("DATA", tmp_path), ("RESULTS", tmp_path / "results"), ("SAVE_EVERY", "0")):
        monkeypatch.setenv(f"DPNET_{variable}", str(value))
    random = backbones.build("resnet50", None, torch.Generator().manual_seed(0))  # its weights are no part of this
    monkeypatch.setattr(backbones, "build", lambda name: random)
    update, steps = train._update, []

    def dying(*arguments: Any) -> None:
        if len(steps) in (2, 4):
            steps.append(-1)
            raise KeyboardInterrupt
        steps.append(arguments[5])
        update(*arguments)

    monkeypatch.setattr(train, "_update", dying)
    cohort = runner.Cohort("table3", "pascal", "paper", 0, 0, only="base")
    assert "unknown" in runner.expected([cohort], "cpu")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            runner.run_cohort(cohort)
    assert steps == [0, 1, -1, 2, -1]
    assert [state.name for state in train._states(cohort.store.folder(cohort.runs[0]))][-1] == "state-00000003.pt"
    rate = read_json(cohort.store.root / "throughput.json")["cpu"]["seconds per step and head"]
    assert f"about {297_650 * rate / 3600:,.0f} h on cpu to train" in runner.expected([cohort], "cpu")
    costs = runner.costs("table1+table3+fig5", benchmarks.load("pascal", tmp_path), "paper", 1, "cpu")
    assert costs.heads.tolist() == [4, 12, 4]
    assert costs.iloc[1]["training on cpu"] == f"{12 * 297_650 * rate / 3600:,.0f} h"
    assert set(costs["scoring on cpu"]) == {"?"}
