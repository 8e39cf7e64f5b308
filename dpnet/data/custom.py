"""A benchmark of your own images, in one of three forms: label PNGs and names, VOC's layout, or COCO's JSON."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from dpnet import io
from dpnet.config import VOID
from dpnet.data import checks, coco, images, index
from dpnet.data.index import SPLITS, WHERE, Benchmark, Entry, Folds, Item, counting, split_folds
from dpnet.io import DPNetError

USAGE = "dpnet prepare folder --images DIR --labels DIR --classes FILE (or --voc DIR, or --coco FILE)"
SIZE = 241  # of the network in the preset `quick`
LEAST = 4  # labels
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LIKE_SPLITS = {*SPLITS, "training", "valid", "validation", "test", "testing"}
COLOURED = re.compile(r"([^:]+):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")  # a line of CVAT's labelmap.txt
NAME = re.compile(r"(?!.*(\s\d+){3}$)\w[\w .()'&+/-]*")  # not Supervisely's "cup 128 0 0"
TITLES = {"name", "names", "class", "classes", "label", "labels", "id", "category"}
NOTHING, NOBODY_KNOWS = {"background", "_background_"}, {"void", "ignore", "ignored", "__ignore__"}  # 0 and 255
Names = tuple[str, ...]  # of the classes, in the order of their ids
Colours = dict[tuple[int, ...], int]  # what each means where labels have colours


def prepare_folder(
    photos: Path, labels: Path, names: Path, data: Path, folds: str = "", lists: Path | None = None, size: int = SIZE
) -> Benchmark:
    """Index images of your own, in `data`/folder; always anew, since only you know when they changed.

    Labels are PNGs named like the images. `names` lists the classes, a name per line, or is CVAT's labelmap.txt.
    `folds` is a number, or classes by name, "cat,dog;cow,hen". `lists` is the folder of train.txt and val.txt; else
    sub-folders train and val are the split; else it is made. `size` is the side of the network's square.
    """
    root, (known, colours) = Path(data) / "folder", read_label_map(Path(names))
    items, notes = _pair(Path(photos), Path(labels), lists)
    look = partial(_one_palette, classes=len(known), palettes={})
    if colours:
        look = partial(_ids_of_colours, colours=colours, root=root)
        notes.append(f"{len(items)} labels in colours became ids, as the class list says")
    return _index(root, names, known, folds, lambda: index.in_threads(look, items, "looking at labels"), notes, size)


def prepare_voc(voc: Path, data: Path, folds: str = "", classes: Path | None = None, size: int = SIZE) -> Benchmark:
    """Index a folder in VOC's layout, as CVAT (labelmap.txt) and labelme2voc (class_names.txt) write it."""
    kinds = ("SegmentationClass", "SegmentationClassPNG", "SegmentationClassAug")
    labels = next((voc / kind for kind in kinds if any((voc / kind).rglob("*.[pP][nN][gG]"))), None)
    maps = [voc / name for name in ("labelmap.txt", "class_names.txt") if (voc / name).is_file()]
    if labels is None or (classes is None and len(maps) != 1):
        there = ", ".join(sorted(path.name for path in voc.glob("*"))[:8]) or "nothing"
        expected = "JPEGImages, SegmentationClass (label PNGs, not boxes), ImageSets/Segmentation, and one class list"
        how = "labelmap.txt (CVAT) or class_names.txt (labelme2voc), or another with --classes"
        raise DPNetError(f"{voc}: holds {there}; expected {expected}: {how}")
    folder = voc / "ImageSets" / "Segmentation"
    listed = {file.stem for file in folder.glob("*.txt")} - {"default", "trainval"}  # CVAT's without subsets; VOC's
    if listed and not listed & {*SPLITS}:
        raise DPNetError(f"{folder}: holds {', '.join(sorted(listed))}: name the lists train.txt and val.txt")
    lists = folder if listed else None
    return prepare_folder(voc / "JPEGImages", labels, classes or maps[0], data, folds, lists, size)


def prepare_coco(
    train: Path, data: Path, val: Path | None = None, photos: Path | None = None, folds: str = "", size: int = SIZE
) -> Benchmark:
    """Index COCO instances JSON, one file or train and val; photographs lie in their folder, or beside the JSON."""
    root, parts, notes = Path(data) / "folder", [], []
    for split, file in {"train": train, "val": val}.items() if val else {"": train}.items():
        base = photos or Path(file).parent
        parts.append(coco.read(Path(file), [base, base / split], root / "made" / "labels" / split, split))
        notes += parts[-1].notes
    names = parts[0].names
    if any(part.names != names for part in parts):
        raise DPNetError(f"{val}: has other categories than {train}: export both from one project")
    pictures = [picture for part in parts for picture in part.pictures]
    return _index(root, train, names, folds, lambda: coco.paint_all(pictures), notes, size)


def read_label_map(file: Path) -> tuple[Names, Colours]:
    """The names and colours of a class list: a name per line, line n being class n, after labelme's _background_; or
    CVAT's labelmap.txt, `cup:255,0,0::` in each line. DPNetError otherwise: no name is trimmed, moved or guessed.
    """
    how = "write only the class names, one per line, in the order of their ids 1…n, into a .txt file"
    try:
        if file.suffix.lower() not in (".txt", ""):
            raise ValueError(f"a {file.suffix} file")
        lines = [line.rstrip() for line in file.read_text("utf-8-sig").rstrip().splitlines()]
    except (OSError, ValueError) as error:
        raise DPNetError(f"{file}: no list of names ({error}): {how}") from None
    if lines[:1] == ["# label:color_rgb:parts:actions"] or (lines and COLOURED.fullmatch(lines[0])):
        return _coloured(file, lines[lines[0].startswith("#") :])
    # labelme's ids of these two are -1, which is 255 in a PNG, and 0
    first = next((top for top in (["__ignore__", "_background_"], ["_background_"]) if lines[: len(top)] == top), [])
    names = lines[len(first) :]
    numbered = len(names) > 1 and all(re.match(r"\d+\s", name) for name in names)
    for number, name in enumerate(names, len(first) + 1):
        no_class = NOTHING | NOBODY_KNOWS | (TITLES if name == names[0] else set())
        if numbered or name.lower() in no_class or not NAME.fullmatch(name):
            raise DPNetError(f"{file}: line {number}, {name!r}, is not a class name alone: {how}")
    return tuple(names), {}


def _coloured(file: Path, lines: Sequence[str]) -> tuple[Names, Colours]:
    names: list[str] = []
    colours: Colours = {}
    for line in lines:
        parts = COLOURED.fullmatch(line)
        colour = tuple(int(value) for value in parts.groups()[1:]) if parts else ()
        if parts is None or max(colour) > 255 or colour in colours:
            raise DPNetError(f"{file}: {line!r}: write each line as CVAT does, cup:255,0,0::, in its own colour")
        name = parts[1].lower()
        names += [parts[1]] if name not in NOTHING | NOBODY_KNOWS else []
        colours[colour] = 0 if name in NOTHING else VOID if name in NOBODY_KNOWS else len(names)
    return tuple(names), colours if 0 in colours.values() else {(0, 0, 0): 0} | colours


def _one_palette(item: Item, classes: int, palettes: dict[Any, Any]) -> Item:
    """The item; in the palettes of all labels together an id has one colour, and a colour one id."""
    image, label = images.opened(item[3]), item[3]
    used = images.used_palette(image, label, classes) if image.mode == "P" else {}
    for pair in used.items():
        for other, file in [palettes.setdefault(key, (pair, label)) for key in pair]:
            if other != pair:
                both = f"{pair[0]} is {pair[1]}, and in {file} {other[0]} is {other[1]}"
                raise DPNetError(f"{label}: {both}: a tool renumbered the palette: {images.GREY}")
    return item


def _ids_of_colours(item: Item, colours: Colours, root: Path) -> Item:
    """The item, with a copy of its label in `root`, in which ids stand for colours."""
    name, split, photograph, label = item
    image = images.opened(label)
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (VOID, VOID):
        raise DPNetError(f"{label}: has transparent pixels: save it without")
    pixels = np.asarray(image.convert("RGB"))
    ids = np.full(pixels.shape[:2], -1, np.int16)
    for colour, value in colours.items():
        ids[(pixels == colour).all(2)] = value
    if others := {",".join(map(str, colour)) for colour in pixels[ids < 0].tolist()}:
        listed = "; ".join(sorted(others)[:4])
        raise DPNetError(f"{label}: has {len(others)} colour(s) that the class list lacks: {listed}: add them to it")
    copy = root / "made" / "labels" / f"{name}.png"
    io.write(copy, index.png(ids.astype(np.uint8)), WHERE)
    return name, split, photograph, copy


def _pair(photographs: Path, labels: Path, lists: Path | None) -> tuple[list[Item], list[str]]:
    """Each label with the image of its name, and its split, "" where nothing says it; and what was left out."""
    masks = _named(labels, (".png",))
    suffixes = SUFFIXES if photographs.resolve() != labels.resolve() else tuple(s for s in SUFFIXES if s != ".png")
    pictures = _named(photographs, suffixes)
    if len(masks) < LEAST or not pictures:
        there = f"{len(masks)} label PNGs, and {len(pictures)} images ({', '.join(suffixes)}) in {photographs}"
        raise DPNetError(f"{labels}: {there}: give at least {LEAST}")
    splits = _lists(lists, masks) if lists else _split_folders(labels, masks)
    how = f"no image of this name in {photographs}: a label has its image's name and sub-folder, and ends in .png"
    index.complain([f"{masks[key]}: {how}" for key in splits if key not in pictures])
    unused = len(pictures) - len(splits)
    notes = [f"{unused} images left out: they have no label, or stand in no list"] * (unused > 0)
    return [(key, split, pictures[key], masks[key]) for key, split in sorted(splits.items())], notes


def _named(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Files by their names without suffix; those in sub-folders with the way there: "cats/0001"."""
    files: dict[str, Path] = {}
    if not folder.is_dir():
        raise DPNetError(f"{folder}: {'not a folder: unpack it' if folder.exists() else 'no such folder'}")
    for name in sorted(glob("**/*", root_dir=folder, recursive=True)):  # leaves out hidden ones
        path = folder / name
        if path.suffix.lower() not in suffixes or "__MACOSX" in path.parts:
            continue
        if not str(path.absolute()).isprintable():
            raise DPNetError(f"{str(path)!a}: rename it: its name is not UTF-8 text")
        # One system writes "ü" as one character, another as two.
        key = unicodedata.normalize("NFC", Path(name).with_suffix("").as_posix())
        if files.setdefault(key, path) is not path:
            raise DPNetError(f"{path}: {files[key].name} has the same name: rename or remove one")
    return files


def _split_folders(folder: Path, keys: Collection[str]) -> dict[str, str]:
    """The split of each file by its sub-folder, train or val; "" for each where there are no such sub-folders."""
    splits = {key: key.split("/")[0] if "/" in key else "no sub-folder" for key in keys}
    tops = {*splits.values()}
    if {top.lower() for top in tops} & LIKE_SPLITS and tops != {*SPLITS}:
        where = ", ".join(sorted(tops))
        raise DPNetError(f"{folder}: labels lie in {where}: put all into sub-folders train and val, or into none")
    return splits if tops == {*SPLITS} else dict.fromkeys(keys, "")


def _lists(lists: Path, masks: Collection[str]) -> dict[str, str]:
    """The split of each image that train.txt and val.txt name."""
    splits: dict[str, str] = {}
    for split in SPLITS:
        file = lists / f"{split}.txt"
        try:
            text = unicodedata.normalize("NFC", file.read_text("utf-8-sig"))
        except (OSError, ValueError):
            text = ""
        names = [line.strip() for line in text.splitlines() if line.strip()]
        wrong = [name for name in names if name not in masks or splits.setdefault(name, split) != split]
        if wrong or not names:
            why = f"{wrong[0]!r} has no label of its name, or is in train.txt too" if wrong else "no text with a name"
            raise DPNetError(f"{file}: {why}: name each image of the split in a line, without folder and suffix")
    return splits


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
    tested = tuple(tuple(c for c in fold if len(whole.images_of(c, "val")) > 1) for fold in whole.folds)
    short = [fold for i, fold in enumerate(whole.folds) if tested[i] and len(whole.trainable(i, 1)) < 2]
    if short or not any(tested):
        new = ", ".join(whole.classes[c - 1] for fold in short[:1] for c in fold)
        why = f"without {new} two classes need two training images each" if short else "no class has two test images"
        counts = [[name, *(len(whole.images_of(c, s)) for s in SPLITS)] for c, name in enumerate(whole.classes, 1)]
        listed = ", ".join("{} {}+{}".format(*count) for count in counts)
        rule = "; ".join(["an image counts for a class of 2,048 pixels or more, fewer if it is small", *thin[:1]])
        raise DPNetError(f"{why} (train+val: {listed}): {rule}: add images, or cut other folds with --folds")
    return tested


def _index(
    root: Path, listed: Path, names: Names, folds: str, make: Callable[[], list[Item]], notes: list[str], size: int
) -> Benchmark:
    """Index what `make` makes the labels of; `listed` is the file of the names."""
    twice = [name for name, number in Counter(name.casefold() for name in names).items() if number > 1]
    if twice or not all(names) or not 3 <= len(names) <= 254:
        why = f"{twice[0]!r} stands there twice" if twice else f"{len(names)} class names"
        raise DPNetError(f"{listed}: {why}: give 3 to 254, each once: a fold's are new, and two are to train on")
    novel = cut_folds(names, folds)
    index.need_writable(root)
    (root / index.INDEX).unlink(missing_ok=True)  # copies that it names are about to be overwritten
    items = sorted(make())
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
    twins = len(files) - len({photograph for _, photograph, *_ in files})
    absent = ", ".join(name for c, name in enumerate(names, 1) if c not in seen)
    notes += [f"in no label: {absent}"] if absent else []
    notes += [f"{twins} images are there twice: scores are too good where one supports the other"] if twins else []
    notes += [*checks.conversions(item[2] for item in items), *thin]
    content = hashlib.sha256(repr(files).encode()).hexdigest()
    recipe = {"folds": len(novel), "content": content, "size": size, "notes": notes}
    return index.write(replace(whole, tested=tested_classes(whole, thin), recipe=recipe))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
