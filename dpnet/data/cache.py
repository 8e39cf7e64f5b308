"""Frozen features and resized images of a split, computed once and stored beside the benchmark."""

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dpnet.config import VOID
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError, file_lock, progress, save

BATCH = 20
LARGEST = 100e9  # bytes of features that are stored: COCO's at 641², 806 GB, are not


@dataclass(frozen=True)
class FeatureBank:
    """Features of a split's images in fp16; rows are read from disk, or made, as they are asked for.

    Arguments:
        data: [n, mirrored, C, h, w] float16; None: too large to be stored.
        row_of: position in `Benchmark.entries` -> row of `data`.
        encoded: positions -> their rows, for what is not stored.
    """

    data: np.ndarray | None
    row_of: dict[int, int]
    encoded: Callable[[list[int]], np.ndarray]

    def __call__(self, positions: Sequence[int], mirrored: np.ndarray | None = None) -> Tensor:
        """float32 [n, C, h, w] of n images, those of the mirror image where `mirrored` (bool [n]) is true."""
        data, row_of = self.data, self.row_of
        if data is None:
            distinct = sorted(set(positions))
            parts = [self.encoded(distinct[start : start + BATCH]) for start in range(0, len(distinct), BATCH)]
            data, row_of = np.concatenate(parts), {p: row for row, p in enumerate(distinct)}
        rows = [row_of[p] for p in positions]
        which = np.zeros(len(rows), int) if mirrored is None else mirrored.astype(int)
        return torch.from_numpy(data[rows, which].astype(np.float32))


def features(
    benchmark: Benchmark,
    split: str,
    size: int,
    encode: Callable[[Tensor], Tensor],
    key: str,
    channels: int,
    mirror: bool = False,
) -> FeatureBank:
    """The features of a split, from disk if they were computed before.

    Arguments:
        benchmark: whose images.
        split: "train" or "val".
        size: side of the square input in pixels.
        encode: uint8 [n, 3, size, size] -> [n, channels, size / 8, size / 8], rounded up.
        key: names what `encode` is; its first word becomes part of the file's name.
        channels: of the features.
        mirror: whether to have those of the mirror images too.

    Raises:
        DPNetError: the disk has no room for it.
    """
    positions = _of_split(benchmark, split)
    cells = -(-size // 8)
    shape = (len(positions), 1 + mirror, channels, cells, cells)

    def encoded(some: list[int]) -> np.ndarray:
        images = resized_images(benchmark, some, size)
        raws = [encode(images.flip(3) if m else images) for m in range(1 + mirror)]
        return torch.stack(raws, 1).to(torch.float16).cpu().numpy()

    data = None
    if math.prod(shape) * 2 <= LARGEST:
        name = f"{key.split()[0]}-{size}px-{split}-{1 + mirror}-{_mark(benchmark, positions, key)}.npy"
        file = benchmark.root / "features" / name
        data = _stored(file, positions, shape, np.float16, encoded, f"features of {split} images")
    return FeatureBank(data, {p: row for row, p in enumerate(positions)}, encoded)


def pixels(benchmark: Benchmark, split: str, size: int) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """A split's images and labels at a square size, decoded once; reading a row reads that row from disk.

    Returns:
        uint8 [n, 3, size, size] and uint8 [n, size, size]; and position in `Benchmark.entries` -> row.
    """
    positions = _of_split(benchmark, split)
    mark, n = _mark(benchmark, positions), len(positions)

    def stored(kind: str, shape: tuple[int, ...], rows: Callable[[list[int]], np.ndarray]) -> np.ndarray:
        file = benchmark.root / "pixels" / f"{kind}-{size}px-{split}-{mark}.npy"
        return _stored(file, positions, shape, np.uint8, rows, f"decoding {split} {kind}")

    images = stored("images", (n, 3, size, size), lambda some: resized_images(benchmark, some, size).numpy())
    labels = stored(
        "labels", (n, size, size), lambda some: np.stack([*resized_labels(benchmark, some, size).values()])
    )
    return images, labels, {position: row for row, position in enumerate(positions)}


def resized_images(benchmark: Benchmark, positions: Sequence[int], size: int) -> Tensor:
    """Images squashed to a square: uint8 [n, 3, size, size]."""

    def one(position: int) -> np.ndarray:
        image = Image.fromarray(benchmark.image(benchmark.entries[position]))
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor() as pool:
        return torch.from_numpy(np.stack(list(pool.map(one, positions)))).permute(0, 3, 1, 2).contiguous()


def resized_labels(benchmark: Benchmark, positions: Sequence[int], size: int) -> dict[int, Tensor]:
    """Labels squashed to a square, without mixing ids: position -> uint8 [size, size]."""

    def one(position: int) -> Tensor:
        label = Image.fromarray(benchmark.label(benchmark.entries[position]))
        return torch.from_numpy(np.array(label.resize((size, size), Image.Resampling.NEAREST)))

    with ThreadPoolExecutor() as pool:
        return dict(zip(positions, pool.map(one, positions), strict=True))


def binary(labels: Tensor, class_ids: int | Tensor) -> Tensor:
    """Labels of class ids as the targets of one class (each): uint8 of the same shape, 0, 1, and 255 where void."""
    return torch.where(labels == VOID, labels, (labels == class_ids).to(torch.uint8))


def _of_split(benchmark: Benchmark, split: str) -> list[int]:
    return [i for i, entry in enumerate(benchmark.entries) if entry.split == split]


def _mark(benchmark: Benchmark, positions: list[int], *made_by: str) -> str:
    """Eight hex digits of some images and what was made of them."""
    # The digest knows the labels; the sizes of the image files tell when one was replaced.
    sizes = [benchmark.path(benchmark.entries[p].image).stat().st_size for p in positions]
    return hashlib.sha256(" ".join([benchmark.digest, str(sizes), *made_by]).encode()).hexdigest()[:8]


def _stored(
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
