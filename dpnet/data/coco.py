"""COCO-20i from the user's own copy of COCO 2014: its objects painted once into label PNGs."""

import hashlib
import json
import os
import warnings
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from dpnet import io
from dpnet.config import VOID
from dpnet.data.index import END, NOTE, WHERE, Benchmark, complain, in_processes, png, scan, write
from dpnet.io import DPNetError, progress

VERSION = 1  # of `paint`: another one is another benchmark
CLASSES = 80
FOLDS = tuple(tuple(range(first, CLASSES + 1, 4)) for first in (1, 2, 3, 4))  # interleaved, as FWB cuts them
CHUNK = 50  # images per task: half a second of painting
TREE = "annotations/instances_{train,val}2014.json, train2014/ and val2014/"
ORIGIN = {  # as the download page calls them
    "annotations/instances_train2014.json": "2014 Train/Val annotations [241MB]",
    "annotations/instances_val2014.json": "2014 Train/Val annotations [241MB]",
    "train2014": "2014 Train images [83K/13GB]",
    "val2014": "2014 Val images [41K/6GB]",
}
PAGE = "cocodataset.org/#download"


class Picture(NamedTuple):
    """An image with objects: what its label is painted from."""

    id: str
    split: str
    listed: Path  # the instances file, for messages
    image: Path
    label: Path
    size: tuple[int, int]
    objects: list[tuple[int, dict[str, Any]]]  # class id, annotation


def find(data: Path) -> Path | None:
    """COCO 2014, or a part of it, in the user's folder or in its folder `coco`."""
    parts = {Path(part).parts[0] for part in ORIGIN}
    return next((tree for tree in (data, data / "coco") if any((tree / part).is_dir() for part in parts)), None)


def source(data: Path) -> Path:
    """Find COCO 2014, whole, in the user's folder or in its folder `coco`; DPNetError if not."""
    fetch = f"or let `python -m dpnet prepare coco --root {data}` fetch what is absent"
    remedy = f"give the folder that holds {TREE} with {WHERE}, {fetch}"
    if not data.is_dir():
        raise DPNetError(f"{data}: {'not a folder' if data.exists() else 'no such folder'}: {remedy}")
    if not os.access(data, os.R_OK | os.X_OK):
        raise DPNetError(f"{data}: may not be read: {remedy}")
    tree = find(data)
    if tree is None:
        raise DPNetError(f"{data}: no COCO 2014 in it: {remedy}")
    for part, name in ORIGIN.items():
        if not (tree / part).exists():
            raise DPNetError(f"{tree / part}: missing: it comes with {name!r} of {PAGE}: complete it, {fetch}")
    return tree


def read(tree: Path, root: Path, split: str) -> tuple[tuple[str, ...], list[Picture]]:
    """Class names in the order of their ids, and the images with objects; DPNetError if the file is bad."""
    part = f"annotations/instances_{split}2014.json"
    file, photos, labels = tree / part, tree / f"{split}2014", root / "labels" / split
    again = f"fetch {ORIGIN[part]!r} of {PAGE} again"
    try:
        with redirect_stdout(StringIO()):  # it tells how long it took
            index = COCO(str(file))
        ids = {category: number for number, category in enumerate(sorted(index.cats), 1)}
        names = tuple(str(index.cats[category]["name"]) for category in ids)
        if len(ids) != CLASSES:
            raise DPNetError(f"{file}: has {len(ids)} categories, and COCO has {CLASSES}: {again}")
        for one in index.anns.values():
            for key, known in (("image_id", index.imgs), ("category_id", index.cats)):
                if one[key] not in known:
                    raise DPNetError(f"{file}: annotation {one['id']} has the unknown {key} {one[key]}: {again}")
        pictures = []
        for number, image in index.imgs.items():
            objects = [(ids[one["category_id"]], one) for one in index.imgToAnns.get(number, ())]
            if objects:  # 702 training images of COCO 2014 have none, and no list of the field names them
                name, size = Path(image["file_name"]), (int(image["height"]), int(image["width"]))
                label = labels / f"{name.stem}.png"
                pictures.append(Picture(name.stem, split, file, photos / name, label, size, objects))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise DPNetError(f"{file}: corrupt ({why}): {again}") from error
    if not pictures:
        raise DPNetError(f"{file}: names no image with objects: {again}")
    there = {path.name for path in photos.glob("*")}
    complain([f"{p.image}: missing: complete your copy of the data" for p in pictures if p.image.name not in there])
    return names, pictures


def paint(size: tuple[int, int], objects: list[tuple[int, dict[str, Any]]]) -> np.ndarray:
    """The label of an image: crowds first, as void; on them the objects, the largest first.

    Arguments:
        size: height and width.
        objects: (class id, annotation) in any order; of two of the same area the higher annotation id is on top.

    Returns:
        uint8 [H, W]: 0 background, class ids, 255 void.

    Raises:
        ValueError, or what pycocotools raises: a segmentation is malformed.
    """
    index, mask = COCO(), np.zeros(size, dtype=np.uint8)
    for class_id, one in sorted(objects, key=lambda o: (not o[1]["iscrowd"], -o[1]["area"], o[1]["id"])):
        shape = one["segmentation"]
        # What pycocotools answers with a crash, or with memory that is not its own.
        if isinstance(shape, list):
            if not all(abs(x) < 1e5 for polygon in shape for x in polygon):
                raise ValueError("a polygon far outside")
        elif isinstance(shape["counts"], list) and sum(shape["counts"]) != mask.size:
            raise ValueError("run lengths of another size")
        index.imgs = {one["image_id"]: {"height": size[0], "width": size[1]}}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__", DeprecationWarning)  # pycocotools 2.0.11 under numpy 2
            filled = index.annToMask(one).astype(bool)
        mask[filled] = VOID if one["iscrowd"] else class_id
    return mask


def _intact(picture: Picture, note: str) -> bool:
    # Whole, and painted from these very objects: then it need not be painted again.
    try:
        content = picture.label.read_bytes()
        with Image.open(BytesIO(content)) as label:
            same = label.info.get(NOTE) == note and label.size == picture.size[::-1]
            label.verify()
        return same and content.endswith(END)
    except Exception:  # whatever is wrong with it
        return False


def _paint(pictures: list[Picture]) -> list[str]:
    for picture in pictures:
        made_from = json.dumps([VERSION, picture.size, picture.objects], sort_keys=True)
        note = hashlib.sha256(made_from.encode()).hexdigest()[:16]
        if _intact(picture, note):
            continue
        try:
            mask = paint(picture.size, picture.objects)
        except Exception as error:  # pycocotools raises plain ones
            why = " ".join(f"{type(error).__name__}: {error}".split())
            what = f"the objects of {picture.image.name} cannot be painted ({why})"
            raise DPNetError(f"{picture.listed}: {what}: fetch it again from {PAGE}") from error
        io.write(picture.label, png(mask, note), WHERE)
    return [picture.id for picture in pictures]


def prepare(data: Path, root: Path, recipe: dict[str, Any], workers: int | None = None) -> Benchmark:
    """Paint the labels of the user's copy of COCO into `root` and index them; DPNetError if the copy is bad."""
    tree = source(data)
    (classes, train), (others, val) = (read(tree, root, split) for split in ("train", "val"))
    if others != classes:
        raise DPNetError(f"{val[0].listed}: other categories than {train[0].listed}: both must be of COCO 2014")
    pictures: dict[str, Picture] = {}
    for one in train + val:
        if one.id in pictures:
            both = f"stands there, and in {pictures[one.id].listed.name}, for another image"
            raise DPNetError(f"{one.listed}: {one.image.name} {both}: fetch both files again from {PAGE}")
        pictures[one.id] = one
    painted = list(pictures.values())
    tasks = [painted[first : first + CHUNK] for first in range(0, len(painted), CHUNK)]
    for _ in progress(in_processes(_paint, tasks, workers, root), "painting coco", "image", len(painted)):
        pass
    listed = [(p.id, p.split, p.image, p.label) for p in painted]
    return write(root, "coco", classes, FOLDS, FOLDS, scan(root, listed, CLASSES, "reading coco"), recipe)
