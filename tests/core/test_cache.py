"""Features and pixels on disk: right, made once, refused without room, and not made where they are too many."""

import hashlib
import shutil
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch.backends import cudnn

from dpnet import backbones
from dpnet.backbones import Backbone
from dpnet.data import cache
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError


def bank(data: Benchmark, backbone: Backbone, split: str = "train", size: int = 65) -> cache.FeatureBank:
    encode, key, channels = backbone.encode_exactly, backbone.key, backbone.channels
    return cache.features(data, split, size, encode, key, channels, mirror=split == "train")


def test_random_weights_have_features_of_their_own() -> None:
    drawn = [backbones.build("efficientnet_lite0", None, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    first, same, another = (backbone.key for backbone in drawn)
    assert first == same
    assert len({first, another, backbones.build("efficientnet_lite0").key}) == 3


def test_features_are_right_and_made_once(
    data: Benchmark, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = bank(data, backbone)
    (file,) = (data.root / "features").glob("*train-2*.npy")
    before = file.stat().st_mtime_ns
    bank(data, backbone)
    assert file.stat().st_mtime_ns == before
    positions = [*stored.row_of][::2]
    asked = [*positions, positions[0]], np.append(np.arange(30) % 3 == 0, True)
    images = cache.resized_images(data, asked[0], 65)
    images[asked[1]] = images[asked[1]].flip(3)
    rows = stored(*asked)
    torch.testing.assert_close(rows, backbone.encode_exactly(images), rtol=2e-3, atol=2e-2)
    # Too many to store: made as they are asked for.
    assert stored.data is not None
    monkeypatch.setattr(cache, "LARGEST", stored.data.nbytes - 1)
    monkeypatch.setattr(cache, "_stored", None)
    torch.testing.assert_close(bank(data, backbone)(*asked), rows, rtol=2e-3, atol=1e-3)  # batches of other images


def test_a_part_of_a_benchmark_reads_the_features_of_the_whole(data: Benchmark, backbone: Backbone) -> None:
    splits = ("unused", "val", "train")  # of what is "train" in the whole: a third is scored, the rest trained on
    entries = tuple(
        replace(e, split=splits[(e.split == "train") * (1 + (i % 3 > 0))]) for i, e in enumerate(data.entries)
    )
    part = replace(data, root=data.root / "nowhere", entries=entries, digest="another", part_of=(data, "train"))
    for split in ("train", "val"):
        positions = [i for i, e in enumerate(entries) if e.split == split][:9]
        torch.testing.assert_close(
            bank(part, backbone, split)(positions), bank(data, backbone)(positions), rtol=0, atol=0
        )
    assert not part.root.exists()


def test_features_without_room_are_refused_before_they_are_made(
    data: Benchmark, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: mock.Mock(free=1_000_000))
    with pytest.raises(DPNetError, match=r"features of val images take 0\.00\d GB, and 0\.001 GB are free.*DATA="):
        bank(data, backbone, "val", 105)


def test_features_of_a_gpu_have_a_name_of_their_own(data: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the name is what it always was."""
    files: list[Path] = []
    monkeypatch.setattr(cache, "_stored", lambda file, *_: files.append(file))
    for device in ("cpu", "meta"):
        bank(data, backbones.build("efficientnet_lite0").to(device), "val")
    sizes = [data.path(e.image).stat().st_size for e in data.entries if e.split == "val"]
    made = f"{data.digest} {sizes} efficientnet_lite0 {torch.__version__}"
    cpu, other = (file.name for file in files)
    assert cpu == f"efficientnet_lite0-65px-val-1-{hashlib.sha256(made.encode()).hexdigest()[:8]}.npy" != other


@pytest.mark.parametrize(("device", "tf32"), [("cpu", True), ("meta", False)])
def test_features_are_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch, device: str, tf32: bool) -> None:
    """On the CPU, where threads encode side by side and TF32 does not exist, the process's flags are left alone."""
    current = attrgetter("allow_tf32", "enabled", "benchmark", "deterministic")
    before, during, backbone = current(cudnn), set(), backbones.build("efficientnet_lite0").to(device)
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda x: during.add(current(cudnn)) or encode(x))
    backbone.encode_exactly(torch.zeros(1, 3, 33, 33, dtype=torch.uint8))
    assert during == {(tf32, *before[1:])}
    assert current(cudnn) == before


def test_pixels_are_those_of_the_files(data: Benchmark) -> None:
    images, labels, row_of = cache.pixels(data, "train", 33)
    positions = [*row_of][::20]
    rows = [row_of[p] for p in positions]
    assert np.array_equal(images[rows], cache.resized_images(data, positions, 33))
    assert np.array_equal(labels[rows], torch.stack([*cache.resized_labels(data, positions, 33).values()]))
