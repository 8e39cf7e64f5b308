"""What is absent of VOC 2012, SBD and COCO 2014: fetched, checked and unpacked by torchvision."""

import shutil
import tarfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.error import HTTPError

from torchvision.datasets import SBDataset
from torchvision.datasets.utils import check_integrity, download_url, extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from dpnet.config import Recipe
from dpnet.data import coco, index, pascal
from dpnet.data.images import reason
from dpnet.io import DPNetError, file_lock


class Archive(NamedTuple):
    """A file on the net; COCO publishes no MD5 sums, and its archives are checked by the CRCs of a zip."""

    url: str
    name: str
    gigabytes: float
    md5: str | None = None


AGAIN = "remove it, and the same command fetches it again"
Parts = dict[str, Path]  # what is inside an archive -> where it shall be
_VOC2012 = DATASET_YEAR_DICT["2012"]
VOC = Archive(_VOC2012["url"], _VOC2012["filename"], 2.0, _VOC2012["md5"])
SBD = Archive(SBDataset.url, SBDataset.filename, 1.4, SBDataset.md5)
NOVAL = Archive(SBDataset.voc_train_url, SBDataset.voc_split_filename, 0.0001, SBDataset.voc_split_md5)
_COCO = "http://images.cocodataset.org/"
COCO = (
    Archive(f"{_COCO}annotations/annotations_trainval2014.zip", "annotations_trainval2014.zip", 0.3),
    Archive(f"{_COCO}zips/val2014.zip", "val2014.zip", 6.6),
    Archive(f"{_COCO}zips/train2014.zip", "train2014.zip", 13.5),
)


def complete(name: str, data: Path, recipe: Recipe, offline: bool, workers: int | None = None) -> None:
    """Fetch what is absent for "coco", "pascal" or "pascal-part" (or, `offline`, take archives that lie in `data`),
    and make the masks of VOC and SBD that the recipe needs; what is there stays as it is.
    """
    images = recipe.images if name == "pascal" else ""
    copy = coco.COPY if name == "coco" else pascal.COPY
    tree = copy.find(data) or data / copy.places[0]
    needed = _needed(name, tree, data / "SBD", images)
    wanted = {archive: parts for archive, parts in needed.items() if _absent(parts)}
    if not wanted and (name == "coco" or _masks_made(tree, images)):
        return
    if not index.writable(data):
        missing = " and ".join(archive.name for archive in wanted) or "SegmentationClassAug"
        way = f"link the parts that are there into another folder, and give that with {index.WHERE}"
        raise DPNetError(f"{data}: may not be written, and lacks what comes with {missing}: {way}")
    absent = [archive for archive in wanted if not (data / archive.name).is_file()]
    by_hand = "; ".join(f"{one.name} ({one.gigabytes:g} GB, {one.url})" for one in absent)
    by_hand = f"put into {data}: {by_hand}; then the same command goes on, with or without network"
    if absent and offline:
        raise DPNetError(f"--offline, and not all is here: {by_hand}")
    with file_lock(data / ".held", "fetching what is absent", index.WHERE):
        for archive, parts in wanted.items():
            if _absent(parts):  # another process may have had the lock
                _unpack(_fetched(archive, data, by_hand), parts)
        if name != "coco" and not _masks_made(tree, images):
            pascal.make_masks(tree, data / "SBD", workers)


def _absent(parts: Parts) -> Parts:
    return {inside: target for inside, target in parts.items() if not target.exists()}


def _needed(name: str, tree: Path, sbd: Path, images: str) -> dict[Archive, Parts]:
    """The parts of each archive that a benchmark needs."""
    if name == "coco":
        inside = (coco.ANNOTATIONS.values(), ["val2014"], ["train2014"])
        return {one: {part: tree / part for part in parts} for one, parts in zip(COCO, inside, strict=True)}
    needed: dict[Archive, Parts] = {}
    kinds = ["JPEGImages", "ImageSets/Segmentation"]
    if not _masks_made(tree, images):
        kinds.append("SegmentationClass")
        needed[SBD] = {f"benchmark_RELEASE/dataset/{part}": sbd / part for part in ("cls", "train.txt", "val.txt")}
    if images == "pfenet":
        needed[NOVAL] = {NOVAL.name: tree / "ImageSets" / "Segmentation" / NOVAL.name}
    return {VOC: {f"VOCdevkit/VOC2012/{kind}": tree / kind for kind in kinds}, **needed}


def _masks_made(tree: Path, images: str) -> bool:
    lists = tree / "ImageSets" / "Segmentation"
    return (tree / "SegmentationClassAug").is_dir() and (images != "canet" or (lists / "train_aug.txt").exists())


def _fetched(archive: Archive, data: Path, by_hand: str) -> Path:
    """The archive in `data`, whole: the one that lies there, or the one on the net."""
    file, part = data / archive.name, data / f"{archive.name}.part"
    if file.is_file():
        if not check_integrity(file, archive.md5):
            raise DPNetError(f"{file}: corrupt (its MD5 sum is not {archive.md5}): {AGAIN}")
        return file
    try:
        part.unlink(missing_ok=True)  # of a call that was stopped
        download_url(archive.url, data, part.name, archive.md5)
    except (OSError, RuntimeError, HTTPException) as error:  # no network, a refusal; or another MD5 sum
        if isinstance(error, HTTPError):
            error.close()
        raise DPNetError(f"{archive.url}: cannot be fetched ({reason(error)}): {by_hand}") from error
    return part.rename(file)


def _unpack(file: Path, parts: Parts) -> None:
    """Put the parts of an archive where they shall be, once all of it is unpacked."""
    try:
        beside = next(iter(parts.values())).parent  # a link may lead to another disk
        beside.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".unpacking-", dir=beside) as aside:
            if file.suffix == ".txt":
                shutil.copy(file, aside)
            else:
                extract_archive(file, aside)
            for inside, target in _absent(parts).items():
                target.parent.mkdir(parents=True, exist_ok=True)
                (Path(aside) / inside).rename(target)
    except FileNotFoundError as error:
        raise DPNetError(f"{file}: corrupt (no {Path(str(error.filename)).name} in it): {AGAIN}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DPNetError(f"{file}: corrupt ({reason(error)}): {AGAIN}") from error
