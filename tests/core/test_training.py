"""Lockstep training: invariants 1, 7 and 9; the losses; both batch sources."""

import copy
from collections.abc import Callable
from pathlib import Path

import loops
import numpy as np
import pytest
import torch
from tiny import BASE, FULL, TRAINING, run
from torch.nn import functional as F

from dpnet import augment, episodes, io, train
from dpnet.backbones import Backbone
from dpnet.config import Run, Variant
from dpnet.data import cache
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError
from dpnet.model import Output, shared_counts

Trainer = Callable[..., dict[Run, Path]]


@pytest.fixture
def trained(data: Benchmark, backbone: Backbone, tmp_path: Path) -> Trainer:
    """Trains runs in folders under a name, and returns these."""

    def call(name: str, *runs: Run) -> dict[Run, Path]:
        folders = {one: tmp_path / name / one.id for one in runs}
        train.train(folders, data, backbone)
        return folders

    return call


def files(folders: dict[Run, Path]) -> dict[tuple[str, str], bytes]:
    """What trainings leave: run and file -> bytes."""
    return {(one.id, file.name): file.read_bytes() for one, folder in folders.items() for file in folder.iterdir()}


class Killed:
    """Stands for `train.losses`, once per variant and step, and is interrupted at one of its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.at, self.calls, self.losses = at, 0, train.losses
        monkeypatch.setattr(train, "losses", self)
        monkeypatch.setenv("DPNET_SAVE_EVERY", "0")

    def __call__(self, *arguments: object) -> object:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.losses(*arguments)  # type: ignore[arg-type]


# ---- invariants 1 and 9


def test_a_variant_in_a_cohort_is_the_variant_alone(trained: Trainer) -> None:
    runs = [run(BASE), run(FULL), run(Variant(msf=False, pseudo="global"))]
    state, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    together = files(trained("together", *runs))
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody touches the global generators
    assert np.array_equal(np.random.get_state()[1], legacy)  # type: ignore[index, arg-type]
    assert together == {key: value for one in runs for key, value in files(trained("alone", one)).items()}
    assert {name for _, name in together} == {"checkpoint.safetensors", "history.json"}
    assert len(set(together.values())) == 6


@pytest.mark.parametrize("augment", ["flip", "geometric"])
def test_killed_and_started_again_is_the_same(
    augment: str, trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a step, when one variant is ahead of the other; then one loses its newest state, and lags."""
    runs = [run(BASE, augment=augment), run(FULL, augment=augment)]
    whole = trained("whole", *runs)
    killed = Killed(monkeypatch, at=8)
    with pytest.raises(KeyboardInterrupt):
        trained("killed", *runs)
    first, second = ([file.name for file in io.states(tmp_path / "killed" / one.id)] for one in runs)
    assert first == second == ["state-00000002.pt", "state-00000003.pt"]  # of three, two stay
    (tmp_path / "killed" / runs[0].id / "state-00000003.pt").unlink()
    assert files(trained("killed", *runs)) == files(whole)
    assert killed.calls == 8 + 2 * TRAINING.steps - 2 - 3


@pytest.mark.parametrize(("torn", "step"), [(1, 3), (2, 0)])
def test_torn_states_leave_the_one_before_or_the_start(
    torn: int, step: int, data: Benchmark, trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints and whole states know their data."""
    whole = trained("whole", run(FULL))
    killed = Killed(monkeypatch, at=5)
    with pytest.raises(KeyboardInterrupt):
        trained("torn", run(FULL))
    folder, mark = tmp_path / "torn" / run(FULL).id, {data.digest[:16]}
    assert io.trained_on(folder) == io.trained_on(whole[run(FULL)]) == mark
    for state in io.states(folder)[-torn:]:
        state.write_bytes(state.read_bytes()[:1000])
    assert io.trained_on(folder) == (mark if step else set())
    assert files(trained("torn", run(FULL))) == files(whole)
    assert killed.calls == 5 + TRAINING.steps - step


def test_what_cannot_be_trained_is_named(trained: Trainer, tmp_path: Path) -> None:
    with pytest.raises(DPNetError, match="share benchmark, fold, seed and schedule"):
        trained("any", run(BASE), run(FULL, steps=7))
    with pytest.raises(DPNetError, match=r"fold0-seed0-diversity0.2-base.*not finite at step \d+.*learning rate"):
        trained("any", run(BASE, learning_rate=1e30))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_checkpoints_that_are_missing_or_corrupt_are_named(tmp_path: Path) -> None:
    with pytest.raises(DPNetError, match=r"checkpoint\.safetensors: missing: train it"):
        io.load_checkpoint(tmp_path)
    (tmp_path / io.CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(DPNetError, match=r"checkpoint\.safetensors: corrupt .*remove the folder"):
        io.load_checkpoint(tmp_path)


def test_it_learns(trained: Trainer) -> None:
    one = run(FULL, steps=60, learning_rate=3e-3)
    curve = np.array(io.read_json(trained("any", one)[one] / "history.json"))
    assert curve[-5:, 1].mean() < 0.8 * curve[:5, 1].mean()


@pytest.mark.parametrize("variant", [FULL, BASE, Variant(msf=False, pseudo="global"), Variant(msf_convs="separate")])
def test_a_step_is_the_plain_one_of_the_equations(
    variant: Variant, data: Benchmark, backbone: Backbone, tmp_path: Path
) -> None:
    """In fp64, but for the losses: every gradient to 1e-5 of the largest one."""
    one = run(variant, precision="fp32", dropout=0.0, steps=1000)
    pools = episodes.training_pools(data, 0, "drop")
    positions = sorted({i for pool in pools.values() for i in pool})
    source = train.stored_features(data, backbone, one.training, positions)
    _, batch = next(train.batches(source, data, pools, one, 0))
    batch = train.Batch(batch.raw_s.double(), batch.raw_q.double(), batch.masks.double(), batch.target)
    batch.target[:, :20, 30:] = 255
    member = train.begin(one, backbone.channels, tmp_path, "cpu")
    member.head.double()
    if member.head.interaction is not None:
        torch.nn.init.constant_(member.head.interaction.alpha, 0.7)
    plain = copy.deepcopy(member.head)
    train.advance([member], batch, 0, train.graphed([member], backbone))
    C = shared_counts(backbone, batch.raw_s, batch.raw_q, batch.masks, variant.pseudo).reshape(batch.masks.shape) > 0
    answer = loops.segment(plain, batch.raw_s[:, 0], batch.masks, batch.raw_q, C, variant.beta)
    loss = loops.loss(answer, batch.target, C)
    loss.backward()
    assert member.recent[0].sum().item() == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    tolerance = 1e-5 * max(gradient.abs().max().item() for gradient in expected.values())
    for name, parameter in member.head.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient, expected[name], atol=tolerance, rtol=0, msg=name)


# ---- losses (Eq. 9-11)


def test_segmentation_loss_is_the_cross_entropy_of_equation_9() -> None:
    logits, target = torch.randn(2, 2, 5, 5), torch.randint(0, 2, (2, 33, 33))
    target[:, :3] = 255
    output = Output(logits, -logits, *[torch.zeros(2, 1, 5, 5, dtype=torch.bool)] * 2, None)
    full = F.interpolate(logits, (33, 33), mode="bilinear", align_corners=True)
    for void, label in (("background", 0), ("ignore", 255)):
        y = target.where(target != 255, label)
        expected = [F.cross_entropy(x, y, ignore_index=255) for x in (full, -full)]
        L_seg, L_aux, L_dis = train.losses(output, target, Variant(void_in_loss=void))  # type: ignore[arg-type]
        torch.testing.assert_close([L_seg, L_aux], expected)
        assert L_dis == 0


@pytest.mark.parametrize("over", ["C", "C'"])
def test_discriminator_loss_is_equation_10(over: str) -> None:
    scores, candidates = torch.randn(2, 1, 5, 5), torch.rand(2, 1, 5, 5) < 0.5
    candidates[1] = False  # an episode without candidates contributes 0
    selected = candidates & (scores > 0)
    target = torch.randint(0, 2, (2, 33, 33))
    target[:, 0] = 255  # the first row of cells lies on void
    output = Output(torch.zeros(2, 2, 5, 5), torch.zeros(2, 2, 5, 5), candidates, selected, scores)
    cells = (candidates if over == "C" else selected)[0, 0, 1:]
    h, y = scores[0, 0, 1:][cells].sigmoid(), target[0, 8::8, ::8][cells]
    expected = -(y * h.log() + (1 - y) * (1 - h).log()).mean() / 2
    L_dis = train.losses(output, target, Variant(dis_over=over))[2]  # type: ignore[arg-type]
    torch.testing.assert_close(L_dis, expected)


# ---- batches


def test_targets_of_batches_show_base_classes_only(data: Benchmark, backbone: Backbone) -> None:
    """Pixel by pixel (invariant 7): what a batch calls foreground is never a novel object."""
    one = run(BASE, novel="background", steps=5)
    pools = episodes.training_pools(data, 0, "background")
    labels = cache.resized_labels(data, range(len(data.entries)), TRAINING.size)
    source = train.stored_features(data, backbone, one.training, [*labels])
    for step, batch in train.batches(source, data, pools, one, 0):
        for e, target in zip(episodes.training_batch(data, pools, 0, 0, step, 4), batch.target, strict=True):
            label = labels[e.query]
            expected = [torch.where(x == 255, 255, (x == e.class_id).long()) for x in (label, label.flip(1))]
            assert any(torch.equal(target, x) for x in expected)
            assert not {*label[expected[0] == 1].unique().tolist()} & set(data.folds[0])


def test_geometric_augmentation_moves_image_and_label_alike() -> None:
    labels = torch.zeros(8, 65, 65, dtype=torch.uint8)
    labels[:, 20:40, 25:50] = 3
    images = ((labels == 3) * 200).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    theta = torch.from_numpy(augment.motions(np.random.default_rng(0), 8)).float()
    moved, drawn = augment.geometric(images, labels, theta)
    assert drawn.unique().tolist() == [0, 3, 255]
    background, inside, outside = (moved.mean(1)[drawn == label].mean().item() for label in (0, 3, 255))
    assert background < 0.05
    assert inside > 0.7  # 200 / 255, less at the border
    assert outside == pytest.approx(0.5, abs=0.1)  # grey where nothing was
    assert len({int((d == 3).sum()) for d in drawn}) > 4  # each image on its own
