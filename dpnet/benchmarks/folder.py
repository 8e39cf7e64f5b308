"""A benchmark of your own: images, label PNGs and a list of class names."""

import hashlib
from dataclasses import replace
from pathlib import Path

from dpnet.benchmarks.layout import VOID, Benchmark, Entry, Item, need_writable, scan, split_folds, write
from dpnet.errors import DPNetError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
EVERY = 4  # about each 4th image of a class is val
LEAST = 3  # classes: two to train on, and one that is new


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise DPNetError(f"{file}: no such file: write the class names, one per line, in the order of their ids")
    try:
        names = [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except ValueError:
        raise DPNetError(f"{file}: not UTF-8 text: it lists the class names, one per line") from None
    if not 1 <= len(names) <= 254:
        raise DPNetError(f"{file}: {len(names)} class names: write 1 to 254, one per line, in order of their ids")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DPNetError(f"{file}: {twice[0]!r} stands there twice: give each class its own name")
    return names


def _within(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    # By their names without suffix; those in sub-folders with the way there: "cats/0001".
    if not folder.is_dir():
        raise DPNetError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file():
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise DPNetError(f"{path}: {found[key].name} has the same name: rename or remove one")
            found[key] = path
    return found


def _items(images: Path, labels: Path) -> list[Item]:
    masks = _within(labels, (".png",))
    if len(masks) < EVERY:
        raise DPNetError(f"{labels}: {len(masks)} label PNGs: give at least {EVERY}")
    pictures = {key: path for key, path in _within(images, SUFFIXES).items() if path not in masks.values()}
    if not pictures:
        raise DPNetError(f"{images}: no image in it ({', '.join(SUFFIXES)})")
    alone = {path.stem: path for path in pictures.values()}  # for labels that lie flat, and images in folders
    if len(alone) == len(pictures):
        pictures = alone | pictures
    missing = [key for key in masks if key not in pictures]
    if len(missing) == len(masks):
        raise DPNetError(_unpaired(masks[missing[0]], sorted(pictures), images))
    return [(key, "train", pictures.get(key, images / f"{key}.*"), mask) for key, mask in sorted(masks.items())]


def _divided(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """A quarter of each class's images to val, at least two if two are left to train on; the rarest class first."""
    shuffled = sorted(entries, key=lambda entry: hashlib.sha256(entry.id.encode()).digest())  # names have an order
    of = {c: [e.id for e in shuffled if c in e.pixels] for c in {c for e in entries for c in e.pixels} - {0, VOID}}
    tested: set[str] = set()
    trained: set[str] = set()
    for mine in sorted(of.values(), key=lambda mine: (len(mine), mine)):
        wanted = min(max(2, round(len(mine) / EVERY)), max(0, len(mine) - 2))
        free = [i for i in mine if i not in tested | trained]
        tested.update(free[: max(0, wanted - len(tested & set(mine)))])
        trained.update(i for i in mine if i not in tested)
    return tuple(replace(entry, split="val" if entry.id in tested else "train") for entry in entries)


def _unpaired(mask: Path, keys: list[str], images: Path) -> str:
    """What is said where no label has the name of an image."""
    expected = "a label has its image's name and ends in .png"
    for key in keys:
        name = Path(key).name
        for longer, shorter, whose in ((mask.stem, name, "labels"), (name, mask.stem, "images")):
            if shorter and longer != shorter and longer.startswith(shorter):
                return (
                    f"{mask}: its image is {key}: the names of {whose} end in {longer[len(shorter) :]!r}: {expected}"
                )
    return f"{mask}: no image of that name in {images}, which has {keys[0]} …: {expected}"


def _cut(names: list[str], folds: str) -> tuple[tuple[int, ...], ...]:
    """Folds as they are given, "2" or "cat,dog;cow"; or by themselves: up to 4, of two classes where that can be."""
    n = len(names)
    if n < LEAST:
        raise DPNetError(
            f"{n} class(es): give at least {LEAST}, since a fold's classes are left out of training, which needs two"
        )
    if not folds:
        return split_folds(n, min(4, n // 2) if n > LEAST else n)
    if folds.isdigit():
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


def prepare_folder(images: Path, labels: Path, classes: Path, data: Path, folds: str = "") -> Benchmark:
    """Index images of your own; always anew, since only you know when they changed.

    Arguments:
        images: folder of images, also in sub-folders; those without a label are left out.
        labels: folder of PNGs named like the images: 0 background, 1…n classes, 255 void.
        classes: text file with the n names, one per line, in the order of the ids.
        data: the data folder; the index becomes `data`/folder/index.json.
        folds: their number, or their classes by name, "cat,dog;cow,hen"; "": by themselves.

    Returns:
        the benchmark; about a quarter of each class's images is val. One with fewer than two of those is not tested.

    Raises:
        DPNetError: files are missing or bad; then nothing is written.
    """
    root, names = Path(data) / "folder", _names(Path(classes))
    novel = _cut(names, folds)
    need_writable(root)
    entries = _divided(scan(root, _items(Path(images), Path(labels)), len(names), "reading folder"))
    seen = {value for entry in entries for value in entry.pixels}
    if not seen - {0, VOID}:
        why = "only 0 and 255, which is void" if VOID in seen else "only 0, the background"
        raise DPNetError(f"{labels}: the labels hold {why}: a class has its line's number in {classes}, from 1")
    whole = Benchmark("folder", root, tuple(names), novel, novel, entries, digest="")
    tested = tuple(tuple(c for c in fold if len(whole.images_of(c, "val")) > 1) for fold in novel)
    if not any(tested):
        raise DPNetError(
            f"{labels}: no class has two images for testing, which are every {EVERY}th by name: give more"
        )
    return write(root, "folder", names, novel, tested, entries, {"folds": len(novel)})
