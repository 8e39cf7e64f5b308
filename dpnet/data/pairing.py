"""Files of your own, found by their names: images, their labels, and the parts and lists of VOC's layout."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from dpnet.data.index import Item, complain
from dpnet.io import DPNetError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
LEAST = 4  # labels
# As exports call them: VOC, LabelMe; then LabelMe, CVAT, Supervisely.
LABELS = ("SegmentationClass", "SegmentationClassPNG", "SegmentationClassAug")
CLASSES = ("labelmap.txt", "class_names.txt", "classes.txt", "labels.txt", "names.txt", "colors.txt")
TREE = "JPEGImages, SegmentationClass, ImageSets/Segmentation/{train,val}.txt and a class list"


def voc_parts(voc: Path) -> tuple[Path, Path, Path, Path]:
    """The parts of a dataset in VOC's layout.

    Arguments:
        voc: its folder, or one above it.

    Returns:
        images, labels, class list and the folder of the lists; the first and the last need not exist.

    Raises:
        DPNetError: it is none.
    """
    need_folder(voc)
    for base in (voc, *sorted(voc.glob("*/")), *sorted(voc.glob("*/*/"))):
        labels = next((base / name for name in LABELS if _masks(base / name)), None)
        if labels:
            break
    else:
        boxes = ": Annotations are boxes, export masks" if next(voc.rglob("Annotations"), None) else ""
        found = ", ".join(sorted(path.name for path in voc.iterdir())[:6]) or "nothing"
        raise DPNetError(f"{voc}: no label PNG in {LABELS[0]}{boxes}: found {found}; expected {TREE}")
    classes = next((base / name for name in CLASSES if (base / name).is_file()), base / "class_names.txt")
    return base / "JPEGImages", labels, classes, base / "ImageSets" / "Segmentation"


def _masks(folder: Path) -> bool:
    return any(path.suffix.lower() == ".png" for path in folder.rglob("*"))


def need_folder(folder: Path) -> None:
    """DPNetError unless it is a folder."""
    if not folder.is_dir():
        why = "an archive: unpack it" if folder.suffix.lower() in ARCHIVES else "not a folder"
        raise DPNetError(f"{folder}: {why if folder.exists() else 'no such folder'}")


def items(images: Path, labels: Path, lists: Path | None = None) -> list[Item]:
    """Each label with its image, by their names.

    Arguments:
        images: folder of images, also in sub-folders.
        labels: folder of PNGs named like the images.
        lists: folder of train.txt and val.txt; None, or without either: all labels, and no split is made.

    Returns:
        (id, split, image, label) of each label, or of each listed one; "" where nothing says the split.

    Raises:
        DPNetError: nothing there, names that do not fit, or bad lists.
    """
    same = os.path.realpath(images) == os.path.realpath(labels)
    masks = _within(labels, (".png",))
    if len(masks) < LEAST:
        raise DPNetError(f"{labels}: {len(masks)} label PNGs: give at least {LEAST}{_others(labels, ('.png',))}")
    suffixes = tuple(suffix for suffix in SUFFIXES if suffix != ".png" or not same)
    pictures = _within(images, suffixes, set(masks.values()))
    if not pictures:
        raise DPNetError(f"{images}: no image in it ({', '.join(suffixes)}){_others(images, suffixes)}")
    # Where one lies flat and the other in folders, a name alone says what belongs together, if it is the only one.
    alone = {Path(key).name: path for key, path in pictures.items()}
    if len(alone) == len(pictures) and len({Path(key).name for key in masks}) == len(masks):
        pictures |= {key: alone[Path(key).name] for key in masks if key not in pictures and Path(key).name in alone}
    splits = _listed(lists, masks) if lists else {}
    asked = {key: masks[key] for key in splits or masks}
    missing = [key for key in asked if key not in pictures]
    if len(missing) == len(asked):
        raise DPNetError(_unpaired(asked[missing[0]], sorted(pictures), images))
    complain([f"{asked[key]}: its image is missing: {images / key}.* ({', '.join(suffixes)})" for key in missing])
    unused = len(set(pictures.values())) - len(asked)
    if unused > 0:
        print(f"{unused} image(s) left out: they have no label{', or stand in no list' if splits else ''}")
    paired = [(key, splits.get(key, ""), pictures[key], mask) for key, mask in sorted(asked.items())]
    _say_twins([item[2] for item in paired])
    return paired


def _within(folder: Path, suffixes: tuple[str, ...], besides: Collection[Path] = ()) -> dict[str, Path]:
    # By their names without suffix; those in sub-folders with the way there: "cats/0001".
    need_folder(folder)
    found: dict[str, Path] = {}
    for path in _files(folder):
        if path.suffix.lower() in suffixes and path not in besides:
            try:
                str(path.absolute()).encode()  # as the index will hold it
            except UnicodeEncodeError:
                raise DPNetError(f"{str(path)!a}: rename it: its name is not UTF-8") from None
            key = _composed(path.relative_to(folder).with_suffix("").as_posix())
            if key in found:
                raise DPNetError(f"{path}: {found[key].name} has the same name: rename or remove one")
            found[key] = path
    return found


def _files(folder: Path) -> list[Path]:
    # Links to folders are followed, once; what systems hide ("._a.png", "__MACOSX") is nobody's picture.
    found, been = [], set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in been:
            folders.clear()
            continue
        been.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(where) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _composed(name: str) -> str:
    # One system writes "ü" as one character, another as two.
    return unicodedata.normalize("NFC", name)


def _others(folder: Path, suffixes: tuple[str, ...]) -> str:
    # What there is instead.
    kinds = Counter(path.suffix.lower() or "files without suffix" for path in _files(folder))
    instead = [f"{number} {kind}" for kind, number in kinds.most_common() if kind not in suffixes]
    what = (
        " (JPEG smears ids: save labels as PNG)" if suffixes == (".png",) and kinds[".jpg"] + kinds[".jpeg"] else ""
    )
    return f"; it holds {', '.join(instead[:3])}{what}" if instead else ""


def _listed(lists: Path, masks: Collection[str]) -> dict[str, str]:
    # The split of each image that a list names; nothing where there is no list.
    files = {split: lists / f"{split}.txt" for split in ("train", "val")}
    there = sorted(path.name for path in lists.glob("*.txt"))
    if not any(file.is_file() for file in files.values()):
        found = f"found {', '.join(there)}" if there else "no lists"
        print(f"{lists}: no train.txt and val.txt ({found}): all labels are used, a quarter of each class to test")
        return {}
    splits: dict[str, str] = {}
    problems = []
    for split, file in files.items():
        if not file.is_file():
            raise DPNetError(f"{file}: missing: found {', '.join(there)}; expected train.txt and val.txt")
        try:
            lines = [_composed(line.strip()) for line in file.read_text("utf-8-sig").splitlines()]
        except ValueError:
            raise DPNetError(f"{file}: not UTF-8 text: it lists image names, one per line") from None
        for line in filter(None, lines):
            # "2007_000032" in VOC's own lists; tools write quotes, suffixes, paths, or a 1 behind it.
            plain = line.strip("\"'").strip() or line
            forms = (
                plain,
                os.path.splitext(plain)[0],
                plain.split()[0],
                Path(plain.split()[0]).stem,
                Path(plain).stem,
            )
            key = next((form for form in forms if form in masks), plain)
            if key not in masks:
                problems.append(f"{file}: {plain!r} has no label of that name")
            if splits.get(key, split) != split:
                problems.append(f"{file}: {key!r} is in train.txt too: an image is for training or for testing")
            splits[key] = split
        if split not in splits.values():
            raise DPNetError(f"{file}: names no image: one name per line, without suffix")
    complain(problems)
    return splits


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


def _say_twins(pictures: list[Path]) -> None:
    # A support that is its query is no test.
    sizes = Counter(path.stat().st_size for path in pictures)
    seen: dict[bytes, Path] = {}
    twins = []
    for path in pictures:
        if sizes[path.stat().st_size] > 1:
            first = seen.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
            if first is not path:
                twins.append(f"{path.name} is {first.name}")
    if twins:
        print(f"{len(twins)} image(s) there twice ({twins[0]}): scores are too good where one supports the other")
