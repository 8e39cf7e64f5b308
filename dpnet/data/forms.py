"""Own data in one of three forms: label PNGs and names, VOC's layout, or COCO's JSON; read exactly, or refused."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from dpnet import io
from dpnet.config import VOID
from dpnet.data import coco, images, index
from dpnet.data.index import SPLITS, WHERE, Benchmark, Item, counting
from dpnet.io import DPNetError

LEAST = 4  # labels
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LIKE_SPLITS = {*SPLITS, "training", "valid", "validation", "test", "testing"}
COLOURED = re.compile(r"([^:]+):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")  # a line of CVAT's labelmap.txt
NAME = re.compile(r"(?!.*(\s\d+){3}$)\w[\w .()'&+/-]*")  # not Supervisely's "cup 128 0 0"
TITLES = {"name", "names", "class", "classes", "label", "labels", "id", "category"}
NOTHING, NOBODY_KNOWS = {"background", "_background_"}, {"void", "ignore", "ignored", "__ignore__"}  # 0 and 255
Names = tuple[str, ...]  # of the classes, in the order of their ids
Colours = dict[tuple[int, ...], int]  # what each means where labels have colours


class Own(NamedTuple):
    """What was read of own data."""

    listed: Path  # the file of the class names
    names: Names
    make: Callable[[], list[Item]]  # makes the labels that are no PNGs of ids yet
    notes: list[str]


def supports(source: Path) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """A few labelled pictures, in one of the three forms: of each class images uint8 [H, W, 3] and masks [H, W]."""
    with TemporaryDirectory() as aside:
        root = Path(aside)
        if not source.exists():
            raise DPNetError(f"{source}: no such file or folder")
        if source.suffix.lower() == ".json":
            own = of_coco(source, root)
        elif (source / "names.txt").is_file():
            own = of_pngs(source / "photos", source / "labels", source / "names.txt", root, least=1)
        elif not any(source.glob("SegmentationClass*")):
            there = ", ".join(sorted(path.name for path in source.glob("*"))[:8]) or "nothing"
            forms = "photos, labels and names.txt; or VOC's layout; or give COCO's JSON itself"
            raise DPNetError(f"{source}: holds {there}, and no masks that can be read: expected {forms}")
        else:
            own = of_voc(source, root, least=1)
        need_names(own, 1)
        entries = index.scan(root, own.make(), len(own.names), "reading supports")
        few, pairs = Benchmark("supports", root, own.names, (), (), entries), {}
        for c, name in enumerate(own.names, 1):
            if any(c in entry.pixels for entry in entries):  # an export may list classes that are not drawn
                each = [(few.image(e), few.label(e)) for e in entries if c in counting(e)]
                pairs[name] = [(image, np.where(ids == VOID, ids, ids == c).astype(np.uint8)) for image, ids in each]
        small = [name for name, of_class in pairs.items() if not of_class]
        if small or not pairs:
            what = f"enough of {small[0]} (2,048 pixels, fewer if it is small)" if small else "a class"
            raise DPNetError(f"{source}: no picture shows {what}: add one")
        return pairs


def photographs(folder: Path) -> dict[str, Path]:
    """The photographs of a folder and its sub-folders, by name; DPNetError if there is none."""
    if not (files := _named(folder, SUFFIXES)):
        raise DPNetError(f"{folder}: no photograph in it: {', '.join(SUFFIXES)}")
    return files


def of_pngs(
    photos: Path, labels: Path, names: Path, root: Path, lists: Path | None = None, least: int = LEAST
) -> Own:
    """Photographs, label PNGs, and a list of names."""
    known, colours = read_label_map(names)
    items, notes = _pair(photos, labels, lists, least)
    look = partial(_one_palette, classes=len(known), palettes={})
    if colours:
        look = partial(_ids_of_colours, colours=colours, root=root)
        notes.append(f"{len(items)} labels in colours became ids, as the class list says")
    return Own(names, known, lambda: index.in_threads(look, items, "looking at labels"), notes)


def of_voc(voc: Path, root: Path, classes: Path | None = None, least: int = LEAST) -> Own:
    """A folder in VOC's layout."""
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
    return of_pngs(voc / "JPEGImages", labels, Path(classes or maps[0]), root, folder if listed else None, least)


def of_coco(train: Path, root: Path, val: Path | None = None, photos: Path | None = None) -> Own:
    """COCO's instances files."""
    parts: list[coco.Instances] = []
    for split, file in {"train": train, "val": val}.items() if val else {"": train}.items():
        beside = Path(file).parent  # or as `dpnet label` writes it, or as CVAT does
        bases = [photos] if photos else [beside, beside / "JPEGImages", beside.parent / "images" / "default"]
        folders = [folder for base in bases for folder in (base, base / split)]
        parts.append(coco.read(Path(file), folders, root / "made" / "labels" / split, split))
    names = parts[0].names
    if any(part.names != names for part in parts):
        raise DPNetError(f"{val}: has other categories than {train}: export both from one project")
    pictures = [picture for part in parts for picture in part.pictures]
    return Own(train, names, lambda: coco.paint_all(pictures), [note for part in parts for note in part.notes])


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


def _pair(photographs: Path, labels: Path, lists: Path | None, least: int) -> tuple[list[Item], list[str]]:
    """Each label with the image of its name, and its split, "" where nothing says it; and what was left out."""
    masks = _named(labels, (".png",))
    suffixes = SUFFIXES if photographs.resolve() != labels.resolve() else tuple(s for s in SUFFIXES if s != ".png")
    pictures = _named(photographs, suffixes)
    if len(masks) < least or not pictures:
        there = f"{len(masks)} label PNGs, and {len(pictures)} images ({', '.join(suffixes)}) in {photographs}"
        raise DPNetError(f"{labels}: {there}: give at least {least}")
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


def need_names(own: Own, least: int) -> None:
    """DPNetError unless there are `least` names or more, each once."""
    names = own.names
    twice = [name for name, number in Counter(name.casefold() for name in names).items() if number > 1]
    if twice or not all(names) or not least <= len(names) <= 254:
        why = f"{twice[0]!r} stands there twice" if twice else f"{len(names)} class names"
        more = ": a fold's are new, and two are to train on" if least == 3 else ""
        raise DPNetError(f"{own.listed}: {why}: give {least} to 254, each once{more}")
