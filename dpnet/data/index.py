"""One on-disk layout for every benchmark: images, label PNGs, and an index with the pixels of each class."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from dpnet import io
from dpnet.config import VOID
from dpnet.data import images
from dpnet.io import DPNetError, free_cores, progress

INDEX = "index.json"
SPLITS = ("train", "val")
WHERE = "DATA=… or --root"
VERSION = 1
MIN_PIXELS, AT_SIDE = 2 * 32 * 32, 500  # the field's habit, stated for VOC's longer side of 500 pixels
CHUNK = 20  # images that a process takes at a time: less than a second of work
Task = TypeVar("Task")
Result = TypeVar("Result")
Folds = tuple[tuple[int, ...], ...]  # class ids of each
Item = tuple[str, str, Path, Path]  # id, split, image, label


@dataclass(frozen=True)
class Entry:
    """One image of the index."""

    id: str
    split: str
    image: str
    label: str
    size: tuple[int, int]  # height, width
    pixels: dict[int, int] = field(hash=False)  # of each class id, and of void, that is there
    thin: tuple[int, ...] = ()  # classes without a pixel left at the network's size: not used from this image


@dataclass(frozen=True)
class Benchmark:
    """A prepared benchmark: `root` holds its index; a class id is its position in `classes` plus 1."""

    name: str
    root: Path
    classes: tuple[str, ...]
    folds: Folds
    tested: Folds
    entries: tuple[Entry, ...]
    digest: str = ""
    recipe: dict[str, Any] = field(default_factory=dict, hash=False)
    # Another benchmark with the same `entries`, but for their splits, and its split that holds all that is used here.
    part_of: "tuple[Benchmark, str] | None" = field(default=None, hash=False)

    def path(self, listed: str) -> Path:
        """Where a listed file (an entry's `image` or `label`) is."""
        return Path(os.path.normpath(self.root / listed))

    def image(self, entry: Entry) -> np.ndarray:
        """The image of an entry: uint8 [H, W, 3], RGB; DPNetError if the file is missing or broken."""
        return decode(self.path(entry.image))

    def label(self, entry: Entry) -> np.ndarray:
        """The label of an entry: uint8 [H, W] of 0 background, class ids, 255 void; DPNetError if it is none."""
        return decode(self.path(entry.label), mask=True)

    @cached_property
    def _images(self) -> dict[tuple[int, str], list[int]]:
        positions: dict[tuple[int, str], list[int]] = {}
        for position, entry in enumerate(self.entries):
            for class_id in counting(entry):
                positions.setdefault((class_id, entry.split), []).append(position)
        return positions

    def images_of(self, class_id: int, split: str) -> list[int]:
        """Ascending positions in `entries` of the images that show enough of a class, of "train" or "val"."""
        return list(self._images.get((class_id, split), ()))

    def need_size(self, size: int) -> None:
        """DPNetError where own images were prepared for a larger network: objects that are gone here would count."""
        prepared = self.recipe.get("size", 0) if self.name == "folder" else 0
        if prepared > size:
            why = f"without what is too thin at {prepared} x {prepared} pixels, and this preset's network is smaller"
            raise DPNetError(f"{self.root}: prepared {why}, {size} x {size}: prepare it again, with --preset as here")


def split_folds(classes: int, folds: int = 4) -> Folds:
    """Cut the class ids into contiguous folds, as equal as possible."""
    return tuple(tuple(part.tolist()) for part in np.array_split(np.arange(1, classes + 1), folds))


def least(height: int, width: int) -> int:
    """The least area that makes a class count in an image: 2,048 pixels; fewer below 500 a side."""
    longer = min(max(height, width), AT_SIDE)
    return -(-MIN_PIXELS * longer**2 // AT_SIDE**2)


def counting(entry: Entry) -> list[int]:
    """The classes of which an image shows enough, and that are not too thin in it."""
    enough = least(*entry.size)
    return [c for c, pixels in entry.pixels.items() if c not in (VOID, *entry.thin) and pixels >= enough]


def decode(path: Path, mask: bool = False) -> np.ndarray:
    """A whole image, uint8 [H, W, 3] RGB, or the ids of a label, uint8 [H, W]; DPNetError for any other file."""
    if not mask:
        return np.array(images.photograph(path))
    label = images.opened(path)
    if label.mode not in ("P", "L", "1"):
        how = f"{images.GREY}, or list its colours as CVAT does, cup:255,0,0::"
        raise DPNetError(f"{path}: is {label.mode}, and a label is an 8-bit grey or palette PNG: {how}")
    return np.array(label, dtype=np.uint8)


def complain(problems: Sequence[str]) -> None:
    """Raise one DPNetError for several bad files: the first one's line, and how many more there are."""
    if problems:
        more = f" (and {len(problems) - 1} more bad files)" if len(problems) > 1 else ""
        raise DPNetError(problems[0] + more)


def in_threads(work: Callable[[Task], Result], tasks: Sequence[Task], what: str) -> list[Result]:
    """The results of all tasks, each an image; problems, which are raised as DPNetError, in one line."""

    def attempt(task: Task) -> Result | DPNetError:
        try:
            return work(task)
        except DPNetError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(progress(pool.map(attempt, tasks), what, "image", len(tasks)))
    complain([str(one) for one in done if isinstance(one, DPNetError)])
    return [one for one in done if not isinstance(one, DPNetError)]


def scan(root: Path, items: Iterable[Item], classes: int, what: str, size: int = 0) -> tuple[Entry, ...]:
    """The entries of items, sorted: each pair decoded, verified, counted; `size` is the network's, for `thin`."""

    def examine(item: Item) -> Entry:
        name, split, image, label = item
        picture, mask = decode(image), decode(label, mask=True)
        (height, width), (rows, columns) = picture.shape[:2], mask.shape
        if (height, width) != (rows, columns):
            sizes = f"the mask is {columns}x{rows}, its image {image} {width}x{height} as a viewer shows it"
            raise DPNetError(f"{label}: {sizes}: make them the same size")
        pixels = count(mask)
        if wrong := ", ".join(str(value) for value in pixels if classes < value != VOID):
            raise DPNetError(f"{label}: ids {wrong[:30]} are out of range: a mask holds 0…{classes} and 255 for void")
        thin = vanishing(mask, size) if size else ()
        return Entry(name, split, _listed(image, root), _listed(label, root), (height, width), pixels, thin)

    return tuple(in_threads(examine, sorted(items), what))


def count(mask: np.ndarray) -> dict[int, int]:
    """Pixels by class id in a mask (uint8 [H, W]); background and absent classes are left out."""
    pixels = np.bincount(mask.ravel(), minlength=256)
    return {int(value): int(pixels[value]) for value in np.flatnonzero(pixels) if value}


def vanishing(mask: np.ndarray, size: int) -> tuple[int, ...]:
    """The classes of a label that have enough pixels, and none once it is squashed to the network's square."""
    left = np.unique(np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST)))
    return tuple(c for c, n in count(mask).items() if c != VOID and n >= least(*mask.shape) and c not in left)


def _listed(path: Path, root: Path) -> str:
    # Relative where the data and its index move together; absolute where the index lives elsewhere.
    whole, base = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return Path(os.path.relpath(whole, base) if whole.is_relative_to(base.parent) else whole).as_posix()


def writable(folder: Path) -> bool:
    """Whether files may be written to a folder, which need not exist yet."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    # Root may write where the permission bits say read-only, but the owner meant it.
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and bool(folder.stat().st_mode & 0o222)


def need_writable(folder: Path) -> None:
    """Refuse early (DPNetError) what would fail late."""
    if not writable(folder):
        raise DPNetError(f"{folder}: cannot be written: choose another folder with {WHERE}")


class Copy(NamedTuple):
    """How a user's own copy of VOC or COCO lies in the data folder."""

    places: tuple[str, ...]  # where it may be, the usual one first
    parts: tuple[str, ...]  # what it consists of

    def find(self, data: Path) -> Path | None:
        """The first place with a part of it."""
        trees = [data / place for place in self.places]
        return next((tree for tree in trees if any(os.path.exists(tree / part) for part in self.parts)), None)

    def need(self, data: Path, name: str) -> Path:
        """The place that has all parts; DPNetError if there is none."""
        fetch = f"let `dpnet prepare {name} --root {data}` fetch what is absent"
        if (tree := self.find(data)) is None:
            why = "no part of it there, or it may not be read" if data.is_dir() else "no such folder"
            parts = f"{self.places[0]}/{{{', '.join(self.parts)}}}"
            raise DPNetError(f"{data}: {why}: give the folder that holds {parts} with {WHERE}, or {fetch}")
        if missing := [part for part in self.parts if not (tree / part).exists()]:
            raise DPNetError(f"{tree / missing[0]}: missing: {fetch}")
        return tree


def _pack(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _digest(index: dict[str, Any]) -> str:
    # Without paths and notes: the same images give the same digest, wherever they lie and whatever form they had.
    matters = {key: index[key] for key in ("benchmark", "classes", "folds", "tested")}
    matters["recipe"] = {key: value for key, value in index["recipe"].items() if key != "notes"}
    keys = ("id", "split", "size", "pixels", "thin")
    matters["entries"] = [[e[key] for key in keys if key in e] for e in index["entries"]]
    return hashlib.sha256(_pack(matters).encode()).hexdigest()


def write(benchmark: Benchmark) -> Benchmark:
    """Write the index, last of all, since a folder without one is not prepared; and read it, with its digest."""
    index = {"version": VERSION, "benchmark": benchmark.name}
    index |= {key: getattr(benchmark, key) for key in ("classes", "folds", "tested", "recipe")}
    entries = [vars(e) | {"pixels": {str(c): n for c, n in e.pixels.items()}} for e in benchmark.entries]
    entries = [{key: value for key, value in e.items() if key != "thin" or value} for e in entries]
    index["entries"] = sorted(entries, key=lambda e: e["id"])
    io.write(benchmark.root / INDEX, (_pack(index | {"digest": _digest(index)}) + "\n").encode(), WHERE)
    return read(benchmark.root)


def read(root: Path) -> Benchmark:
    """The benchmark in a folder; DPNetError if its index is missing, corrupt, or of another version."""
    file, again = Path(root) / INDEX, "delete it and prepare the benchmark again"
    try:
        index = json.loads(file.read_text("utf-8"))
        if (index["version"], index["digest"]) != (VERSION, _digest(index)):
            raise ValueError(f"its content does not match its digest, or it is not of version {VERSION}")
        for e in index["entries"]:
            e["pixels"] = {int(c): e["pixels"][c] for c in sorted(e["pixels"], key=int)}
            e |= {"size": tuple(e["size"]), "thin": tuple(e.get("thin", ()))}
        entries = tuple(Entry(**e) for e in index["entries"])
        folds, tested = (tuple(map(tuple, index[key])) for key in ("folds", "tested"))
        classes, recipe = tuple(index["classes"]), index["recipe"]
        return Benchmark(index["benchmark"], Path(root), classes, folds, tested, entries, index["digest"], recipe)
    except (FileNotFoundError, NotADirectoryError):
        raise DPNetError(f"{file}: missing: dpnet prepare BENCHMARK --root DATA") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DPNetError(f"{file}: corrupt ({images.reason(error)}): {again}") from error


def png(mask: np.ndarray, **more: Any) -> bytes:
    """The palette PNG of a label (uint8 [H, W]), in VOC's colours."""
    coloured = Image.fromarray(mask)
    coloured.putpalette(images.voc_colours())
    return images.png(coloured, **more)


def in_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None, what: str
) -> list[Result]:
    """The results of tasks, each an image, in several processes (None: one per free core; 1: in this one)."""
    processes = min(workers or free_cores(), -(-len(tasks) // CHUNK))
    if processes <= 1:
        return list(progress(map(work, tasks), what, "image", len(tasks)))
    # spawn, because a fork of a process with threads (torch's, a notebook's) may hang
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), end_with_parent) as pool:
            return list(progress(pool.map(work, tasks, chunksize=CHUNK), what, "image", len(tasks)))
    except BrokenProcessPool as error:
        why = "a script needs its `if __name__ == '__main__'`, or memory ran out"
        raise DPNetError(f"{what}: a process died ({why}): try workers=1") from error


def end_with_parent() -> None:
    """In a worker: or it waits for ever for the next task of a parent that was killed."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()
