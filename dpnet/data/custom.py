"""A benchmark of your own: images, label PNGs and a list of class names."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from dpnet import io
from dpnet.config import VOID
from dpnet.data import images, index, legend, pairing
from dpnet.data.index import WHERE, Benchmark, Entry, Item, png
from dpnet.data.legend import Legend
from dpnet.io import DPNetError, progress

EVERY = 4  # about each 4th image of a class is val
LEAST = 3  # classes: two to train on, and one that is new
ORIENTATION = 0x0112  # of EXIF: 1 upright, 2 to 4 mirrored or upside down, 5 to 8 lying


def _fitted(items: list[Item], classes: Legend, root: Path) -> list[Item]:
    """The items, where labels hold ids and images stand upright: those that do not are made anew, in `root`."""

    def fit(item: Item) -> Item | str:
        name, split, image, label = item
        try:
            with Image.open(label) as mask, Image.open(image) as picture:
                size, plain, turn = mask.size, classes.plain(mask), picture.getexif().get(ORIENTATION, 1)
                # Who painted the label saw the photograph upright, unless the sizes say otherwise.
                seen = picture.size if turn < 5 else picture.size[::-1]
                if size not in (seen, picture.size):
                    return f"{label}: the mask is {_by(size)}, its image {image} {_by(seen)}: make them the same size"
                if turn in range(2, 9) and size == seen:
                    upright = images.rgb(ImageOps.exif_transpose(picture), image)
                    upright.save(packed := BytesIO(), "JPEG", quality=95)
                    io.write(image := root / "made" / "images" / f"{name}.jpg", packed.getvalue(), WHERE)
            if not plain:
                content = png(classes.ids(label))
                io.write(label := root / "made" / "labels" / f"{name}.png", content, WHERE)
        except DPNetError as error:
            return str(error)
        except Image.DecompressionBombError as error:
            return f"{image}: {error}: cut it, or scale it down"
        except (OSError, SyntaxError, ValueError, EOFError):
            pass  # a broken file: `scan` says which and why
        return name, split, image, label

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(progress(pool.map(fit, items), "looking at files", "image", len(items)))
    index.complain([problem for problem in done if isinstance(problem, str)])
    fitted = [item for item in done if not isinstance(item, str)]
    for place, what in ((2, "photographs were turned upright, as their EXIF notes say"), (3, "labels became ids")):
        number = sum(old[place] != new[place] for old, new in zip(items, fitted, strict=True))
        if number:
            print(f"{number} {what}: copies are in {root / 'made'}")
    return fitted


def _content(items: list[Item], classes: Legend) -> str:
    """What all files hold, wherever they lie: labels that were mirrored have the names and counts that they had."""

    def held(item: Item) -> list[str]:
        return [item[0], *(hashlib.sha256(path.read_bytes()).hexdigest() for path in item[2:])]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        everything = [sorted(classes.colours.items()), *pool.map(held, sorted(items))]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _divided(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """A quarter of each class's images to val, at least two if two are left to train on; the rarest class first."""
    shuffled = sorted(entries, key=lambda entry: hashlib.sha256(entry.id.encode()).digest())  # names have an order
    shown = [(e.id, {c for c in e.pixels if e.pixels[c] >= index.least(e.size)} - {0, VOID}) for e in shuffled]
    of = {c: [name for name, mine in shown if c in mine] for c in set().union(*(mine for _, mine in shown))}
    tested: set[str] = set()
    trained: set[str] = set()
    for mine in sorted(of.values(), key=lambda mine: (len(mine), mine)):
        wanted = min(max(2, round(len(mine) / EVERY)), max(0, len(mine) - 2))
        free = [i for i in mine if i not in tested | trained]
        tested.update(free[: max(0, wanted - len(tested & set(mine)))])
        trained.update(i for i in mine if i not in tested)
    return tuple(replace(entry, split="val" if entry.id in tested else "train") for entry in entries)


def _cut(names: Sequence[str], folds: str) -> tuple[tuple[int, ...], ...]:
    """Folds as they are given, "2" or "cat,dog;cow"; or by themselves: up to 4, of two classes where that can be."""
    n = len(names)
    if n < LEAST:
        raise DPNetError(
            f"{n} class(es), {', '.join(map(repr, names))}: give at least {LEAST}, one name per line, since a fold's "
            "classes are left out of training, which needs two"
        )
    if not folds:
        return index.split_folds(n, min(4, n // 2) if n > LEAST else n)
    if folds.isdecimal():
        if not 1 < int(folds) <= n:
            raise DPNetError(f"folds={folds}: must be 2 to {n}, the number of classes")
        return index.split_folds(n, int(folds))
    parts = [[name.strip() for name in part.split(",")] for part in folds.split(";")]
    listed = [name for part in parts for name in part]
    unknown = sorted(set(listed) - set(names))
    if unknown or len(set(listed)) < len(listed):
        parted = next((name for name in names if "," in name or ";" in name), None)
        if unknown and parted:
            raise DPNetError(
                f"folds={folds!r}: the class {parted!r} cannot be named, since , and ; stand between names: write a "
                "number, or rename it in the class list"
            )
        what = f"no class is called {unknown[0]!r}" if unknown else "a class stands there twice"
        raise DPNetError(f"folds={folds!r}: {what}: write a number, or classes like {names[0]},{names[1]};{names[2]}")
    return tuple(tuple(names.index(name) + 1 for name in part) for part in parts)


def _tested(whole: Benchmark, labels: Path) -> tuple[tuple[int, ...], ...]:
    """The classes of each fold with two images for testing; DPNetError if none has, or no two are left to train."""
    tested = tuple(tuple(c for c in fold if len(whole.images_of(c, "val")) > 1) for fold in whole.folds)
    counts = [f"{name} {len(whole.images_of(c, 'val'))}" for c, name in enumerate(whole.classes, 1)]
    counted = "an image counts for a class that covers 2,048 of its pixels, fewer if it is small"
    if not any(tested):
        raise DPNetError(
            f"{labels}: no class has two images for testing (found: {', '.join(counts)}): {counted}: add labelled "
            "images, or name more in val.txt where lists say the split"
        )
    for fold, classes in enumerate(tested):
        base = [whole.classes[c - 1] for c in whole.trainable(fold, 1)]
        if classes and len(base) < 2:
            novel = ", ".join(whole.classes[c - 1] for c in whole.folds[fold])
            raise DPNetError(
                f"{labels}: without {novel} (fold {fold}) two classes must have two training images each, and "
                f"{', '.join(base) or 'none'} has: {counted}: add images, or cut other folds with --folds"
            )
    return tested


def prepare_folder(
    images: Path, labels: Path, classes: Path, data: Path, folds: str = "", lists: Path | None = None
) -> Benchmark:
    """Index images of your own; always anew, since only you know when they changed.

    What does not fit as it is (labels in colours, photographs that lie) is copied into the data folder and made to
    fit; your own files are only read.

    Arguments:
        images: folder of images, also in sub-folders; those without a label are left out.
        labels: folder of PNGs named like the images: 0 background, 1…n classes, 255 void; or colours.
        classes: text file with the n names, one per line, in the order of the ids; with a colour each, "cup:255,0,0",
            for labels in colours.
        data: the data folder; the index becomes `data`/folder/index.json.
        folds: their number, or their classes by name, "cat,dog;cow,hen"; "": by themselves.
        lists: folder of train.txt and val.txt, as in VOC's layout; None, or where neither is there: about a quarter
            of each class's images is val.

    Returns:
        the benchmark. A class with fewer than two images in val is not tested.

    Raises:
        DPNetError: files are missing or bad; then there is no index, not an older one either where files were read.
    """
    root, labels, known = Path(data) / "folder", Path(labels), legend.read(Path(classes))
    novel = _cut(known.names, folds)
    index.need_writable(root)
    items = pairing.items(Path(images), labels, lists)
    (root / index.INDEX).unlink(missing_ok=True)  # copies that it names are about to be overwritten
    entries = index.scan(root, _fitted(items, known, root), len(known.names), "reading folder")
    if not all(entry.split for entry in entries):
        entries = _divided(entries)
    seen = {value for entry in entries for value in entry.pixels}
    if not seen - {0, VOID}:
        why = "only 0 and 255, which is void" if VOID in seen else "only 0, the background"
        raise DPNetError(f"{labels}: the labels hold {why}: a class has its line's number in {classes}, from 1")
    absent = [name for c, name in enumerate(known.names, 1) if c not in seen]
    if absent:
        print(f"in no label: {', '.join(absent)} (a class has its line's number in {known.file} as its id, from 1)")
    whole = Benchmark("folder", root, known.names, novel, novel, entries, digest="")
    recipe = {"folds": len(novel), "content": _content(items, known)}
    return index.write(root, "folder", known.names, novel, _tested(whole, labels), entries, recipe)
