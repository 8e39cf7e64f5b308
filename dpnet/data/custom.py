"""A benchmark of your own images, in one of three forms: label PNGs and names, VOC's layout, or COCO's JSON."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpnet import io
from dpnet.config import VOID
from dpnet.data import checks, coco, images, index
from dpnet.data.folds import cut_folds, divide, tested_classes
from dpnet.data.index import SPLITS, WHERE, Benchmark, Item
from dpnet.io import DPNetError

USAGE = "python -m dpnet prepare folder --images DIR --labels DIR --classes FILE (or --voc DIR, or --coco FILE)"
SIZE = 241  # of the network in the preset `quick`
LEAST = 4  # labels
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LIKE_SPLITS = {*SPLITS, "training", "valid", "validation", "test", "testing"}
COLOURED = re.compile(r"([^:]+):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")  # a line of CVAT's labelmap.txt
NAME = re.compile(r"(?!.*(\s\d+){3}$)\w[\w .()'&+/-]*")  # not Supervisely's "cup 128 0 0"
TITLES = {"name", "names", "class", "classes", "label", "labels", "id", "category"}
NOTHING, NOBODY_KNOWS = {"background", "_background_"}, {"void", "ignore", "ignored", "__ignore__"}  # 0 and 255
RGB = tuple[int, int, int]


class LabelMap(NamedTuple):
    """The classes in the order of their ids, and what each colour means where labels have colours."""

    names: tuple[str, ...]
    colours: dict[RGB, int]


def prepare_folder(
    photos: Path,
    labels: Path,
    classes: Path,
    data: Path,
    folds: str = "",
    lists: Path | None = None,
    size: int = SIZE,
) -> Benchmark:
    """Index images of your own, in `data`/folder; always anew, since only you know when they changed.

    Arguments:
        photos, labels: folders of images, and of PNGs named like them: 0 background, 1…n classes, 255 void.
        classes: text file with the n names, one per line, in the order of the ids; or CVAT's labelmap.txt.
        folds: their number, or their classes by name, "cat,dog;cow,hen"; "": by themselves.
        lists: folder of train.txt and val.txt. Without it, sub-folders train and val are the split; where there are
            none, about a quarter of each class's images is val.
        size: side of the network's square, for the objects that are too thin for it.
    """
    root, known = Path(data) / "folder", read_label_map(Path(classes))
    novel = cut_folds(known.names, folds)
    index.need_writable(root)
    items, notes = _pair(Path(photos), Path(labels), Path(lists) if lists else None)
    (root / index.INDEX).unlink(missing_ok=True)  # copies that it names are about to be overwritten
    palettes: dict[Any, Any] = {}
    as_ids = index.in_threads(lambda item: _as_ids(item, known, root, palettes), items, "looking at labels")
    notes += [f"{len(items)} labels in colours became ids, as the class list says"] if known.colours else []
    return _write(root, known.names, novel, as_ids, notes, size)


def prepare_voc(voc: Path, data: Path, folds: str = "", classes: Path | None = None, size: int = SIZE) -> Benchmark:
    """Index a folder in VOC's layout, as CVAT (labelmap.txt) and labelme2voc (class_names.txt) write it."""
    kinds = ("SegmentationClass", "SegmentationClassPNG", "SegmentationClassAug")
    labels = next((voc / kind for kind in kinds if any((voc / kind).rglob("*.[pP][nN][gG]"))), None)
    if labels is None:
        boxes = ": Annotations are boxes: export masks" if (voc / "Annotations").is_dir() else ""
        there = ", ".join(sorted(path.name for path in _folder(voc).iterdir())[:6]) or "nothing"
        expected = f"JPEGImages, {kinds[0]}, ImageSets/Segmentation, and labelmap.txt or class_names.txt"
        raise DPNetError(f"{voc}: no label PNG in {kinds[0]}{boxes}: it holds {there}; expected {expected}")
    maps = [voc / name for name in ("labelmap.txt", "class_names.txt") if (voc / name).is_file()]
    if classes is None and len(maps) != 1:
        which = "both labelmap.txt and" if maps else "neither labelmap.txt (CVAT) nor"
        raise DPNetError(f"{voc}: has {which} class_names.txt (labelme2voc): say with --classes which file counts")
    lists = voc / "ImageSets" / "Segmentation"
    by_lists = lists if any((lists / f"{split}.txt").is_file() for split in SPLITS) else None
    return prepare_folder(voc / "JPEGImages", labels, classes or maps[0], data, folds, by_lists, size)


def prepare_coco(
    train: Path, data: Path, val: Path | None = None, photos: Path | None = None, folds: str = "", size: int = SIZE
) -> Benchmark:
    """Index COCO instances JSON, one file or train and val; photographs lie in their folder, or beside the JSON."""
    root, parts, notes = Path(data) / "folder", [], []
    index.need_writable(root)
    for split, file in {"train": train, "val": val}.items() if val else {"": train}.items():
        base = _folder(photos or Path(file).parent)
        parts.append(coco.read(Path(file), [base, base / split], root / "made" / "labels" / split, split))
        skipped = {"images": parts[-1].without_objects, "objects without a shape": parts[-1].without_shape}
        notes += [f"{Path(file).name}: {number} {what} skipped" for what, number in skipped.items() if number]
    names = parts[0].names
    if any(part.names != names for part in parts):
        raise DPNetError(f"{val}: has other categories than {train}: export both from one project")
    _need_names(Path(train), names)
    novel = cut_folds(names, folds)
    (root / index.INDEX).unlink(missing_ok=True)
    items = coco.paint_all([picture for part in parts for picture in part.pictures], root)
    return _write(root, names, novel, items, notes, size)


def read_label_map(file: Path) -> LabelMap:
    """Read a class list: a name per line, line n being class n; labelme's, which begins with _background_; or CVAT's
    labelmap.txt, `cup:255,0,0::` in each line. DPNetError for anything else: no name is trimmed, moved or guessed.
    """
    how = "write the class names, one per line, in the order of their ids, into a .txt file"
    if not file.is_file() or file.suffix.lower() not in (".txt", ""):
        why = f"a {file.suffix} file" if file.is_file() else "a folder" if file.is_dir() else "no such file"
        raise DPNetError(f"{file}: {why}: {how}")
    try:
        lines = [line.rstrip() for line in file.read_text("utf-8-sig").rstrip().splitlines()]
    except ValueError:
        raise DPNetError(f"{file}: not UTF-8 text: {how}") from None
    if lines[:1] == ["# label:color_rgb:parts:actions"] or (lines and COLOURED.fullmatch(lines[0])):
        return _coloured(file, lines[lines[0].startswith("#") :])
    # labelme's ids of these two are -1, which is 255 in a PNG, and 0
    first = next((top for top in (["__ignore__", "_background_"], ["_background_"]) if lines[: len(top)] == top), [])
    names = lines[len(first) :]
    numbered = len(names) > 1 and all(re.match(r"\d+\s", name) for name in names)
    for number, name in enumerate(names):
        why = ""
        if name.lower() in NOTHING | NOBODY_KNOWS:
            why = "is no class (0 is background, 255 void): take it out, so that line n is class n"
        elif not NAME.fullmatch(name) or numbered or (number == 0 and name.lower() in TITLES):
            why = f"is not a name alone: {how}"
        if why:
            raise DPNetError(f"{file}: line {number + len(first) + 1}, {name!r}, {why}")
    _need_names(file, names)
    return LabelMap(tuple(names), {})


def _coloured(file: Path, lines: Sequence[str]) -> LabelMap:
    names: list[str] = []
    colours: dict[RGB, int] = {}
    for line in lines:
        parts = COLOURED.fullmatch(line)
        colour = tuple(int(value) for value in parts.groups()[1:]) if parts else ()
        if parts is None or max(colour) > 255 or colour in colours:
            raise DPNetError(
                f"{file}: {line!r}: write each line as CVAT does, cup:255,0,0::, each a colour of its own"
            )
        name = parts[1].lower()
        names += [parts[1]] if name not in NOTHING | NOBODY_KNOWS else []
        red, green, blue = colour
        colours[red, green, blue] = 0 if name in NOTHING else VOID if name in NOBODY_KNOWS else len(names)
    _need_names(file, names)
    return LabelMap(tuple(names), {(0, 0, 0): 0} | colours if 0 not in colours.values() else colours)


def _need_names(file: Path, names: Sequence[str]) -> None:
    twice = [name for name, number in Counter(name.casefold() for name in names).items() if number > 1]
    if twice or not all(names) or not 1 <= len(names) <= 254:
        why = f"{twice[0]!r} stands there twice" if twice else f"{len(names)} class names"
        raise DPNetError(f"{file}: {why}: give 1 to 254 names, each once")


def _as_ids(item: Item, known: LabelMap, root: Path, palettes: dict[Any, Any]) -> Item:
    """The item, its label with ids; of a label in colours, a copy in `root`. An id has one colour in all palettes."""
    name, split, photograph, label = item
    image = images.opened(label)
    if not known.colours:
        if image.mode == "P":
            for entry in images.used_palette(image, label, len(known.names)).items():
                for key in entry:
                    number, colour, other = palettes.setdefault(key, (*entry, label))
                    if (number, colour) != entry:
                        both = f"{entry[0]} is {entry[1]}, and in {other} {number} is {colour}"
                        raise DPNetError(f"{label}: {both}: a tool renumbered the palette: {images.GREY}")
        elif image.mode not in ("L", "1"):
            how = f"{images.GREY}, or list what each colour means as CVAT does, {known.names[0]}:255,0,0::"
            raise DPNetError(f"{label}: is {image.mode}, and a label is an 8-bit grey or palette PNG: {how}")
        return item
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (VOID, VOID):
        raise DPNetError(f"{label}: has transparent pixels: save it without")
    pixels = np.asarray(image.convert("RGB"))
    ids = np.full(pixels.shape[:2], -1, np.int16)
    for colour, value in known.colours.items():
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
    others = SUFFIXES if photographs.resolve() != labels.resolve() else tuple(s for s in SUFFIXES if s != ".png")
    pictures = _named(photographs, others)
    for folder, number, least in ((labels, len(masks), LEAST), (photographs, len(pictures), 1)):
        if number < least:
            what = "label PNGs" if folder == labels else f"images ({', '.join(others)})"
            raise DPNetError(f"{folder}: {number} {what}: give at least {least}")
    splits = _lists(lists, masks) if lists else _split_folders(labels, masks)
    how = "a label has its image's name and sub-folder, and ends in .png"
    lonely = [key for key in splits if key not in pictures]
    index.complain([f"{masks[key]}: no image {key}.* in {photographs}: {how}" for key in lonely])
    unused = len(pictures) - len(splits)
    notes = [f"{unused} images left out: they have no label, or stand in no list"] if unused else []
    return [(key, split, pictures[key], masks[key]) for key, split in sorted(splits.items())], notes


def _named(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Files by their names without suffix; those in sub-folders with the way there: "cats/0001"."""
    files: dict[str, Path] = {}
    for name in sorted(glob("**/*", root_dir=_folder(folder), recursive=True)):  # leaves out hidden ones
        path = folder / name
        if path.suffix.lower() not in suffixes or "__MACOSX" in path.parts:
            continue
        if not str(path.absolute()).isprintable():
            raise DPNetError(f"{str(path)!a}: rename it: its name is not UTF-8 text")
        # One system writes "ü" as one character, another as two.
        key = unicodedata.normalize("NFC", Path(name).with_suffix("").as_posix())
        if key in files:
            raise DPNetError(f"{path}: {files[key].name} has the same name: rename or remove one")
        files[key] = path
    return files


def _folder(path: Path) -> Path:
    if not path.is_dir():
        packed = path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".xz", ".7z", ".rar")
        why = "no such folder" if not path.exists() else "an archive: unpack it" if packed else "not a folder"
        raise DPNetError(f"{path}: {why}")
    return path


def _split_folders(folder: Path, keys: Collection[str]) -> dict[str, str]:
    """The split of each file by its sub-folder, train or val; "" for each where there are no such sub-folders."""
    tops = {key: key.split("/")[0] if "/" in key else "" for key in keys}
    if not set(tops.values()) & LIKE_SPLITS:
        return dict.fromkeys(keys, "")
    if set(tops.values()) != set(SPLITS):
        names = ", ".join(top or "no sub-folder" for top in sorted(set(tops.values())))
        raise DPNetError(f"{folder}: labels lie in {names}: put all into sub-folders train and val, or into none")
    return tops


def _lists(lists: Path, masks: Collection[str]) -> dict[str, str]:
    """The split of each image that train.txt and val.txt name."""
    splits: dict[str, str] = {}
    problems = []
    for split in SPLITS:
        file = lists / f"{split}.txt"
        try:
            names = [unicodedata.normalize("NFC", line.strip()) for line in file.read_text("utf-8-sig").splitlines()]
        except (OSError, ValueError) as error:
            why = "missing" if isinstance(error, OSError) else "not UTF-8 text"
            raise DPNetError(f"{file}: {why}: train.txt and val.txt name the images, one per line") from None
        for name in filter(None, names):
            if name not in masks:
                problems.append(f"{file}: {name!r} has no label of that name: write names without folder and suffix")
            elif splits.setdefault(name, split) != split:
                problems.append(f"{file}: {name!r} is in train.txt too: an image is for training or for testing")
        if split not in splits.values():
            problems.append(f"{file}: names no image: one name per line, without suffix")
    index.complain(problems)
    return splits


def _write(
    root: Path, names: tuple[str, ...], novel: index.Folds, items: list[Item], notes: list[str], size: int
) -> Benchmark:
    entries = index.scan(root, items, len(names), "reading folder", size)
    entries = entries if all(entry.split for entry in entries) else divide(entries)
    seen = {value for entry in entries for value in entry.pixels}
    if not seen - {VOID}:
        why = "only 0 and 255, which is void" if seen else "only 0, the background"
        raise DPNetError(
            f"{items[0][3].parent}: the labels hold {why}: the first class is 1, the second 2, and so on"
        )
    absent = [name for c, name in enumerate(names, 1) if c not in seen]
    # Labels that were mirrored have the names, sizes and counts that they had.
    files = index.in_threads(_digests, sorted(items), "reading files")
    twins = len(files) - len({photograph for _, photograph, _ in files})
    whole = Benchmark("folder", root, names, novel, novel, entries, "", {})
    thin = checks.too_thin(whole, size)
    notes = [
        *notes,
        *([f"in no label: {', '.join(absent)}"] if absent else []),
        *([f"{twins} images are there twice: scores are too good where one supports the other"] if twins else []),
        *checks.conversions([item[2] for item in items]),
        *thin,
    ]
    content = hashlib.sha256(repr(files).encode()).hexdigest()
    recipe = {"folds": len(novel), "content": content, "size": size, "notes": notes}
    return index.write(root, "folder", names, novel, tested_classes(whole, thin), entries, recipe)


def _digests(item: Item) -> tuple[str, str, str]:
    photograph, label = (hashlib.sha256(path.read_bytes()).hexdigest() for path in item[2:])
    return item[0], photograph, label
