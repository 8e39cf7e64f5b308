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
from dpnet.io import DPNetError, file_lock


class Archive(NamedTuple):
    """A file on the net; COCO publishes no MD5 sums, and its archives are checked by the CRCs of a zip."""

    url: str
    name: str
    gigabytes: float
    md5: str | None = None


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
    """Fetch what is absent for "coco", "pascal" or "pascal-mini" (or, `offline`, take archives that lie in `data`),
    and make the masks of VOC and SBD that the recipe needs; what is there stays as it is.
    """
    images = recipe.images if name == "pascal" else ""
    copy = coco.COPY if name == "coco" else pascal.COPY
    tree = copy.find(data) or data / copy.places[0]
    needed = _of_coco(tree) if name == "coco" else _of_voc(tree, data / "SBD", images)
    parts_of = {one: {part: to for part, to in parts.items() if not to.exists()} for one, parts in needed.items()}
    wanted = {archive: parts for archive, parts in parts_of.items() if parts}
    masks = name != "coco" and not _masks_made(tree, images)
    if not wanted and not masks:
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
            if not all(target.exists() for target in parts.values()):  # another process may have had the lock
                _fetch(archive, parts, data, by_hand)
        if masks and not _masks_made(tree, images):
            pascal.make_masks(tree, data / "SBD", workers)


def _of_coco(tree: Path) -> dict[Archive, Parts]:
    inside = ([part for part in coco.PARTS if part.endswith(".json")], ["val2014"], ["train2014"])
    return {one: {part: tree / part for part in parts} for one, parts in zip(COCO, inside, strict=True)}


def _of_voc(tree: Path, sbd: Path, images: str) -> dict[Archive, Parts]:
    wanted: dict[Archive, Parts] = {VOC: {"VOCdevkit/VOC2012": tree}}
    if not _masks_made(tree, images):
        absent = [part for part in ("JPEGImages", "SegmentationClass") if not (tree / part).is_dir()]
        if tree.is_dir() and absent:
            way = f"complete your copy, or move {tree} away, and the same command fetches it"
            raise DPNetError(f"{tree / absent[0]}: missing: it comes with {VOC.name}: {way}")
        wanted[SBD] = {f"benchmark_RELEASE/dataset/{part}": sbd / part for part in ("cls", "train.txt", "val.txt")}
    if images == "pfenet":
        wanted[NOVAL] = {NOVAL.name: tree / "ImageSets" / "Segmentation" / NOVAL.name}
    return wanted


def _masks_made(tree: Path, images: str) -> bool:
    lists = tree / "ImageSets" / "Segmentation"
    return (tree / "SegmentationClassAug").is_dir() and (images != "canet" or (lists / "train_aug.txt").exists())


def _fetch(archive: Archive, parts: Parts, data: Path, by_hand: str) -> None:
    """Get an archive, unless it lies in `data`, and put its parts where they shall be once it is whole."""
    file, again = data / archive.name, "remove it, and the same command fetches it again"
    if not file.is_file():
        try:
            (data / f"{archive.name}.part").unlink(missing_ok=True)  # of a call that was stopped
            download_url(archive.url, data, f"{archive.name}.part", archive.md5)
        except (OSError, RuntimeError, HTTPException) as error:  # no network, a refusal; or another MD5 sum
            why = " ".join(str(error).split()).strip("<>") or type(error).__name__
            if isinstance(error, HTTPError):
                error.close()
            raise DPNetError(f"{archive.url}: cannot be fetched ({why}): {by_hand}") from error
        (data / f"{archive.name}.part").rename(file)
    elif not check_integrity(file, archive.md5):
        raise DPNetError(f"{file}: corrupt (its MD5 sum is not {archive.md5}): {again}")
    try:
        with TemporaryDirectory(prefix=".unpacking-", dir=data) as aside:
            if file.suffix == ".txt":
                shutil.copy(file, aside)
            else:
                extract_archive(file, aside)
            for inside, target in parts.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                (Path(aside) / inside).rename(target)
    except FileNotFoundError as error:
        raise DPNetError(f"{file}: corrupt (no {Path(str(error.filename)).name} in it): {again}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DPNetError(f"{file}: corrupt ({' '.join(str(error).split())}): {again}") from error
