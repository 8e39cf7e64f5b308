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
from dpnet.data.index import Benchmark, Entry
from dpnet.io import DPNetError, file_lock, progress, save

BATCH = 20
LARGEST = 100e9  # bytes of features that are stored: COCO's at 641², 806 GB, are not
Rows = Callable[[list[int]], np.ndarray]  # positions in `Benchmark.entries` -> what is made of them, one row each


@dataclass(frozen=True)
class FeatureBank:
    """Features of a split's images in fp16; rows are read from disk, or made, as they are asked for."""

    data: np.ndarray | None  # [n, mirrored, C, h, w] float16; None: too large to be stored
    row_of: dict[int, int]  # position in `Benchmark.entries` -> row of `data`
    encoded: Rows  # for what is not stored

    def __call__(self, positions: Sequence[int], mirrored: np.ndarray | None = None) -> Tensor:
        """float32 [n, C, h, w] of n images, those of the mirror image where `mirrored` (bool [n]) is true."""
        data, row_of = self.data, self.row_of
        if data is None:
            distinct = sorted(set(positions))
            parts = [self.encoded(distinct[start : start + BATCH]) for start in range(0, len(distinct), BATCH)]
            data, row_of = np.concatenate(parts), {p: row for row, p in enumerate(distinct)}
        which = np.zeros(len(positions), int) if mirrored is None else mirrored.astype(int)
        return torch.from_numpy(data[[row_of[p] for p in positions], which].astype(np.float32))


def features(
    benchmark: Benchmark,
    split: str,
    size: int,  # side of the square input in pixels
    encode: Callable[[Tensor], Tensor],  # uint8 [n, 3, size, size] -> [n, channels, size / 8, size / 8], rounded up
    key: str,  # names what `encode` is; its first word becomes part of the file's name
    channels: int,
    mirror: bool = False,
) -> FeatureBank:
    """The features of a split, and those of the mirror images; from disk if they were computed before."""
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
    """A split's images, uint8 [n, 3, size, size], and labels, [n, size, size], on disk; and position -> row."""
    positions = _of_split(benchmark, split)
    mark, n = _mark(benchmark, positions), len(positions)

    def stored(kind: str, shape: tuple[int, ...], rows: Rows) -> np.ndarray:
        file = benchmark.root / "pixels" / f"{kind}-{size}px-{split}-{mark}.npy"
        return _stored(file, positions, shape, np.uint8, rows, f"decoding {split} {kind}")

    images = stored("images", (n, 3, size, size), lambda some: resized_images(benchmark, some, size).numpy())
    labels = stored(
        "labels", (n, size, size), lambda some: np.stack([*resized_labels(benchmark, some, size).values()])
    )
    return images, labels, {position: row for row, position in enumerate(positions)}


def resized_images(benchmark: Benchmark, positions: Sequence[int], size: int) -> Tensor:
    """Images squashed to a square: uint8 [n, 3, size, size]."""
    rows = _squashed(benchmark.image, [benchmark.entries[p] for p in positions], size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


def resized_labels(benchmark: Benchmark, positions: Sequence[int], size: int) -> dict[int, Tensor]:
    """Labels squashed to a square, without mixing ids: position -> uint8 [size, size]."""
    rows = _squashed(benchmark.label, [benchmark.entries[p] for p in positions], size, Image.Resampling.NEAREST)
    return dict(zip(positions, map(torch.from_numpy, rows), strict=True))


def _squashed(
    read: Callable[[Entry], np.ndarray], entries: list[Entry], size: int, how: Image.Resampling
) -> list[np.ndarray]:
    with ThreadPoolExecutor() as pool:
        squash = pool.map(lambda entry: np.array(Image.fromarray(read(entry)).resize((size, size), how)), entries)
        return list(squash)


def binary(labels: Tensor, class_ids: int | Tensor) -> Tensor:
    """Labels of class ids as the targets of one class (each): uint8 of the same shape, 0, 1, and 255 where void."""
    return torch.where(labels == VOID, labels, (labels == class_ids).to(torch.uint8))


def _of_split(benchmark: Benchmark, split: str) -> list[int]:
    return [i for i, entry in enumerate(benchmark.entries) if entry.split == split]


def _mark(benchmark: Benchmark, positions: list[int], *made_by: str) -> str:
    # The digest knows the labels; the sizes of the image files tell when one was replaced.
    sizes = [benchmark.path(benchmark.entries[p].image).stat().st_size for p in positions]
    return hashlib.sha256(" ".join([benchmark.digest, str(sizes), *made_by]).encode()).hexdigest()[:8]


def _stored(
    file: Path, positions: list[int], shape: tuple[int, ...], kind: type[np.generic], rows: Rows, what: str
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
                    room = f"{what} take {needed:,.3f} GB, and {free:,.3f} GB are free"
                    raise DPNetError(f"{file}: {room}: make room, or choose another folder with DATA=…")
                save(file, fill, "DATA=…")
    return np.load(file, mmap_mode="r")
