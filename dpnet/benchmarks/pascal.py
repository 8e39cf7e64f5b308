"""PASCAL-5i, whole or as a named list of 1,097 images, from the user's own copy of VOC 2012."""

import os
from pathlib import Path

from dpnet.benchmarks.layout import Benchmark, Item, scan, split_folds, write
from dpnet.errors import DPNetError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
FOLDS = split_folds(len(CLASSES))
LISTS = {"pfenet": ("train.txt", "train_noval.txt"), "canet": ("train_aug.txt",)}
MINI = Path(__file__).with_name("pascal_mini.txt")
ENOUGH, ENOUGH_VAL, ENOUGH_CLASSES = 20, 5, 2  # images of a class, of them in val; such classes in a fold
TREE = "VOCdevkit/VOC2012/{JPEGImages,SegmentationClassAug,ImageSets/Segmentation}"
ORIGIN = {
    "JPEGImages": "the photographs of VOC 2012 (VOCtrainval_11-May-2012.tar)",
    "SegmentationClassAug": "the masks of VOC and SBD as PNGs (0, 1…20, 255); VOC alone has a part",
    "train.txt": "it comes with VOC 2012",
    "val.txt": "it comes with VOC 2012",
    "train_noval.txt": "SBD's, without VOC val; torchvision's SBDataset(image_set='train_noval') fetches it",
    "train_aug.txt": "VOC train and SBD without VOC val; it is handed out with SegmentationClassAug",
}


def source(data: Path) -> Path:
    """Find VOC2012, with photographs and masks, in the user's folder or as that folder; DPNetError if not."""
    remedy = f"give the folder that holds {TREE} with DATA=… or --root"
    if not data.is_dir():
        raise DPNetError(f"{data}: {'not a folder' if data.exists() else 'no such folder'}: {remedy}")
    if not os.access(data, os.R_OK | os.X_OK):
        raise DPNetError(f"{data}: may not be read: {remedy}")
    if not any(data.iterdir()):
        raise DPNetError(f"{data}: empty: {remedy}")
    parts = ("JPEGImages", "SegmentationClassAug")
    for voc in (data / "VOCdevkit" / "VOC2012", data / "VOC2012", data):
        if any((voc / part).is_dir() for part in (*parts, "ImageSets")):
            break
    else:
        raise DPNetError(f"{data}: no VOCdevkit/VOC2012/JPEGImages in it: {remedy}")
    for part in parts:
        if not (voc / part).is_dir():
            raise DPNetError(f"{voc / part}: missing: it holds {ORIGIN[part]}")
    return voc


def _ids(voc: Path, file: str, images: str) -> list[str]:
    path = voc / "ImageSets" / "Segmentation" / file
    if not path.is_file():
        raise DPNetError(f"{path}: missing, images={images!r} needs it: {ORIGIN[file]}")
    # "2007_000032" in VOC's own lists, "/JPEGImages/2007_000032.jpg /Segm…" in those of other projects
    ids = [Path(line.split()[0]).stem for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
    if not ids:
        raise DPNetError(f"{path}: names no image: {ORIGIN[file]}")
    return ids


def items(voc: Path, name: str, images: str) -> list[Item]:
    """List (id, split, image, label) of each image; DPNetError for a missing, empty or overlapping list."""
    if name == "pascal-mini":
        splits = dict(line.split() for line in MINI.read_text("utf-8").splitlines())
    else:
        splits = {key: "train" for file in LISTS[images] for key in _ids(voc, file, images)}
        for key in _ids(voc, "val.txt", images):
            if splits.get(key) == "train":
                raise DPNetError(f"{voc}: {key} is in val.txt and in {' or '.join(LISTS[images])}: mend the lists")
            splits[key] = "val"
    photos, masks = voc / "JPEGImages", voc / "SegmentationClassAug"
    return [(key, split, photos / f"{key}.jpg", masks / f"{key}.png") for key, split in splits.items()]


def enough(benchmark: Benchmark) -> tuple[tuple[int, ...], ...]:
    """The novel classes of each fold with enough images to be tested; () for a fold with fewer than two."""

    def fits(class_id: int) -> bool:
        train, val = (len(benchmark.images_of(class_id, split)) for split in ("train", "val"))
        return train + val >= ENOUGH and val >= ENOUGH_VAL

    tested = [tuple(filter(fits, fold)) for fold in benchmark.folds]
    return tuple(fold if len(fold) >= ENOUGH_CLASSES else () for fold in tested)


def prepare(name: str, data: Path, root: Path, images: str, recipe: dict[str, str]) -> Benchmark:
    """Index the user's copy of VOC in `root`; if it is bad, DPNetError and nothing written."""
    entries = scan(root, items(source(data), name, images), len(CLASSES), f"reading {name}")
    tested = FOLDS
    if name == "pascal-mini":
        tested = enough(Benchmark(name, root, CLASSES, FOLDS, FOLDS, entries, digest=""))
    return write(root, name, CLASSES, FOLDS, tested, entries, recipe)
