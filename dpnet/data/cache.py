"""Frozen features and resized images of a split, computed once and kept beside the benchmark."""

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dpnet.backbones import Backbone
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError, file_lock, progress, save

BATCH = 20
LARGEST = 100e9  # bytes of features that are kept: COCO's at 641², 806 GB, are not


class FeatureBank:
    """Features of a split's images, in fp16, on disk; rows are read as they are asked for.

    Arguments:
        data: [n, mirrored, C, h, w] float16.
        rows: position in `Benchmark.entries` -> row of `data`.
    """

    def __init__(self, data: np.ndarray, rows: dict[int, int]) -> None:
        self.data, self.rows = data, rows

    def __call__(self, positions: Sequence[int], mirrored: np.ndarray | None = None) -> Tensor:
        """Features of some images.

        Arguments:
            positions: [n] in `Benchmark.entries`.
            mirrored: bool [n]: of the mirrored image; None: of none.

        Returns:
            float32 [n, C, h, w].
        """
        rows = [self.rows[p] for p in positions]
        which = np.zeros(len(rows), int) if mirrored is None else mirrored.astype(int)
        return torch.from_numpy(self.data[rows, which].astype(np.float32))


class FreshFeatures(FeatureBank):
    """The same numbers where a split's are too many to keep: images are encoded as they are asked for.

    Arguments:
        encoded: positions in `Benchmark.entries` -> [n, mirrored, C, h, w] float16.
    """

    def __init__(self, encoded: Callable[[list[int]], np.ndarray]) -> None:
        self.encoded = encoded

    def __call__(self, positions: Sequence[int], mirrored: np.ndarray | None = None) -> Tensor:
        """As of a bank."""
        distinct = sorted(set(positions))
        parts = [self.encoded(distinct[start : start + BATCH]) for start in range(0, len(distinct), BATCH)]
        return FeatureBank(np.concatenate(parts), {p: row for row, p in enumerate(distinct)})(positions, mirrored)


def kept(benchmark: Benchmark, backbone: Backbone, name: str, size: int, split: str, mirror: bool) -> FeatureBank:
    """The features of a split, from disk if they were computed before.

    Arguments:
        benchmark: whose images.
        backbone: encodes them.
        name: of the backbone and its weights; part of the file's name.
        size: side of the square input in pixels.
        split: "train" or "val".
        mirror: whether to keep those of the mirrored images too.

    Returns:
        the bank; above `LARGEST` bytes it keeps nothing.

    Raises:
        DPNetError: the disk has no room for it.
    """
    positions = [i for i, entry in enumerate(benchmark.entries) if entry.split == split]
    # The digest knows the labels; the sizes of the image files tell when one was replaced.
    sizes = [benchmark.path(benchmark.entries[p].image).stat().st_size for p in positions]
    device = next(backbone.parameters()).device
    made = f"{name} {torch.__version__}" + ("" if device.type == "cpu" else f" {device.type}")
    key = hashlib.sha256(f"{benchmark.digest} {sizes} {made}".encode()).hexdigest()[:8]
    file = benchmark.root / "features" / f"{name}-{size}px-{split}-{1 + mirror}-{key}.npy"
    cells = -(-size // 8)
    shape = (len(positions), 1 + mirror, backbone.channels, cells, cells)

    def encoded(some: list[int]) -> np.ndarray:
        images = resized_images(benchmark, some, size).to(device)
        with torch.inference_mode(), exact():
            raws = [backbone(images.flip(3) if m else images) for m in range(1 + mirror)]
            return torch.stack(raws, 1).to(torch.float16).cpu().numpy()

    backbone.to(memory_format=torch.channels_last)
    if math.prod(shape) * 2 > LARGEST:
        return FreshFeatures(encoded)
    data = _kept(file, positions, shape, np.float16, encoded, f"features of {split} images")
    return FeatureBank(data, {p: row for row, p in enumerate(positions)})


def exact() -> AbstractContextManager[None]:
    """Convolutions in fp32 that are not rounded to TF32 on the way; other settings stay as they are."""
    found: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=None, benchmark=None, benchmark_limit=None, deterministic=None, allow_tf32=False
    )
    return found


def pixels(benchmark: Benchmark, split: str, size: int) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """A split's images and labels at a square size, decoded once into a memory-mapped store beside the benchmark.

    Arguments:
        benchmark: whose images.
        split: "train" or "val".
        size: side in pixels.

    Returns:
        uint8 [n, 3, size, size] and uint8 [n, size, size], on disk: reading a row reads that row; and position
        in `Benchmark.entries` -> row.
    """
    positions = [i for i, entry in enumerate(benchmark.entries) if entry.split == split]
    sizes = [benchmark.path(benchmark.entries[p].image).stat().st_size for p in positions]
    key = hashlib.sha256(f"{benchmark.digest} {sizes}".encode()).hexdigest()[:8]
    images, labels = (
        benchmark.root / "pixels" / f"{kind}-{size}px-{split}-{key}.npy" for kind in ("images", "labels")
    )

    def decoded(some: list[int]) -> np.ndarray:
        return resized_images(benchmark, some, size).numpy()

    def marked(some: list[int]) -> np.ndarray:
        return np.stack(list(resized_labels(benchmark, some, size).values()))

    n = len(positions)
    return (
        _kept(images, positions, (n, 3, size, size), np.uint8, decoded, f"decoding {split} images"),
        _kept(labels, positions, (n, size, size), np.uint8, marked, f"decoding {split} labels"),
        {position: row for row, position in enumerate(positions)},
    )


def _kept(
    file: Path,
    positions: list[int],
    shape: tuple[int, ...],
    kind: type[np.generic],
    rows: Callable[[list[int]], np.ndarray],
    what: str,
) -> np.ndarray:
    """An array on disk, a row per image; made first by whoever is the first to need it."""

    def fill(part: Path) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
        with part.open("wb") as stream:  # not mapped: where a disk is full, a mapped file kills the process
            np.lib.format.write_array_header_1_0(stream, header)
            for start in progress(range(0, len(positions), BATCH), what, "batch"):
                stream.write(np.ascontiguousarray(rows(positions[start : start + BATCH])).data)

    if not file.exists():
        with file_lock(file.with_suffix(".held"), what, "DATA=…"):
            if not file.exists():
                needed = math.prod(shape) * np.dtype(kind).itemsize / 1e9
                free = shutil.disk_usage(file.parent).free / 1e9
                if needed > free:  # said now, not in hours
                    raise DPNetError(
                        f"{file}: {what} take {needed:,.3f} GB, and {free:,.3f} GB are free: make room, or choose "
                        "another folder with DATA=…"
                    )
                save(file, fill, "DATA=…")
    return np.load(file, mmap_mode="r")


def resized_images(benchmark: Benchmark, positions: Sequence[int], size: int) -> Tensor:
    """Images squashed to a square.

    Arguments:
        benchmark: whose images.
        positions: [n] in `Benchmark.entries`.
        size: side in pixels.

    Returns:
        uint8 [n, 3, size, size].
    """

    def one(position: int) -> np.ndarray:
        image = Image.fromarray(benchmark.image(benchmark.entries[position]))
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor() as pool:
        return torch.from_numpy(np.stack(list(pool.map(one, positions)))).permute(0, 3, 1, 2).contiguous()


def resized_labels(benchmark: Benchmark, positions: Sequence[int], size: int) -> dict[int, Tensor]:
    """Labels squashed to a square, without mixing ids.

    Arguments:
        benchmark: whose labels.
        positions: in `Benchmark.entries`.
        size: side in pixels.

    Returns:
        position -> uint8 [size, size].
    """

    def one(position: int) -> Tensor:
        label = Image.fromarray(benchmark.label(benchmark.entries[position]))
        return torch.from_numpy(np.array(label.resize((size, size), Image.Resampling.NEAREST)))

    with ThreadPoolExecutor() as pool:
        return dict(zip(positions, pool.map(one, positions), strict=True))


def binary(label: Tensor, class_id: int) -> Tensor:
    """A label of class ids as one class's target: uint8 of the same shape, 0, 1, and 255 (void) kept."""
    return torch.where(label == 255, label, (label == class_id).to(torch.uint8))
