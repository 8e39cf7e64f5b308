"""PASCAL-5i, whole or as a named list of 4,898 images, from the user's own copy of VOC 2012."""

from pathlib import Path

from dpnet import io
from dpnet.data.images import reason
from dpnet.data.index import WHERE, Benchmark, Copy, Item, in_processes, png, scan, split_folds, write
from dpnet.io import DPNetError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
FOLDS = split_folds(len(CLASSES))
LISTS = {"pfenet": ("train.txt", "train_noval.txt"), "canet": ("train_aug.txt",)}
PART = Path(__file__).with_name("pascal_part.txt")  # lines of a split, a year, and numbers: train 2007 32 39 …
PARTS = ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation")
COPY = Copy(("VOCdevkit/VOC2012", "VOC2012", ""), PARTS)


def ids(path: Path) -> list[str]:
    """The ids of a list of images; DPNetError if it is missing or empty."""
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    # "2007_000032" in VOC's own lists, "/JPEGImages/2007_000032.jpg /Segm…" in those of other projects
    names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    if not names:
        how = "remove it if it is empty, and let `dpnet prepare` make or fetch it"
        origin = how if path.name in ("train_noval.txt", "train_aug.txt") else "it comes with VOC 2012, and with SBD"
        raise DPNetError(f"{path}: missing, or names no image: {origin}")
    return names


def items(voc: Path, name: str, images: str) -> list[Item]:
    """List (id, split, image, label) of each image; DPNetError for a missing, empty or overlapping list."""
    if name == "pascal-part":
        lines = map(str.split, PART.read_text("utf-8").splitlines())
        splits = {f"{year}_{int(n):06}": split for split, year, *numbers in lines for n in numbers}
    else:
        lists = voc / "ImageSets" / "Segmentation"
        train = {key: "train" for file in LISTS[images] for key in ids(lists / file)}
        val = dict.fromkeys(ids(lists / "val.txt"), "val")
        if both := sorted(train.keys() & val):
            raise DPNetError(f"{voc}: {both[0]} is in val.txt and in {' or '.join(LISTS[images])}: mend the lists")
        splits = train | val
    photos, masks = voc / "JPEGImages", voc / "SegmentationClassAug"
    return [(key, split, photos / f"{key}.jpg", masks / f"{key}.png") for key, split in splits.items()]


def prepare(name: str, voc: Path, root: Path, images: str, recipe: dict[str, str]) -> Benchmark:
    """Index the user's copy of VOC in `root`; if it is bad, DPNetError and nothing written."""
    entries = scan(root, items(voc, name, images), len(CLASSES), f"reading {name}")
    return write(Benchmark(name, root, CLASSES, FOLDS, FOLDS, entries, recipe=recipe))


def make_masks(voc: Path, sbd: Path, workers: int | None = None) -> None:
    """Make SegmentationClassAug, and train_aug.txt, of a VOC2012 that lacks them, from SBD; what is there stays.

    An image that both have keeps VOC's own mask, which has a void rim; SBD's have none. Killed, it goes on.
    """
    lists, masks = voc / "ImageSets" / "Segmentation", voc / "SegmentationClassAug"
    train, val = (ids(lists / file) for file in ("train.txt", "val.txt"))
    augmented = dict.fromkeys(key for file in ("train.txt", "val.txt") for key in ids(sbd / file))
    if not (lists / "train_aug.txt").exists():
        listed = sorted({*train, *augmented} - {*val})
        io.write(lists / "train_aug.txt", "".join(f"{key}\n" for key in listed).encode(), WHERE)
    if masks.is_dir():
        return
    making = masks.with_name(f".{masks.name}.part")  # so that a folder of that name is whole, or the user's
    made_from = {key: sbd / "cls" / f"{key}.mat" for key in augmented}
    made_from |= {key: voc / "SegmentationClass" / f"{key}.png" for key in (*train, *val)}
    in_processes(_make, [(f, making / f"{key}.png") for key, f in sorted(made_from.items())], workers, "making masks")
    making.rename(masks)


def _make(pair: tuple[Path, Path]) -> None:
    from scipy.io import loadmat

    file, target = pair
    if target.exists():
        return
    try:
        content = file.read_bytes() if file.suffix == ".png" else png(loadmat(file)["GTcls"][0]["Segmentation"][0])
    except Exception as error:  # whatever scipy raises for a broken file
        what = f"no mask can be read from it ({reason(error)})"
        raise DPNetError(f"{file}: {what}: replace it by an intact copy") from error
    io.write(target, content, WHERE)
