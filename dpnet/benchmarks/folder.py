"""A benchmark of your own: images, label PNGs and a list of class names."""

from pathlib import Path

from dpnet.benchmarks.layout import Benchmark, Item, need_writable, scan, split_folds, write
from dpnet.errors import DPNetError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
EVERY = 4  # each 4th image is val


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


def _items(images: Path, labels: Path) -> list[Item]:
    for folder in (images, labels):
        if not folder.is_dir():
            raise DPNetError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    masks = sorted(path for path in labels.iterdir() if path.suffix.lower() == ".png")
    if len(masks) < EVERY:
        raise DPNetError(f"{labels}: {len(masks)} label PNGs: give at least {EVERY}, the {EVERY}th is for testing")
    pictures: dict[str, Path] = {}
    for path in sorted(images.iterdir()):
        if path.suffix.lower() in SUFFIXES and path not in masks:
            if path.stem in pictures:
                raise DPNetError(f"{path}: {pictures[path.stem].name} has the same name: rename or remove one")
            pictures[path.stem] = path
    split = ("train",) * (EVERY - 1) + ("val",)
    return [
        (mask.stem, split[i % EVERY], pictures.get(mask.stem, images / f"{mask.stem}.*"), mask)
        for i, mask in enumerate(masks)
    ]


def prepare_folder(images: Path, labels: Path, classes: Path, data: Path, folds: int = 4) -> Benchmark:
    """Index images of your own; always anew, since only you know when they changed.

    Arguments:
        images: folder of images; those without a label are left out.
        labels: folder of PNGs named like the images: 0 background, 1…n classes, 255 void.
        classes: text file with the n names, one per line, in the order of the ids.
        data: the data folder; the index becomes `data`/folder/index.json.
        folds: number of folds, at most n.

    Returns:
        the benchmark; every 4th image, by name, is val.

    Raises:
        DPNetError: files are missing or bad; then nothing is written.
    """
    if folds < 1:
        raise DPNetError(f"folds={folds}: must be at least 1")
    root, names = Path(data) / "folder", _names(Path(classes))
    need_writable(root)
    novel = split_folds(len(names), min(folds, len(names)))
    entries = scan(root, _items(Path(images), Path(labels)), len(names), "reading folder")
    return write(root, "folder", names, novel, novel, entries, {"folds": len(novel)})
