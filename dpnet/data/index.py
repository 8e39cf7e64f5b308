"""One on-disk layout for every benchmark: images, label PNGs, and an index with the pixels of each class."""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from dpnet.config import VOID
from dpnet.data.images import rgb
from dpnet.io import DPNetError, progress
from dpnet.io import write as save_file

INDEX = "index.json"
WHERE = "DATA=… or --root"
VERSION = 1
MIN_PIXELS, AT_SIDE = 2 * 32 * 32, 500  # the field's habit, stated for VOC's longer side of 500 pixels
NOTE = "dpnet"  # keyword of a label's note
END = b"IEND\xaeB`\x82"  # of a PNG that is whole
Task = TypeVar("Task")
Result = TypeVar("Result")
Item = tuple[str, str, Path, Path]  # id, split, image, label


@dataclass(frozen=True)
class Entry:
    """One image of the index; `size` is (height, width), `pixels` counts each class id and void there is."""

    id: str
    split: str
    image: str
    label: str
    size: tuple[int, int]
    pixels: dict[int, int] = field(hash=False)


@dataclass(frozen=True)
class Benchmark:
    """A prepared benchmark: `root` holds its index; a class id is its position in `classes` plus 1."""

    name: str
    root: Path
    classes: tuple[str, ...]
    folds: tuple[tuple[int, ...], ...]
    tested: tuple[tuple[int, ...], ...]
    entries: tuple[Entry, ...]
    digest: str
    recipe: dict[str, Any] = field(default_factory=dict, hash=False)

    def path(self, listed: str) -> Path:
        """Where a listed file (an entry's `image` or `label`) is."""
        return Path(os.path.normpath(self.root / listed))

    def image(self, entry: Entry) -> np.ndarray:
        """Decode the image of an entry.

        Arguments:
            entry: one of `entries`.

        Returns:
            uint8 [H, W, 3], RGB.

        Raises:
            DPNetError: the file is missing or cannot be decoded.
        """
        return decode(self.path(entry.image))

    def label(self, entry: Entry) -> np.ndarray:
        """Decode the label of an entry.

        Arguments:
            entry: one of `entries`.

        Returns:
            uint8 [H, W]: 0 background, class ids, 255 void.

        Raises:
            DPNetError: the file is missing, cannot be decoded, or is no mask.
        """
        return decode(self.path(entry.label), mask=True)

    def min_pixels(self, entry: Entry) -> int:
        """The least area that makes a class count in an image.

        Arguments:
            entry: one of `entries`.

        Returns:
            2,048 pixels, and less in proportion to the area if the longer side has fewer than 500 pixels.
        """
        return least(entry.size)

    @cached_property
    def _images(self) -> dict[tuple[int, str], list[int]]:
        found: dict[tuple[int, str], list[int]] = {}
        for position, entry in enumerate(self.entries):
            for class_id, pixels in entry.pixels.items():
                if class_id != VOID and pixels >= self.min_pixels(entry):
                    found.setdefault((class_id, entry.split), []).append(position)
        return found

    def images_of(self, class_id: int, split: str) -> list[int]:
        """The images that show enough of a class.

        Arguments:
            class_id: 1 … number of classes.
            split: "train" or "val".

        Returns:
            ascending positions in `entries`.
        """
        return list(self._images.get((class_id, split), ()))

    def trainable(self, fold: int, shots: int) -> tuple[int, ...]:
        """The classes from which training episodes of a fold can be drawn.

        Arguments:
            fold: 0 … number of folds - 1.
            shots: supports per episode.

        Returns:
            ids of the classes that are not novel there and have at least `shots` + 1 images in "train".
        """
        ids = (c for c in range(1, len(self.classes) + 1) if c not in self.folds[fold])
        return tuple(c for c in ids if len(self.images_of(c, "train")) > shots)


def least(size: tuple[int, int]) -> int:
    """The least area, in pixels, that makes a class count in an image of a size (height, width)."""
    longer = min(max(size), AT_SIDE)
    return -(-MIN_PIXELS * longer**2 // AT_SIDE**2)


def decode(path: Path, mask: bool = False) -> np.ndarray:
    """Decode a whole image or mask file.

    Arguments:
        path: the file.
        mask: whether it holds class ids instead of colours.

    Returns:
        uint8 [H, W, 3] RGB, or uint8 [H, W] class ids for a mask.

    Raises:
        DPNetError: the file is missing, cannot be decoded, or a mask with colours.
    """
    try:
        with Image.open(path) as picture:
            if mask and picture.mode not in ("P", "L", "1"):
                raise DPNetError(f"{path}: is {picture.mode}, but a mask is a palette or 8-bit grey PNG")
            return np.array(picture if mask else rgb(picture, path), dtype=np.uint8)
    except DPNetError:
        raise
    except FileNotFoundError:
        raise DPNetError(f"{path}: missing: complete your copy of the data") from None
    except (OSError, SyntaxError, ValueError, struct.error, EOFError) as error:  # what a broken file makes PIL raise
        why = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise DPNetError(f"{path}: cannot be decoded ({why}): replace it by an intact copy") from error


def complain(problems: Sequence[str]) -> None:
    """Raise one DPNetError for several bad files: the first one's line, and how many more there are."""
    if problems:
        more = f" (and {len(problems) - 1} more bad files)" if len(problems) > 1 else ""
        raise DPNetError(problems[0] + more)


def scan(root: Path, items: Iterable[Item], classes: int, what: str = "reading masks") -> tuple[Entry, ...]:
    """Decode each image and its label, verify both, and count the pixels of each class.

    Arguments:
        root: the folder that will hold the index.
        items: (id, split, image path, label path) of each image.
        classes: number of classes.
        what: the progress bar's text.

    Returns:
        the entries, sorted by id.

    Raises:
        DPNetError: files are bad; names the first.
    """

    def examine(item: Item) -> Entry | str:
        name, split, image, label = item
        try:
            picture, mask = decode(image), decode(label, mask=True)
        except DPNetError as error:
            return str(error)
        (height, width), (rows, columns) = picture.shape[:2], mask.shape
        if (height, width) != (rows, columns):
            sizes = f"the mask is {columns}x{rows}, its image {image} {width}x{height}"
            return f"{label}: {sizes}: make them the same size"
        pixels = count(mask)
        wrong = [value for value in pixels if value > classes and value != VOID]
        if wrong:
            found = (
                f"class id {wrong[0]} is" if len(wrong) == 1 else f"class ids {', '.join(map(str, wrong[:5]))} are"
            )
            return f"{label}: {found} out of range: a mask holds 0…{classes} and 255 for void"
        return Entry(name, split, _listed(image, root), _listed(label, root), (height, width), pixels)

    ordered = sorted(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(progress(pool.map(examine, ordered), what, "image", len(ordered)))
    complain([problem for problem in done if isinstance(problem, str)])
    return tuple(entry for entry in done if isinstance(entry, Entry))


def count(mask: np.ndarray) -> dict[int, int]:
    """Pixels by class id in a mask (uint8 [H, W]); background and absent classes are left out."""
    pixels = np.bincount(mask.ravel(), minlength=256)
    return {int(value): int(pixels[value]) for value in np.flatnonzero(pixels) if value}


def _listed(path: Path, root: Path) -> str:
    # Relative where the data and its index move together; absolute where the index lives elsewhere.
    whole, base = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return Path(os.path.relpath(whole, base) if whole.is_relative_to(base.parent) else whole).as_posix()


def split_folds(classes: int, folds: int = 4) -> tuple[tuple[int, ...], ...]:
    """Cut the class ids into contiguous folds, as equal as possible."""
    return tuple(tuple(int(c) for c in part) for part in np.array_split(np.arange(1, classes + 1), folds))


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


def _pack(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _digest(index: dict[str, Any]) -> str:
    # Without paths: the same images give the same digest wherever they lie.
    matters = {key: index[key] for key in ("benchmark", "classes", "folds", "tested", "recipe")}
    matters["entries"] = [[e["id"], e["split"], e["size"], e["pixels"]] for e in index["entries"]]
    return hashlib.sha256(_pack(matters).encode()).hexdigest()


def write(
    root: Path,
    name: str,
    classes: Sequence[str],
    folds: Sequence[Sequence[int]],
    tested: Sequence[Sequence[int]],
    entries: Iterable[Entry],
    recipe: dict[str, Any],
) -> Benchmark:
    """Write the index, last of all: a folder without one is not prepared.

    Arguments:
        root: the folder that will hold it.
        name: the benchmark's name.
        classes: names of the classes.
        folds: novel class ids of each fold.
        tested: those that are tested.
        entries: the images.
        recipe: what made the benchmark what it is; plain JSON values.

    Returns:
        the benchmark, as `read` gives it.

    Raises:
        DPNetError: the index cannot be written.
    """
    images = [
        {**vars(e), "size": list(e.size), "pixels": {str(c): n for c, n in e.pixels.items()}}
        for e in sorted(entries, key=lambda e: e.id)
    ]
    index = {
        "version": VERSION,
        "benchmark": name,
        "classes": list(classes),
        "recipe": recipe,
        "entries": images,
    }
    index |= {"folds": [list(fold) for fold in folds], "tested": [list(fold) for fold in tested]}
    index["digest"] = _digest(index)
    save_file(root / INDEX, (_pack(index) + "\n").encode(), WHERE)
    return read(root)


def read(root: Path) -> Benchmark:
    """Read a prepared benchmark.

    Arguments:
        root: the folder that holds its index.

    Returns:
        the benchmark.

    Raises:
        DPNetError: the index is missing, corrupt, or of another version.
    """
    file = Path(root) / INDEX
    try:
        index = json.loads(file.read_text("utf-8"))
        if index["version"] != VERSION:
            version = f"{file}: has version {index['version']}, not {VERSION}"
            raise DPNetError(f"{version}: delete it and prepare the benchmark again")
        if index["digest"] != _digest(index):
            raise ValueError("its content does not match its digest")
        entries = tuple(
            Entry(
                **{key: e[key] for key in ("id", "split", "image", "label")},
                size=(e["size"][0], e["size"][1]),
                pixels={int(c): e["pixels"][c] for c in sorted(e["pixels"], key=int)},
            )
            for e in index["entries"]
        )
        folds, tested = (tuple(tuple(fold) for fold in index[key]) for key in ("folds", "tested"))
        classes, recipe = tuple(index["classes"]), index["recipe"]
        return Benchmark(index["benchmark"], Path(root), classes, folds, tested, entries, index["digest"], recipe)
    except (FileNotFoundError, NotADirectoryError):
        prepare = "python -m dpnet prepare BENCHMARK --root DATA"
        raise DPNetError(f"{file}: missing: prepare it: {prepare}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise DPNetError(f"{file}: corrupt ({why}): delete it and prepare the benchmark again") from error


def png(mask: np.ndarray, note: str = "") -> bytes:
    """The palette PNG of a label.

    Arguments:
        mask: uint8 [H, W].
        note: what it was made from; kept in the file.

    Returns:
        its bytes, in VOC's colours.
    """
    coloured, info = Image.fromarray(mask), PngInfo()
    coloured.putpalette(_palette())
    if note:
        info.add_text(NOTE, note)
    coloured.save(packed := BytesIO(), "PNG", pnginfo=info)
    return packed.getvalue()


def in_processes(
    work: Callable[[Task], list[Result]], tasks: Sequence[Task], workers: int | None, root: Path
) -> Iterator[Result]:
    """Do tasks in several processes.

    Arguments:
        work: a function of a module; what it raises comes out here.
        tasks: its arguments.
        workers: processes; one per core if None, none but this one if 1.
        root: the folder that is being filled, for the message.

    Returns:
        the results, one after the other, in the order of the tasks.

    Raises:
        DPNetError: a process died.
    """
    processes = min(workers or os.cpu_count() or 1, len(tasks))
    if processes <= 1:
        yield from (result for task in tasks for result in work(task))
        return
    # spawn, because a fork of a process with threads (torch's, a notebook's) may hang
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), end_with_parent) as pool:
            yield from (result for part in pool.map(work, tasks) for result in part)
    except BrokenProcessPool as error:
        why = "a script needs its `if __name__ == '__main__'`, or memory ran out"
        raise DPNetError(f"{root}: a process that fills it died ({why}): try workers=1") from error


def _palette() -> list[int]:
    # VOC's colours: bit by bit of the id, to red, green and blue in turn, the highest bits first.
    return [
        sum(((c >> (3 * k + channel)) & 1) << (7 - k) for k in range(3)) for c in range(256) for channel in range(3)
    ]


def end_with_parent() -> None:
    """In a worker: or it waits for ever for the next task of a parent that was killed."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()
