"""A benchmark of your own images: folds, a split, and an index."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dpnet.config import VOID
from dpnet.data import checks, index
from dpnet.data.forms import Own, need_names
from dpnet.data.index import SPLITS, Benchmark, Entry, Folds, counting, split_folds
from dpnet.io import DPNetError

USAGE = "dpnet prepare folder --images DIR --labels DIR --classes FILE (or --voc DIR, or --coco FILE)"


def divide(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """A quarter of each class's images to val, at least two if two are left to train on; the rarest class first."""
    images_of: dict[int, list[str]] = {}
    for entry in sorted(entries, key=lambda entry: hashlib.sha256(entry.id.encode()).digest()):  # names have an order
        for c in counting(entry):
            images_of.setdefault(c, []).append(entry.id)
    to_test: set[str] = set()
    trained: set[str] = set()
    for names in sorted(images_of.values(), key=lambda names: (len(names), names)):
        wanted = min(max(2, round(len(names) / 4)), max(0, len(names) - 2))
        free = [name for name in names if name not in to_test | trained]
        to_test.update(free[: max(0, wanted - len(to_test & set(names)))])
        trained.update(name for name in names if name not in to_test)
    return tuple(replace(entry, split="val" if entry.id in to_test else "train") for entry in entries)


def cut_folds(names: Sequence[str], folds: str) -> Folds:
    """Folds as they are given, "2" or "cat,dog;cow"; or by themselves: up to 4, of two classes where that can be."""
    n = len(names)
    number = folds or str(min(4, n // 2) if n > 3 else n)
    if number.isdecimal() and 1 < int(number) <= n:
        return split_folds(n, int(number))
    parts = [[name.strip() for name in part.split(",")] for part in folds.split(";")]
    listed = [name for part in parts for name in part]
    if len(set(listed) & set(names)) < len(listed):
        how = f"write a number, 2 to {n}, or classes, each once, like {names[0]},{names[1]};{names[2]}"
        raise DPNetError(f"folds={folds!r}, and the classes are {', '.join(names)}: {how}")
    return tuple(tuple(names.index(name) + 1 for name in part) for part in parts)


def tested_classes(whole: Benchmark, thin: list[str]) -> Folds:
    """The classes of each fold with two images for testing; DPNetError if none has, or no two are left to train."""
    two = {s: {c for c in range(1, len(whole.classes) + 1) if len(whole.images_of(c, s)) > 1} for s in SPLITS}
    tested = tuple(tuple(c for c in fold if c in two["val"]) for fold in whole.folds)
    short = [fold for fold in whole.folds if two["val"] & {*fold} and len(two["train"] - {*fold}) < 2]
    if short or not any(tested):
        new = ", ".join(whole.classes[c - 1] for fold in short[:1] for c in fold)
        why = f"without {new} two classes need two training images each" if short else "no class has two test images"
        counts = [[name, *(len(whole.images_of(c, s)) for s in SPLITS)] for c, name in enumerate(whole.classes, 1)]
        listed = ", ".join("{} {}+{}".format(*count) for count in counts)
        rule = "; ".join(["an image counts for a class of 2,048 pixels or more, fewer if it is small", *thin[:1]])
        raise DPNetError(f"{why} (train+val: {listed}): {rule}: add images, or cut other folds with --folds")
    return tested


def prepare(own: Own, root: Path, folds: str, size: int) -> Benchmark:
    """Make what labels are still to be made of own data, and index it in `root`, the data folder's `folder`.

    Always anew, since only you know when it changed. `folds` is a number, or classes by name, "cat,dog;cow,hen"; the
    split is own data's, or else is made. `size` is the side of the network's square.
    """
    need_names(own, 3)
    names, notes = own.names, own.notes
    novel = cut_folds(names, folds)
    index.need_writable(root)
    (root / index.INDEX).unlink(missing_ok=True)  # copies that it names are about to be overwritten
    items = sorted(own.make())
    entries = index.scan(root, items, len(names), "reading folder", size)
    entries = entries if all(entry.split for entry in entries) else divide(entries)
    seen = {value for entry in entries for value in entry.pixels}
    if seen <= {VOID}:
        what = "the labels hold only 0, the background, or 255, which is void: the first class is 1"
        raise DPNetError(f"{items[0][3].parent}: {what}")
    whole = Benchmark("folder", root, names, novel, novel, entries)
    thin = checks.too_thin(whole, size)
    # Labels that were mirrored have the names, sizes and counts that they had.
    files = index.in_threads(lambda item: (item[0], *map(_digest, item[2:])), items, "reading files")
    twins = len(files) - len({photograph for _, photograph, _ in files})
    absent = ", ".join(name for c, name in enumerate(names, 1) if c not in seen)
    notes += [f"in no label: {absent}"] if absent else []
    notes += [f"{twins} images are there twice: scores are too good where one supports the other"] if twins else []
    notes += [*checks.conversions(item[2] for item in items), *thin]
    content = hashlib.sha256(repr(files).encode()).hexdigest()
    recipe = {"folds": len(novel), "content": content, "size": size, "notes": notes}
    return index.write(replace(whole, tested=tested_classes(whole, thin), recipe=recipe))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
