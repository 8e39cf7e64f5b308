"""What is fetched, from a server on this machine that has tiny archives: whole, killed, corrupt, hostile, absent."""

import hashlib
import http.server
import re
import shutil
import socket
import tarfile
import threading
import urllib.request
import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from test_benchmarks import SIZE, fails
from test_coco import PLAIN, make_coco
from torchvision.datasets import SBDataset, VOCSegmentation

from dpnet import cli, io
from dpnet import data as benchmarks
from dpnet.config import Recipe
from dpnet.data import check, download, index, load, pascal, prepare

TRAIN, VAL = ("2007_000001", "2007_000002"), ("2007_000003",)
BOTH, OURS, THEIRS = TRAIN[1], ("2008_000004", "2008_000005"), "2009_000006"  # in VOC and SBD; train_noval; SBD alone
MASKS, LISTS = "VOCdevkit/VOC2012/SegmentationClassAug", "VOCdevkit/VOC2012/ImageSets/Segmentation"


# --- a server, and what it has


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` by name; `asked` has each request's name and the byte that it begins with."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.asked, self.ranges, self.status, self.cut = {}, [], True, 200, {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name, server = self.path.rpartition("/")[2], self.server
        first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(first[1]) if first and server.ranges else 0
        server.asked.append((name, first))
        if server.status != 200 or name not in server.content:
            return self.send_error(server.status if server.status != 200 else 404)
        content = server.content[name]
        if first >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        last = server.cut.pop(name, len(content))  # where the connection breaks
        self.wfile.write(content[first:last])

    def log_message(self, *_):
        pass


def tarred(files, mode="w", links=()):
    with tarfile.open(fileobj=(packed := BytesIO()), mode=mode) as tar:
        for name, content in io.items():
            (one := tarfile.TarInfo(name)).size = len(content)
            tar.addfile(one, BytesIO(content))
        for name, target in links:
            (one := tarfile.TarInfo(name)).type, one.linkname = tarfile.SYMTYPE, target
            tar.addfile(one)
    return packed.getvalue()


def zipped(files):
    with zipfile.ZipFile(packed := BytesIO(), "w") as archive:
        for name, content in io.items():
            archive.writestr(name, content)
    return packed.getvalue()


def noise(seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(
        packed := BytesIO(), "JPEG"
    )
    return packed.getvalue()


def label(seed, values):
    return np.random.default_rng(seed).choice(np.array(values, dtype=np.uint8), SIZE)


def listed(names):
    return "".join(f"{name}\n" for name in names).encode()


def voc_files():
    files = {f"JPEGImages/{key}.jpg": noise(i) for i, key in enumerate((*TRAIN, *VAL, *OURS, THEIRS))}
    files |= {f"SegmentationClass/{key}.png": index.png(label(i, (0, 1, 255))) for i, key in enumerate(TRAIN + VAL)}
    for name, ids in {"train": TRAIN, "val": VAL, "trainval": TRAIN + VAL}.items():
        files[f"ImageSets/Segmentation/{name}.txt"] = listed(ids)
    return {f"VOCdevkit/VOC2012/{name}": content for name, content in io.items()}


def sbd_files():
    """As SBD has it: structs in a struct, and an image of VOC val among its own."""
    files = {
        "train.txt": listed((BOTH, *OURS)),
        "val.txt": listed((THEIRS, *VAL)),
        "img/x.jpg": b"",
        "inst/x.mat": b"",
    }
    for i, key in enumerate((BOTH, *OURS, THEIRS, *VAL)):
        savemat(packed := BytesIO(), {"GTcls": {"Segmentation": label(50 + i, (0, 2, 3)), "Boundaries": np.eye(2)}})
        files[f"cls/{key}.mat"] = packed.getvalue()
    return {f"benchmark_RELEASE/dataset/{name}": content for name, content in io.items()}


@pytest.fixture(autouse=True)
def server(tmp_path, monkeypatch):
    """The network: fetch's addresses and sums are those of the tiny archives here."""
    monkeypatch.setattr(benchmarks, "_home", lambda: tmp_path / "home")
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(urllib.request, "_opener", None)
    tree = make_coco(tmp_path / "theirs", val=(PLAIN, PLAIN))
    files = {str(path.relative_to(tree)): path.read_bytes() for path in sorted(tree.rglob("*.*"))}
    files["annotations/captions_train2014.json"] = b"{}"
    with Server() as server:
        server.content = {
            download.VOC.name: tarred(voc_files()),
            download.SBD.name: tarred(sbd_files(), "w:gz"),
            download.NOVAL.name: listed(OURS),
        }
        for archive, part in zip(download.COCO, ("annotations", "val2014", "train2014"), strict=True):
            chosen = {name: content for name, content in io.items() if name.startswith(part)}
            server.content[archive.name] = zipped(chosen)

        def local(archive):
            content = server.content[archive.name]
            md5 = hashlib.md5(content).hexdigest() if archive.md5 else ""
            return archive._replace(url=f"{server.url}/some/{archive.name}", size=len(content), md5=md5)

        server.local = local
        for name in ("VOC", "SBD", "NOVAL"):
            monkeypatch.setattr(download, name, local(getattr(download, name)))
        monkeypatch.setattr(download, "COCO", {local(archive): parts for archive, parts in download.COCO.items()})
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def forbid_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def get(data, name="pascal", images="pfenet", online=True, workers=1):
    return prepare(name, data, Recipe(images=images), workers, fetch=online)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def by_hand(server, data, *names):
    data.mkdir(parents=True, exist_ok=True)
    for name in names:
        (data / name).write_bytes(server.content[name])


VOC_FILES = (download.VOC.name, download.SBD.name, download.NOVAL.name)
COCO_FILES = tuple(archive.name for archive in download.COCO)


# --- everything absent


def test_voc_from_nothing_has_the_masks_that_torchvision_reads(data, server):
    benchmark = get(data)
    splits = {entry.id: entry.split for entry in benchmark.entries}
    assert splits == dict.fromkeys((*TRAIN, *OURS), "train") | dict.fromkeys(VAL, "val")
    voc = VOCSegmentation(data, "2012", "trainval")
    for file, (_, mask) in zip(voc.masks, voc, strict=True):
        ours = Image.open(data / MASKS / file.rpartition("/")[2])
        assert np.array_equal(np.array(ours), np.array(mask))
        assert ours.mode == "P"
    sbd = SBDataset(data / "SBD", "train", "segmentation")
    for key in (*OURS, THEIRS):
        theirs = np.array(sbd._get_target(data / "SBD" / "cls" / f"{key}.mat"))
        assert np.array_equal(np.array(Image.open(data / MASKS / f"{key}.png")), theirs)
    assert sorted(path.stem for path in (data / MASKS).iterdir()) == sorted((*TRAIN, *VAL, *OURS, THEIRS))
    assert [name for name, _ in server.asked] == list(VOC_FILES)
    assert not list(data.rglob("*.part"))
    check(load("pascal", data))


def test_the_long_list_is_made_of_both_in_two_processes(data, server, monkeypatch):
    monkeypatch.setattr(pascal, "CHUNK", 2)
    benchmark = get(data, images="canet", workers=2)
    train = {entry.id for entry in benchmark.entries if entry.split == "train"}
    assert train == {*TRAIN, *OURS, THEIRS}
    assert download.NOVAL.name not in [name for name, _ in server.asked]  # it needs none
    assert (data / LISTS / "train_aug.txt").read_bytes() == listed(sorted(train))


def test_mini_needs_both_and_no_list(data, server, tmp_path, monkeypatch):
    monkeypatch.setattr(pascal, "MINI", tmp_path / "mini.txt")
    pascal.MINI.write_text(f"{THEIRS} train\n{VAL[0]} val\n")
    assert [entry.id for entry in get(data, "pascal-mini").entries] == [VAL[0], THEIRS]
    assert [name for name, _ in server.asked] == list(VOC_FILES[:2])


def test_coco_from_nothing(data, server, tmp_path):
    benchmark = get(data, "coco")
    theirs = prepare("coco", tmp_path / "theirs", workers=1)
    assert benchmark.digest == theirs.digest
    assert {name for name, _ in server.asked} == set(COCO_FILES)
    assert [path.name for path in (data / "coco" / "annotations").iterdir()].count("captions_train2014.json") == 0
    check(load("coco", data))


@pytest.mark.parametrize("name", ["pascal", "coco"])
def test_the_second_call_does_nothing_and_opens_no_socket(data, name, monkeypatch):
    first = get(data, name)
    forbid_network(monkeypatch)
    before = contents(data)
    dates = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    assert get(data, name) == first
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == dates
    (data / name / "index.json").unlink()  # to index again needs no network either
    assert get(data, name) == first
    assert contents(data) == before


# --- killed, and called again


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(("name", "archive"), [("pascal", download.VOC.name), ("coco", COCO_FILES[2])])
def test_killed_in_the_middle_of_a_download_it_goes_on(data, server, name, archive, ranges, monkeypatch):
    server.ranges = ranges
    monkeypatch.setattr(download, "BLOCK", 100)

    class Killed(BaseException):
        pass

    progress = download.progress

    def killing(items, what, *rest):
        for i, item in enumerate(progress(items, what, *rest)):
            if what == f"fetching {archive}" and i == 7:
                raise Killed
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(download, "progress", killing)
        with pytest.raises(Killed):
            get(data, name)
    assert (data / f"{archive}.part").read_bytes() == server.content[archive][:700]
    assert not (data / archive).exists()
    server.asked.clear()
    get(data, name)
    assert server.asked[0] == (archive, 700 * ranges)
    assert (data / archive).read_bytes() == server.content[archive]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_again(data, server, ranges):
    server.ranges = ranges
    server.cut[download.SBD.name] = 1000
    get(data)
    assert [first for name, first in server.asked if name == download.SBD.name] == [0, 1000 * ranges]


def test_killed_before_it_got_its_name(data, server):
    by_hand(server, data, download.VOC.name)
    (data / download.VOC.name).rename(data / f"{download.VOC.name}.part")
    get(data)
    (data / f"{download.VOC.name}").unlink()
    shutil.rmtree(data / "VOCdevkit")
    shutil.rmtree(data / "pascal")
    (data / f"{download.VOC.name}.part").write_bytes(server.content[download.VOC.name] + b"more")  # of another file
    get(data)


@pytest.mark.parametrize(("name", "what"), [("pascal", "unpacking"), ("pascal", "making"), ("coco", "unpacking")])
def test_half_unpacked_it_goes_on(data, name, what, monkeypatch):
    """A full disk stops it after the fourth file; the second call writes the others only."""
    write, full = io.save, {"left": 4}  # when making: three of VOC's and one of SBD's
    place = ".SegmentationClassAug.part" if what == "making" else ".part"

    def save(file, through, option):
        if place in file.parent.name or (what == "unpacking" and place in str(file.parent)):
            full["left"] -= 1
            if full["left"] < 0:
                raise io.unwritable(file, OSError(28, "No space left on device"), option)
        write(file, through, option)

    with monkeypatch.context() as patch:
        patch.setattr(io, "save", save)
        fails("No space left on device", "the same command goes on", call=lambda: get(data, name))
    assert not (data / MASKS).exists()
    assert not (data / name / "index.json").exists()
    assert full["left"] == -1
    done, read, from_sbd = stamps(data), [], pascal._from_sbd
    monkeypatch.setattr(pascal, "_from_sbd", lambda file: read.append(file.stem) or from_sbd(file))
    get(data, name)
    if what == "making":
        assert read == [OURS[1], THEIRS]
    assert done <= stamps(data)  # nothing was written twice, and all have their final names
    assert not list(data.rglob("*.part"))


def stamps(folder):
    states = (path.stat() for path in folder.rglob("*") if path.is_file())
    return {(state.st_ino, state.st_mtime_ns) for state in states}


# --- bad archives


@pytest.mark.parametrize(
    ("name", "archive", "why"), [("pascal", download.SBD.name, "MD5 sum"), ("coco", COCO_FILES[1], "Bad CRC-32")]
)
def test_a_corrupt_archive(data, server, name, archive, why):
    content = server.content[archive]
    server.content[archive] = content[:300] + bytes([content[300] ^ 1]) + content[301:]
    fails(archive, why, "removed", "fetches it again", call=lambda: get(data, name))
    assert not list(data.glob(f"{archive}*"))
    by_hand(server, data, archive)  # what a person put there is named, and left
    fails(f"{data / archive}: corrupt ({why}" if why[0] == "B" else why, "remove it", call=lambda: get(data, name))
    assert (data / archive).read_bytes() == server.content[archive]
    server.content[archive] = content
    (data / archive).unlink()
    get(data, name)


@pytest.mark.parametrize("bad", ["../evil", "/tmp/evil", "VOCdevkit/VOC2012/../../../evil"])
def test_an_archive_that_writes_elsewhere_is_refused(data, server, tmp_path, monkeypatch, bad):
    server.content[download.VOC.name] = tarred({bad: b"evil"} | voc_files())
    monkeypatch.setattr(download, "VOC", server.local(download.VOC))
    fails(download.VOC.name, "refused", bad, call=lambda: get(data))
    server.content[COCO_FILES[0]] = zipped({bad: b"evil"})
    fails(COCO_FILES[0], "refused", bad, call=lambda: get(data, "coco"))
    assert not list(tmp_path.rglob("evil"))


def test_a_link_in_an_archive_is_refused(data, server, monkeypatch):
    server.content[download.VOC.name] = tarred(voc_files(), links=[("VOCdevkit/VOC2012/link", "/etc")])
    monkeypatch.setattr(download, "VOC", server.local(download.VOC))
    fails("VOC2012/link", "is a link", call=lambda: get(data))
    (one := zipfile.ZipInfo("train2014/link.jpg")).external_attr = 0o120777 << 16
    with zipfile.ZipFile(packed := BytesIO(), "w") as archive:
        archive.writestr(one, "/etc/passwd")
    server.content[COCO_FILES[2]] = packed.getvalue()
    fails("train2014/link.jpg", "is a link", call=lambda: get(data, "coco"))
    assert not [path for path in data.rglob("*") if path.is_symlink()]


def test_an_archive_of_something_else(data, server):
    server.content[COCO_FILES[1]] = zipped({"val2017/a.jpg": b""})
    fails(COCO_FILES[1], "no val2014 in it", call=lambda: get(data, "coco"))
    server.content[COCO_FILES[0]] = b"<html>"
    shutil.rmtree(data)
    fails(COCO_FILES[0], "not a zip file", "removed", call=lambda: get(data, "coco"))


# --- no network


@pytest.mark.parametrize(("name", "archives"), [("pascal", VOC_FILES), ("coco", COCO_FILES)])
def test_offline_says_what_to_put_where_and_then_takes_it(data, server, name, archives, monkeypatch):
    forbid_network(monkeypatch)
    line = fails("--offline", f"put into {data}: ", call=lambda: get(data, name, online=False))
    assert not data.exists()
    for archive in archives:
        assert re.search(rf"{archive} \([0-9.]+ MB, {server.url}", line)
    by_hand(server, data, *archives[1:])
    line = fails(archives[0], call=lambda: get(data, name, online=False))
    assert f" {archives[1]} (" not in line
    by_hand(server, data, archives[0])
    assert get(data, name, online=False).entries
    assert not server.asked


def test_what_torchvision_left_is_taken(data, server):
    by_hand(server, data / "SBD", *VOC_FILES[1:])
    get(data)
    assert [name for name, _ in server.asked] == [download.VOC.name]


@pytest.mark.parametrize("why", ["404", "403", "refused", "silence", "no such host"])
def test_without_network_it_says_why_and_what_to_put_where(data, server, why, monkeypatch):
    parts = [why]
    if why.isdigit():
        server.status = int(why)
    elif why == "refused":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/{download.VOC.name}"
        monkeypatch.setattr(download, "VOC", download.VOC._replace(url=url))
    elif why == "silence":
        monkeypatch.setattr(download, "TIMEOUT", 0.2)
        silent = socket.socket()
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(
            download, "VOC", download.VOC._replace(url=f"http://127.0.0.1:{silent.getsockname()[1]}/x")
        )
        parts = ["timed out"]
    else:

        def unknown(*_, **__):
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        parts = ["Name or service not known"]
    fails(download.VOC.url, f"put into {data}", *VOC_FILES, *parts, call=lambda: get(data))
    assert not (data / "pascal").exists()
    if why == "silence":
        silent.close()


def test_only_prepare_fetches(data, server, monkeypatch, capsys):
    monkeypatch.setenv("DPNET_DATA", "")
    monkeypatch.setenv("DPNET_RESULTS", "")
    data.mkdir()
    for name in ("pascal", "pascal-mini", "coco"):
        family = name.removesuffix("-mini")
        assert cli.main(["plan", "table3", "--benchmark", name, "--data", str(data)]) == 1
        assert f"python -m dpnet prepare {family} --root {data}" in capsys.readouterr().err
    assert not server.asked
    assert cli.main(["prepare", "coco", "--root", str(data), "--offline"]) == 1
    assert "--offline" in (line := capsys.readouterr().err)
    assert line.count("\n") == 1
    assert not server.asked
    assert cli.main(["prepare", "coco", "--root", str(data)]) == 0
    assert server.asked


# --- the user's own


@pytest.mark.parametrize(
    ("images", "file", "archive"),
    [("pfenet", "train_noval.txt", download.NOVAL.name), ("canet", "train_aug.txt", download.SBD.name)],
)
def test_the_users_masks_are_used_as_they_are(data, server, tmp_path, images, file, archive):
    get(tmp_path / "other")
    server.asked.clear()
    shutil.copytree(tmp_path / "other" / "VOCdevkit", data / "VOCdevkit")
    for i, path in enumerate(sorted((data / MASKS).iterdir())):
        path.write_bytes(index.png(label(i, (4, 5))))
    (data / LISTS / file).unlink()
    before = contents(data / MASKS)
    benchmark = get(data, images=images)
    assert contents(data / MASKS) == before
    assert {c for entry in benchmark.entries for c in entry.pixels} == {4, 5}
    assert [name for name, _ in server.asked] == [archive]


def test_a_copy_of_voc_without_masks_is_not_fetched_again(data, server, tmp_path):
    get(tmp_path / "other")
    server.asked.clear()
    shutil.copytree(tmp_path / "other" / "VOCdevkit" / "VOC2012", data)  # and the folder itself is given
    shutil.rmtree(data / "SegmentationClassAug")
    before = contents(data)
    get(data)
    assert [name for name, _ in server.asked] == [download.SBD.name]
    assert before.items() <= contents(data).items()


def test_a_copy_of_voc_with_nothing_to_make_masks_of(data, server):
    (data / "VOCdevkit/VOC2012/JPEGImages").mkdir(parents=True)
    fails("VOC2012/SegmentationClass: missing", download.VOC.name, "move", call=lambda: get(data))
    assert not server.asked


def test_a_part_of_coco_is_kept(data, server, tmp_path):
    shutil.copytree(tmp_path / "theirs" / "val2014", data / "val2014")
    before = contents(data)
    get(data, "coco")
    assert COCO_FILES[1] not in [name for name, _ in server.asked]
    assert before.items() <= contents(data).items()
    assert (data / "train2014").is_dir()  # beside what was there


def test_a_copy_that_may_not_be_written(data, server):
    for part in ("JPEGImages", "SegmentationClass"):
        (data / "VOCdevkit/VOC2012" / part).mkdir(parents=True)
    data.chmod(0o555)
    before = sorted(data.rglob("*"))
    fails(str(data), "may not be written", download.SBD.name, "--root", call=lambda: get(data))
    data.chmod(0o755)
    assert sorted(data.rglob("*")) == before
    assert not server.asked


def test_too_little_room_is_said_before(data, server, monkeypatch):
    monkeypatch.setattr(download, "VOC", download.VOC._replace(size=2_000_000_000))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 6, 3_500_000_000))
    fails(str(data), "about 4.0 GB are needed", "3.5 GB are free", "make room", call=lambda: get(data))
    assert not server.asked


def test_two_calls_at_once_fetch_once(data, server):
    done, calls = [], [threading.Thread(target=lambda: done.append(get(data))) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert done[0] == done[1]
    assert sorted(name for name, _ in server.asked) == sorted(VOC_FILES)
    assert not list(data.rglob("*.held"))


def test_a_broken_mask_of_sbd(data, server, monkeypatch):
    files = sbd_files()
    files[f"benchmark_RELEASE/dataset/cls/{OURS[0]}.mat"] = b"MATLAB 5.0 MAT-file"
    server.content[download.SBD.name] = tarred(io, "w:gz")
    monkeypatch.setattr(download, "SBD", server.local(download.SBD))
    fails(f"{OURS[0]}.mat", "no mask can be read", call=lambda: get(data))
    assert not (data / MASKS).exists()
