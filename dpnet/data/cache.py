"""Frozen features and resized images of a split, computed once and stored beside the benchmark."""

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dpnet.config import VOID
from dpnet.data.index import Benchmark, Entry
from dpnet.io import DPNetError, file_lock, free_cores, progress, save

BATCH = 20
Encode = Callable[[Tensor], Tensor]  # images uint8 [n, 3, S, S] -> features [n, C, h, w]
Rows = Callable[[list[int]], np.ndarray]  # positions in `Benchmark.entries` -> their rows of an array
LARGEST = 100e9  # bytes of features that are stored: COCO's at 641², 806 GB, are not


@dataclass(frozen=True)
class FeatureBank:
    """Features of a split's images in fp16; rows are read from disk, or made, as they are asked for."""

    data: np.ndarray | None  # [n, 1 or 2 (mirrored), C, h, w] float16; None: too large to be stored
    row_of: dict[int, int]  # position in `Benchmark.entries` -> row of `data`
    encoded: Rows  # for what is not stored
    # What a GPU has read: (position, whether mirrored) -> fp16 [C, h, w], as long as it has room.
    on_gpu: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def __call__(self, positions: Sequence[int], mirrored: np.ndarray | None = None, device: str = "cpu") -> Tensor:
        """float32 [n, C, h, w] of n images, those of the mirror image where `mirrored` (bool [n]) is true."""
        which = [0] * len(positions) if mirrored is None else mirrored.astype(int).tolist()
        keys = list(zip(positions, which, strict=True))
        if device == "cuda":
            free, total = torch.cuda.mem_get_info()
            if free < total / 4:
                self.on_gpu.clear()
            if lacking := sorted({*keys} - self.on_gpu.keys()):
                self.on_gpu.update(zip(lacking, sent(self._read(lacking), device), strict=True))
            rows = torch.stack([self.on_gpu[key] for key in keys])
        else:
            rows = torch.from_numpy(self._read(keys))
        return rows.to(torch.float32, memory_format=torch.channels_last)

    def _read(self, keys: list[tuple[int, int]]) -> np.ndarray:
        data, row_of = self.data, self.row_of
        if data is None:
            distinct = sorted({position for position, _ in keys})
            parts = [self.encoded(distinct[start : start + BATCH]) for start in range(0, len(distinct), BATCH)]
            data, row_of = np.concatenate(parts), {p: row for row, p in enumerate(distinct)}
        return data[[row_of[position] for position, _ in keys], [mirror for _, mirror in keys]]


def features(
    benchmark: Benchmark, split: str, size: int, encode: Encode, key: str, channels: int, mirror: bool = False
) -> FeatureBank:
    """A split's features by `encode` (of stride 8), which `key` names; `mirror`: of the mirror images too."""
    if benchmark.part_of:  # stored once for all that are
        return features(*benchmark.part_of, size, encode, key, channels, mirror=True)
    positions = _of_split(benchmark, split)
    cells = math.ceil(size / 8)
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


def sent(array: np.ndarray, device: str) -> Tensor:
    """An array on a device; a GPU fetches it when it comes to it, and nobody waits."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor.to(device)


def pixels(benchmark: Benchmark, split: str, size: int) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """A split's images uint8 [n, 3, size, size] and labels uint8 [n, size, size], decoded once; position -> row."""
    positions = _of_split(benchmark, split)
    mark = _mark(benchmark, positions)

    def stored(kind: str, shape: tuple[int, ...], rows: Rows) -> np.ndarray:
        file = benchmark.root / "pixels" / f"{kind}-{size}px-{split}-{mark}.npy"
        return _stored(file, positions, (len(positions), *shape), np.uint8, rows, f"decoding {split} {kind}")

    images = stored("images", (3, size, size), lambda some: resized_images(benchmark, some, size).numpy())
    labels = stored("labels", (size, size), lambda some: np.stack([*resized_labels(benchmark, some, size).values()]))
    return images, labels, {p: row for row, p in enumerate(positions)}


def resized_images(benchmark: Benchmark, positions: Sequence[int], size: int) -> Tensor:
    """Images squashed to a square: uint8 [n, 3, size, size]."""
    images = _squashed([benchmark.entries[p] for p in positions], benchmark.image, size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def resized_labels(benchmark: Benchmark, positions: Sequence[int], size: int) -> dict[int, Tensor]:
    """Labels squashed to a square, without mixing ids: position -> uint8 [size, size]."""
    labels = _squashed([benchmark.entries[p] for p in positions], benchmark.label, size, Image.Resampling.NEAREST)
    return dict(zip(positions, map(torch.from_numpy, labels), strict=True))


def _squashed(
    entries: list[Entry], decode: Callable[[Entry], np.ndarray], size: int, how: Image.Resampling
) -> list[np.ndarray]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda e: np.array(Image.fromarray(decode(e)).resize((size, size), how)), entries))


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
    file: Path, positions: list[int], shape: tuple[int, ...], kind: type[np.generic], rows: Rows, what: str
) -> np.ndarray:
    """An array on disk, a row per image; made first by whoever is the first to need it."""

    def fill(part: Path) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
        with part.open("wb") as stream:  # not mapped: where a disk is full, a mapped file kills the process
            np.lib.format.write_array_header_1_0(stream, header)
            batches = [positions[start : start + BATCH] for start in range(0, len(positions), BATCH)]
            # Threads side by side, of one core each: the same bits on any number of cores.
            with ThreadPoolExecutor(1 if torch.cuda.is_initialized() else free_cores()) as pool:
                for made in progress(pool.map(rows, batches), what, "batch", len(batches)):
                    stream.write(np.ascontiguousarray(made).data)

    if not file.exists():
        with file_lock(file.with_suffix(".held"), what, "DATA=…"):
            if not file.exists():
                needed = math.prod(shape) * np.dtype(kind).itemsize / 1e9
                free = shutil.disk_usage(file.parent).free / 1e9
                if needed > free:  # an error now, not in hours
                    lack = f"{what} take {needed:,.3f} GB, and {free:,.3f} GB are free"
                    raise DPNetError(f"{file}: {lack}: make room, or choose another folder with DATA=…")
                save(file, fill, "DATA=…")
    return np.load(file, mmap_mode="r")
