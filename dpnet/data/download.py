"""What is absent of VOC 2012, SBD and COCO 2014: fetched, checked, unpacked. Killed anywhere, it goes on from there.

The addresses and MD5 sums of VOC and SBD are torchvision's. Its own download starts again from the first byte, keeps
what came out wrong, and moves SBD's files only once; so does pooch, but for the last. COCO publishes no sums: its
archives are checked by the length that the server names and the CRC that a zip has for each member.
"""

import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from torchvision.datasets import SBDataset
from torchvision.datasets.utils import check_integrity
from torchvision.datasets.voc import DATASET_YEAR_DICT

from dpnet import __version__, io
from dpnet.data import coco, index, pascal
from dpnet.io import DPNetError, progress

TIMEOUT = 30  # seconds of silence
PAUSE = 1.0  # seconds before a connection that broke is tried again
BLOCK = 1_000_000  # bytes at a time; the bar counts them as MB


class Archive(NamedTuple):
    """A file on the net; `size`, in bytes, is what is said before, and what room is made for."""

    url: str
    name: str
    size: int
    md5: str = ""


Wanted = dict[Archive, dict[str, Path]]  # where what an archive has inside shall be

_VOC2012 = DATASET_YEAR_DICT["2012"]
VOC = Archive(_VOC2012["url"], _VOC2012["filename"], 1_999_639_040, _VOC2012["md5"])
SBD = Archive(SBDataset.url, SBDataset.filename, 1_419_539_633, SBDataset.md5)
NOVAL = Archive(SBDataset.voc_train_url, SBDataset.voc_split_filename, 67_476, SBDataset.voc_split_md5)
COCO = {
    Archive(f"http://images.cocodataset.org/{path}", path.rpartition("/")[2], size): parts
    for path, size, parts in (
        (
            "annotations/annotations_trainval2014.zip",
            252_872_794,
            ("annotations/instances_train2014.json", "annotations/instances_val2014.json"),
        ),
        ("zips/val2014.zip", 6_645_013_297, ("val2014",)),
        ("zips/train2014.zip", 13_510_573_713, ("train2014",)),
    )
}


def complete_voc(data: Path, images: str | None, offline: bool, workers: int | None = None) -> None:
    """Fetch what is absent of VOC 2012 and SBD, and make the masks of both.

    Arguments:
        data: the folder that holds VOCdevkit, or shall; what is there is used as it is.
        images: the training list that is needed, "pfenet" or "canet"; None needs none.
        offline: use archives that lie in `data`, and the network never.
        workers: processes that make masks; one per core if None.

    Raises:
        DPNetError: something cannot be fetched, is corrupt, or cannot be written; it says what to put where.
    """
    tree, sbd = pascal.find(data) or data / "VOCdevkit" / "VOC2012", data / "SBD"
    lists = tree / "ImageSets" / "Segmentation"

    def unmade() -> bool:
        masks = (tree / "SegmentationClassAug").is_dir()
        return not masks or (images == "canet" and not (lists / "train_aug.txt").exists())

    def absent() -> Wanted:
        wanted: Wanted = {} if pascal.find(data) else {VOC: {"VOCdevkit/VOC2012": tree}}
        parts = {f"benchmark_RELEASE/dataset/{part}": sbd / part for part in ("cls", "train.txt", "val.txt")}
        wanted[SBD] = {inside: target for inside, target in parts.items() if unmade() and not _there(target)}
        wanted[NOVAL] = {"": lists / NOVAL.name} if images == "pfenet" and not (lists / NOVAL.name).exists() else {}
        return {archive: parts for archive, parts in wanted.items() if parts}

    def make() -> None:
        if unmade():
            pascal.make_masks(tree, sbd, workers)

    if pascal.find(data):
        needed = ("JPEGImages", "SegmentationClass") if unmade() else ("JPEGImages",)
        for part in needed:
            if not (tree / part).is_dir():
                way = f"complete your copy, or move {tree} away, and the same command fetches it"
                raise DPNetError(f"{tree / part}: missing: it comes with {VOC.name}: {way}")
    if absent() or unmade():
        _complete(data, absent, offline, make)


def complete_coco(data: Path, offline: bool) -> None:
    """Fetch what is absent of COCO 2014.

    Arguments:
        data: the folder that holds it, or shall, there or in its folder `coco`; what is there is used as it is.
        offline: use archives that lie in `data`, and the network never.

    Raises:
        DPNetError: something cannot be fetched, is corrupt, or cannot be written; it says what to put where.
    """
    tree = coco.find(data) or data / "coco"

    def absent() -> Wanted:
        wanted = {
            archive: {part: tree / part for part in parts if not _there(tree / part)}
            for archive, parts in COCO.items()
        }
        return {archive: parts for archive, parts in wanted.items() if parts}

    if absent():
        _complete(data, absent, offline, lambda: None)


def _complete(data: Path, absent: Callable[[], Wanted], offline: bool, then: Callable[[], None]) -> None:
    if not index.writable(data):
        missing = " and ".join(archive.name for archive in absent()) or "SegmentationClassAug"
        raise DPNetError(
            f"{data}: may not be written, and lacks what comes with {missing}: choose another folder with "
            f"{index.WHERE}, into which the parts that are there may be linked"
        )
    _need_network(absent(), data, offline)
    with io.file_lock(data / ".held", "fetching what is absent", index.WHERE):
        wanted = absent()  # perhaps less than before: another process may have had the lock
        _need_room(wanted, data)
        for archive, parts in wanted.items():
            file = _here(archive, data)
            if file is None:
                file = _download(archive, data, by_hand=_by_hand(wanted, data))
            elif archive.md5 and not check_integrity(file, archive.md5):
                raise _corrupt(file, f"its MD5 sum is not {archive.md5}")
            _unpack(file, parts)
        then()


def _there(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _here(archive: Archive, data: Path) -> Path | None:
    # As a person puts it there, or as torchvision's SBDataset leaves it.
    return next((file for file in (data / archive.name, data / "SBD" / archive.name) if file.is_file()), None)


def _by_hand(wanted: Wanted, data: Path) -> str:
    absent = [archive for archive in wanted if _here(archive, data) is None]
    listed = "; ".join(f"{archive.name} ({_amount(archive.size)}, {archive.url})" for archive in absent)
    return f"put into {data}: {listed}; then the same command goes on, with or without network"


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _need_network(wanted: Wanted, data: Path, offline: bool) -> None:
    if offline and any(_here(archive, data) is None for archive in wanted):
        raise DPNetError(f"--offline, and not all is here: {_by_hand(wanted, data)}")


def _need_room(wanted: Wanted, data: Path) -> None:
    needed = 0  # each archive, and once more what is in it
    for archive in wanted:
        part = data / f"{archive.name}.part"
        there = archive.size if _here(archive, data) else part.stat().st_size if part.exists() else 0
        needed += max(0, archive.size - there) + archive.size
    free = shutil.disk_usage(data).free
    if needed > free:
        raise DPNetError(
            f"{data}: about {_amount(needed)} are needed (archives, and what is in them), "
            f"and {_amount(free)} are free: make room, or choose another folder with {index.WHERE}"
        )


def _corrupt(file: Path, why: str) -> DPNetError:
    return DPNetError(f"{file}: corrupt ({why}): remove it, and the same command fetches it again")


def _download(archive: Archive, place: Path, by_hand: str) -> Path:
    """Fetch an archive: what is there of it is kept, whatever happens, until all of it is and was checked."""
    file, part = place / archive.name, place / f"{archive.name}.part"
    while True:
        before, whole, why = _size(part), -1, "the connection ended early"
        try:
            whole = _receive(archive.url, part)
        except (OSError, HTTPException) as error:  # no network, no such name, a refusal, silence
            why = " ".join(str(error).split()).strip("<>") or type(error).__name__
        if _size(part) == whole:
            break
        if _size(part) <= before:
            raise DPNetError(f"{archive.url}: cannot be fetched ({why}): {by_hand}")
        time.sleep(PAUSE)  # it broke, and something came: what is left is asked for
    wrong = _wrong(archive, part)
    if wrong:
        part.unlink()
        raise DPNetError(f"{archive.url}: came corrupt ({wrong}), and is removed: the same command fetches it again")
    return part.rename(file)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _receive(url: str, part: Path) -> int:
    """Add what the server has beyond what is there; returns the size of the whole file, as the server says it."""
    there = _size(part)
    headers = {"User-Agent": f"dpnet/{__version__}"} | ({"Range": f"bytes={there}-"} if there else {})
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{there}"):  # killed just before it got its name
            return there
        part.unlink()  # longer than the file: of another one
        return _receive(url, part)
    with answer:
        if answer.status != 206:  # a server that always begins with the first byte
            there = 0
        length = int(answer.headers.get("Content-Length") or 0)
        blocks = iter(partial(answer.read, BLOCK), b"")
        with part.open("ab" if there else "wb") as out:
            for block in progress(blocks, f"fetching {part.stem}", "MB", -(-length // BLOCK)):
                try:
                    out.write(block)
                    out.flush()
                except OSError as error:
                    raise io.unwritable(part, error, index.WHERE) from error
    return there + length


def _wrong(archive: Archive, file: Path) -> str:
    if archive.md5:
        return "" if check_integrity(file, archive.md5) else f"its MD5 sum is not {archive.md5}"
    try:
        with zipfile.ZipFile(file) as packed:
            for member in progress(packed.infolist(), f"checking {archive.name}", "file"):
                with packed.open(member) as content:
                    while content.read(BLOCK):
                        pass
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return str(error)
    return ""


class Member(NamedTuple):
    """A file in an archive."""

    name: PurePosixPath
    size: int
    plain: bool  # neither a link nor a device
    open: Callable[[], IO[bytes] | None]


def _members(file: Path) -> Generator[Member, None, None]:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as packed:
            for one in packed.infolist():
                if not one.is_dir():
                    plain = (one.external_attr >> 28) in (0, 0o10)  # the type in Unix's mode, where there is one
                    yield Member(PurePosixPath(one.filename), one.file_size, plain, partial(packed.open, one))
    elif file.suffix in (".tar", ".tgz"):
        with tarfile.open(file) as tarred:
            for entry in tarred:
                if not entry.isdir():
                    name = PurePosixPath(entry.name)
                    yield Member(name, entry.size, entry.isreg(), partial(tarred.extractfile, entry))
    else:  # no archive: the file itself
        yield Member(PurePosixPath(), file.stat().st_size, True, lambda: open(file, "rb"))  # noqa: SIM115


def _unpack(file: Path, parts: dict[str, Path]) -> None:
    """Put parts of an archive where they shall be; they get their names when they are whole."""
    making = {inside: target.with_name(f".{target.name}.part") for inside, target in parts.items()}
    try:
        with closing(_members(file)) as members:
            for member in progress(members, f"unpacking {file.name}", "file"):
                if member.name.is_absolute() or ".." in member.name.parts:
                    raise DPNetError(f"{file}: refused: {member.name} in it would be written elsewhere: remove it")
                inside = next((part for part in parts if member.name.is_relative_to(part)), None)
                if inside is None:
                    continue
                if not member.plain:
                    raise DPNetError(f"{file}: refused: {member.name} in it is a link or a device: remove it")
                target = making[inside] / member.name.relative_to(inside)
                if not (target.is_file() and target.stat().st_size == member.size):
                    io.save(target, partial(_copy, member), index.WHERE)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _corrupt(file, " ".join(str(error).split())) from error
    for inside, target in parts.items():
        if not making[inside].exists():
            raise _corrupt(file, f"no {inside} in it")
        making[inside].rename(target)


def _copy(member: Member, target: Path) -> None:
    content = member.open()
    assert content is not None  # a plain file has one
    with content, target.open("wb") as out:
        shutil.copyfileobj(content, out, BLOCK)
