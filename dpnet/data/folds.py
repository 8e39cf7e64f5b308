"""Who is trained on and who is tested: folds of classes, and the split of images that come without one."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dpnet.config import VOID
from dpnet.data.index import Benchmark, Entry, Folds, least
from dpnet.io import DPNetError

EVERY = 4  # about each 4th image of a class is val
LEAST_CLASSES = 3  # two to train on, and one that is new


def split_folds(classes: int, folds: int = 4) -> Folds:
    """Cut the class ids into contiguous folds, as equal as possible."""
    return tuple(tuple(int(c) for c in part) for part in np.array_split(np.arange(1, classes + 1), folds))


def divide(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """A quarter of each class's images to val, at least two if two are left to train on; the rarest class first."""
    shuffled = sorted(entries, key=lambda entry: hashlib.sha256(entry.id.encode()).digest())  # names have an order
    classes = {e.id: {c for c, n in e.pixels.items() if n >= least(e.size)} - {VOID, *e.thin} for e in shuffled}
    images_of = {c: [name for name, some in classes.items() if c in some] for c in set().union(*classes.values())}
    to_test: set[str] = set()
    trained: set[str] = set()
    for names in sorted(images_of.values(), key=lambda names: (len(names), names)):
        wanted = min(max(2, round(len(names) / EVERY)), max(0, len(names) - 2))
        free = [name for name in names if name not in to_test | trained]
        to_test.update(free[: max(0, wanted - len(to_test & set(names)))])
        trained.update(name for name in names if name not in to_test)
    return tuple(replace(entry, split="val" if entry.id in to_test else "train") for entry in entries)


def cut_folds(names: Sequence[str], folds: str) -> Folds:
    """Folds as they are given, "2" or "cat,dog;cow"; or by themselves: up to 4, of two classes where that can be."""
    n = len(names)
    if n < LEAST_CLASSES:
        why = f"give at least {LEAST_CLASSES}, since a fold's classes are left out of training, which needs two"
        raise DPNetError(f"{n} class(es), {', '.join(map(repr, names))}: {why}")
    if not folds:
        return split_folds(n, min(4, n // 2) if n > LEAST_CLASSES else n)
    if folds.isdecimal():
        if not 1 < int(folds) <= n:
            raise DPNetError(f"folds={folds}: must be 2 to {n}, the number of classes")
        return split_folds(n, int(folds))
    parts = [[name.strip() for name in part.split(",")] for part in folds.split(";")]
    listed = [name for part in parts for name in part]
    unknown = sorted(set(listed) - set(names))
    if unknown or len(set(listed)) < len(listed):
        what = f"no class is called {unknown[0]!r}" if unknown else "a class stands there twice"
        raise DPNetError(f"folds={folds!r}: {what}: write a number, or classes like {names[0]},{names[1]};{names[2]}")
    return tuple(tuple(names.index(name) + 1 for name in part) for part in parts)


def tested_classes(whole: Benchmark, thin: list[str]) -> Folds:
    """The classes of each fold with two images for testing; DPNetError if none has, or no two are left to train."""
    classes_of = tuple(tuple(c for c in fold if len(whole.images_of(c, "val")) > 1) for fold in whole.folds)
    counts = ", ".join(f"{name} {len(whole.images_of(c, 'val'))}" for c, name in enumerate(whole.classes, 1))
    counted = "; ".join(["an image counts for a class of 2,048 pixels or more, fewer if it is small", *thin[:1]])
    if not any(classes_of):
        raise DPNetError(f"no class has two images for testing ({counts}): {counted}: add images, or more to val")
    for fold, classes in enumerate(classes_of):
        base = [whole.classes[c - 1] for c in whole.trainable(fold, 1)]
        if classes and len(base) < 2:
            novel = ", ".join(whole.classes[c - 1] for c in whole.folds[fold])
            raise DPNetError(
                f"without {novel} (fold {fold}) two classes must have two training images each, and "
                f"{', '.join(base) or 'none'} has: {counted}: add images, or cut other folds with --folds"
            )
    return classes_of
