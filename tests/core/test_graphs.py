"""The training step on a GPU: nothing waits for it, and a graph does what its operations do one by one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import BASE, FULL, run
from torch._subclasses.fake_tensor import FakeTensorMode

from dpnet import backbones, episodes, evaluate, train
from dpnet.backbones import Backbone
from dpnet.config import Evaluation, Run, Variant
from dpnet.data.index import Benchmark
from dpnet.io import read_json

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
COHORT = [BASE, FULL, Variant(msf=False, pseudo="global"), Variant(dis_over="C'")]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_never_waits_for_the_device(
    optimizer: str, data: Benchmark, backbone: Backbone, tmp_path: Path
) -> None:
    """Tensors without content have nothing to wait for: an `item()`, or a shape that depends on values, fails."""
    runs = [run(variant, optimizer=optimizer, clip=1.0) for variant in COHORT]
    source = train.moved_images(data, backbone, runs[0].training, [])
    pools = episodes.training_pools(data, 0, "drop")
    _, batch = next(train.batches(source, data, pools, runs[0], 0))
    members = [train.begin(one, backbone.channels, tmp_path, "cpu") for one in runs]
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        losses = train.descend(members, backbone, *map(fake.from_tensor, batch))
        assert losses.shape == (len(COHORT), 3)
        with pytest.raises(Exception, match=r"item|scalar"):
            losses.sum().item()


def learned(
    make: Callable[..., Callable[..., torch.Tensor]], data: Benchmark, backbone: Backbone, runs: list[Run], at: Path
) -> np.ndarray:
    """Losses of some steps on a GPU, [steps, n, 3]."""
    members = [train.begin(one, backbone.channels, at, "cuda") for one in runs]
    pools = episodes.training_pools(data, 0, "drop")
    positions = sorted({i for pool in pools.values() for i in pool})
    source = train.SOURCES[runs[0].training.augment](data, backbone, runs[0].training, positions)
    work = make(members, backbone)
    for step, batch in train.batches(source, data, pools, runs[0], 0):
        if step == 3:
            torch.cuda.set_sync_debug_mode("error")
        train.advance(members, batch, step, work)
    torch.cuda.set_sync_debug_mode("default")
    return torch.stack([torch.stack(member.recent) for member in members], 1).cpu().numpy()


@on_gpu
@pytest.mark.parametrize("augment", ["flip", "geometric"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_graph_learns_what_its_operations_learn(
    augment: str, optimizer: str, data: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, whose draws differ at each step, a rate that changes, and gradients that are clipped."""
    monkeypatch.setattr(train.Member, "record", lambda member, losses: member.recent.append(losses))
    backbone = backbones.build("resnet50", None, torch.Generator().manual_seed(0)).to("cuda")
    how = {"augment": augment, "optimizer": optimizer, "precision": "fp32", "steps": 10, "warmup": 3, "clip": 1.0}
    rate = {"sgd": 0.05, "adamw": 3e-3}[optimizer]
    runs = [run(variant, **how, dropout=0.5, learning_rate=rate) for variant in COHORT]
    eager = learned(lambda members, net: partial(train.descend, members, net), data, backbone, runs, tmp_path)
    graph = learned(train.graphed, data, backbone, runs, tmp_path)
    np.testing.assert_allclose(graph, eager, rtol=2e-3, atol=1e-3)
    assert np.abs(np.diff(eager[..., 0], axis=0)).mean() > 0.01  # steps differ by more than what is allowed


@on_gpu
def test_a_gpu_gives_what_a_cpu_gives(data: Benchmark, tmp_path: Path) -> None:
    """Losses of the first steps, in bf16; and the pixels that a CPU's heads give on either."""
    curves, counts, heads = {}, {}, {}
    for device in ("cpu", "cuda"):
        how = {"precision": "bf16", "dropout": 0.0, "steps": 60, "learning_rate": 3e-3}
        folders = {run(variant, **how): tmp_path / device / variant.slug for variant in COHORT}
        backbone = backbones.build("efficientnet_lite0").to(device)
        trained = train.train(folders, data, backbone, device)
        curves[device] = np.array([read_json(folder / "history.json")[:10] for folder in folders.values()])
        heads = {one: head.to(device) for one, head in (heads or trained).items()}
        wanted = {one: [Evaluation(20), Evaluation(20, beta=0.5, branch="aux")] for one in heads}
        counted, _ = evaluate.evaluate(heads, evaluate.Scene(data, backbone, 65, 0, 0), wanted)
        counts[device] = np.stack([*counted.values()])
    np.testing.assert_allclose(curves["cuda"], curves["cpu"], rtol=0.05, atol=0.02)
    assert np.abs(counts["cpu"] - counts["cuda"]).sum() / 2 < 0.01 * counts["cpu"].sum()
