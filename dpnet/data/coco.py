"""COCO's instances files: read, painted once into label PNGs; and COCO-20i from the user's own copy of COCO 2014."""

import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpnet import io
from dpnet.config import VOID
from dpnet.data.images import reason
from dpnet.data.index import SPLITS, WHERE, Benchmark, Copy, Item, complain, in_processes, png, scan, write
from dpnet.io import DPNetError

VERSION = 1  # of `paint`: another one is another benchmark
CLASSES = 80
FOLDS = tuple(tuple(range(first, CLASSES + 1, 4)) for first in (1, 2, 3, 4))  # interleaved, as FWB cuts them
PAGE = "cocodataset.org/#download"
ANNOTATIONS = {split: f"annotations/instances_{split}2014.json" for split in SPLITS}
COPY = Copy(("coco", ""), (*ANNOTATIONS.values(), "train2014", "val2014"))
Annotation = dict[str, Any]


class Picture(NamedTuple):
    """An image with objects: what its label is painted from."""

    id: str
    split: str
    listed: Path  # the instances file, for messages
    image: Path
    label: Path
    size: tuple[int, int]
    objects: list[tuple[int, Annotation]]  # class id, annotation


class Instances(NamedTuple):
    """What an instances file holds: class names in the order of their ids, images with objects, what was skipped."""

    names: tuple[str, ...]
    pictures: list[Picture]
    notes: list[str]


def read(file: Path, folders: Sequence[Path], labels: Path, split: str) -> Instances:
    """Read an instances file; its photographs lie in one of `folders`, their labels go to `labels`."""
    from pycocotools.coco import COCO  # here, since machines that train on shapes or VOC often lack it

    pictures, missing = [], []
    way = "complete the data" if len(folders) == 1 else "give the photographs' folder with --images"
    try:
        with redirect_stdout(StringIO()):  # it tells how long it took
            index = COCO(str(file))
        ids = {category: number for number, category in enumerate(sorted(index.cats), 1)}
        names = tuple(str(index.cats[category]["name"]) for category in ids)
        for number, every in index.imgToAnns.items():
            if number not in index.imgs or not {one["category_id"] for one in every} <= ids.keys():
                raise ValueError(f"image {number}, or a category of its objects, is not listed")
            image = index.imgs[number]
            objects = [(ids[one["category_id"]], one | {"segmentation": _shape(one)}) for one in every]
            if objects := [one for one in objects if one[1]["segmentation"]]:
                name, size = Path(image["file_name"]), (int(image["height"]), int(image["width"]))
                if name.is_absolute() or ".." in name.parts:
                    raise DPNetError(f"{file}: {name}: name photographs as they lie in the folder that you give")
                photo = next((path for folder in folders if (path := folder / name).is_file()), None)
                missing += [] if photo else [f"{folders[0] / name}: missing: {file} names it: {way}"]
                key = name.with_suffix("").as_posix()
                pictures.append(Picture(key, split, file, photo or name, labels / f"{key}.png", size, objects))
        shapes = [one["segmentation"] for picture in pictures for _, one in picture.objects]
        corners = (x for shape in shapes for polygon in shape if isinstance(polygon, list) for x in polygon)
        if next(corners, 2) <= 1 and not any(x > 1 for x in corners):
            raise ValueError("polygons in fractions of the size, and COCO's are in pixels")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        what = f"no COCO instances file, or corrupt ({reason(error)}): export it again"
        raise DPNetError(f"{file}: {what}") from error
    if not pictures:
        raise DPNetError(f"{file}: no image with objects that have a shape: export polygons or masks, not boxes")
    complain(missing)
    shapeless = sum(map(len, index.imgToAnns.values())) - len(shapes)
    skipped = {"images": len(index.imgs) - len(pictures), "objects without a shape": shapeless}
    return Instances(names, pictures, [f"{file.name}: {n} {what} skipped" for what, n in skipped.items() if n])


def _shape(one: Annotation) -> Any:
    """Polygons of three points or more, or run lengths; nothing where an object has neither."""
    shape = one.get("segmentation") or []
    if isinstance(shape, dict):
        return shape
    if not all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in shape):
        raise ValueError(f"annotation {one['id']}: a segmentation is a list of polygons [[x, y, x, y, …], …]")
    return [polygon for polygon in shape if len(polygon) >= 6]


def paint(size: tuple[int, int], objects: list[tuple[int, Annotation]]) -> np.ndarray:
    """The label of an image, uint8 [H, W]: crowds first, as void; on them the objects, the largest first.

    Of two of the same area the higher annotation id is on top. ValueError, or what pycocotools raises: malformed.
    """
    painted = []
    for class_id, one in objects:
        inside, crowd, area = _filled(size, one), bool(one.get("iscrowd")), one.get("area")
        order = not crowd, -float(inside.sum() if area is None else area), one["id"]
        painted.append((order, VOID if crowd else class_id, inside))
    label = np.zeros(size, dtype=np.uint8)
    for _, value, inside in sorted(painted, key=lambda one: one[0]):
        label[inside] = value
    return label


def _filled(size: tuple[int, int], one: Annotation) -> np.ndarray:
    from pycocotools.coco import COCO

    shape, index = one["segmentation"], COCO()
    # What pycocotools answers with a crash, or with memory that is not its own.
    if isinstance(shape, list):
        if not all(abs(x) < 1e5 for polygon in shape for x in polygon):
            raise ValueError("a polygon far outside")
    elif list(shape.get("size", size)) != list(size) or (
        isinstance(shape["counts"], list) and sum(shape["counts"]) != size[0] * size[1]
    ):
        raise ValueError(f"run lengths of another size than the image's {list(size)}")
    index.imgs = {one["image_id"]: {"height": size[0], "width": size[1]}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__", DeprecationWarning)  # pycocotools 2.0.11 under numpy 2
        inside: np.ndarray = index.annToMask(one).astype(bool)
    return inside


def paint_all(pictures: list[Picture], workers: int | None = None) -> list[Item]:
    """Paint the labels, in several processes; (id, split, image, label) of each image."""
    by_id: dict[str, Picture] = {}
    for one in pictures:
        if (other := by_id.setdefault(one.id, one)) is not one:
            names = f"{one.image.name} stands there, and in {other.listed.name}, for another image"
            raise DPNetError(f"{one.listed}: {names}: give each image its own name")
    return in_processes(_paint, pictures, workers, "painting labels")


def _paint(picture: Picture) -> Item:
    try:
        mask = paint(picture.size, picture.objects)
    except Exception as error:  # pycocotools raises plain ones
        what = f"the objects of {picture.image.name} cannot be painted ({reason(error)})"
        raise DPNetError(f"{picture.listed}: {what}: export or fetch it again") from error
    io.write(picture.label, png(mask), WHERE)
    return picture.id, picture.split, picture.image, picture.label


def prepare(tree: Path, root: Path, recipe: dict[str, Any], workers: int | None = None) -> Benchmark:
    """Paint the labels of the user's copy of COCO into `root` and index them; DPNetError if the copy is bad."""
    parts: list[Instances] = []
    for split in SPLITS:
        file = tree / ANNOTATIONS[split]
        parts.append(read(file, [tree / f"{split}2014"], root / "labels" / split, split))
        if len(names := parts[-1].names) != CLASSES or names != parts[0].names:
            what = f"has {len(names)} categories, and COCO 2014 has {CLASSES}, the same in train and val"
            raise DPNetError(f"{file}: {what}: fetch it again from {PAGE}")
    print(*(f"{note}\n" for part in parts for note in part.notes), sep="", end="")
    items = paint_all([picture for part in parts for picture in part.pictures], workers)
    entries = scan(root, items, CLASSES, "reading coco")
    return write(Benchmark("coco", root, parts[0].names, FOLDS, FOLDS, entries, recipe=recipe))
