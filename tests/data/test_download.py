"""What is fetched, from a server on this machine that has tiny archives: whole, stopped, corrupt, absent."""

import hashlib
import http.server
import shutil
import socket
import tarfile
import tempfile
import threading
import urllib.request
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import SIZE, contents, fails, photo
from scipy.io import savemat
from test_coco import PLAIN, make_coco
from torchvision.datasets import SBDataset, VOCSegmentation

from dpnet import cli
from dpnet.config import Recipe
from dpnet.data import check, download, index, load, pascal, prepare

TRAIN, VAL = ("2007_000001", "2007_000002"), ("2007_000003",)
BOTH, OURS, THEIRS = TRAIN[1], ("2008_000004", "2008_000005"), "2009_000006"  # in VOC and SBD; train_noval; SBD alone
MASKS, LISTS = "VOCdevkit/VOC2012/SegmentationClassAug", "VOCdevkit/VOC2012/ImageSets/Segmentation"
VOC_FILES = (download.VOC.name, download.SBD.name, download.NOVAL.name)
COCO_FILES = tuple(archive.name for archive in download.COCO)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `content` of its server by name; `asked` has each name."""

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        if self.server.status != 200 or name not in self.server.content:
            return self.send_error(self.server.status if self.server.status != 200 else 404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content[name])))
        self.end_headers()
        self.wfile.write(self.server.content[name])

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


def tarred(files, mode="w"):
    with tarfile.open(fileobj=(packed := BytesIO()), mode=mode) as tar:
        for name, content in files.items():
            (one := tarfile.TarInfo(name)).size = len(content)
            tar.addfile(one, BytesIO(content))
    return packed.getvalue()


def zipped(files):
    with zipfile.ZipFile(packed := BytesIO(), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def label(seed, values):
    return np.random.default_rng(seed).choice(np.array(values, dtype=np.uint8), SIZE)


def listed(names):
    return "".join(f"{name}\n" for name in names).encode()


def voc_files():
    files = {}
    for i, key in enumerate((*TRAIN, *VAL, *OURS, THEIRS)):
        Image.fromarray(photo(i)).save(packed := BytesIO(), "JPEG")
        files[f"JPEGImages/{key}.jpg"] = packed.getvalue()
    files |= {f"SegmentationClass/{key}.png": index.png(label(i, (0, 1, 255))) for i, key in enumerate(TRAIN + VAL)}
    for name, ids in {"train": TRAIN, "val": VAL, "trainval": TRAIN + VAL}.items():
        files[f"ImageSets/Segmentation/{name}.txt"] = listed(ids)
    return {f"VOCdevkit/VOC2012/{name}": content for name, content in files.items()}


def sbd_files():
    """As SBD has it: structs in a struct, and an image of VOC val among its own."""
    files = {"train.txt": listed((BOTH, *OURS)), "val.txt": listed((THEIRS, *VAL)), "inst/x.mat": b""}
    for i, key in enumerate((BOTH, *OURS, THEIRS, *VAL)):
        savemat(packed := BytesIO(), {"GTcls": {"Segmentation": label(50 + i, (0, 2, 3)), "Boundaries": np.eye(2)}})
        files[f"cls/{key}.mat"] = packed.getvalue()
    return {f"benchmark_RELEASE/dataset/{name}": content for name, content in files.items()}


@pytest.fixture(autouse=True)
def server(tmp_path, monkeypatch):
    """The network: addresses and sums are those of the tiny archives here."""
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(urllib.request, "_opener", None)
    tree = make_coco(tmp_path / "theirs", val=(PLAIN, PLAIN))
    files = {str(path.relative_to(tree)): path.read_bytes() for path in sorted(tree.rglob("*.*"))}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.asked, server.status = True, [], 200
        archives = tarred(voc_files()), tarred(sbd_files(), "w:gz"), listed(OURS)
        server.content = dict(zip(VOC_FILES, archives, strict=True))
        for archive, part in zip(COCO_FILES, ("annotations", "val2014", "train2014"), strict=True):
            server.content[archive] = zipped({name: files[name] for name in files if name.startswith(part)})

        def local(archive):
            md5 = archive.md5 and hashlib.md5(server.content[archive.name]).hexdigest()
            return archive._replace(url=f"http://127.0.0.1:{server.server_address[1]}/{archive.name}", md5=md5)

        for name in ("VOC", "SBD", "NOVAL"):
            monkeypatch.setattr(download, name, local(getattr(download, name)))
        monkeypatch.setattr(download, "COCO", tuple(map(local, download.COCO)))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def get(data, name="pascal", images="pfenet", online=True, workers=1):
    return prepare(name, data, Recipe(images=images), workers, fetch=online)


def by_hand(server, data, *names):
    data.mkdir(parents=True, exist_ok=True)
    for name in names:
        (data / name).write_bytes(server.content[name])


def forbid_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


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
    assert set(server.asked) == set(VOC_FILES)
    assert not [path for path in data.rglob("*") if path.suffix == ".part" or path.name.startswith(".")]


def test_the_long_list_is_made_of_both_in_two_processes_and_part_needs_no_list(data, server, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "CHUNK", 2)
    train = {entry.id for entry in get(data, images="canet", workers=2).entries if entry.split == "train"}
    assert train == {*TRAIN, *OURS, THEIRS}
    assert (data / LISTS / "train_aug.txt").read_bytes() == listed(sorted(train))
    monkeypatch.setattr(pascal, "PART", tmp_path / "part.txt")
    pascal.PART.write_text(
        "".join(f"{split} {key[:4]} {int(key[5:])}\n" for key, split in {THEIRS: "train", VAL[0]: "val"}.items())
    )
    assert [entry.id for entry in get(data, "pascal-part").entries] == [VAL[0], THEIRS]
    assert set(server.asked) == set(VOC_FILES[:2])


def test_coco_from_nothing(data, server, tmp_path):
    assert get(data, "coco").digest == prepare("coco", tmp_path / "theirs", workers=1).digest
    assert set(server.asked) == set(COCO_FILES)


@pytest.mark.parametrize("name", ["pascal", "coco"])
def test_the_second_call_does_nothing_and_opens_no_socket(data, name, monkeypatch):
    first = get(data, name)
    forbid_network(monkeypatch)
    before = contents(data)
    assert get(data, name) == load(name, data) == first
    (data / name / "index.json").unlink()  # to index again needs no network either
    assert get(data, name) == first
    assert contents(data) == before
    check(first)


# --- stopped, corrupt, or not to be had


@pytest.mark.parametrize(("name", "archive"), [("pascal", VOC_FILES[0]), ("coco", COCO_FILES[2])])
def test_stopped_while_fetching_or_unpacking_it_starts_again(data, server, name, archive, monkeypatch):
    data.mkdir()
    (data / f"{archive}.part").write_bytes(server.content[archive][:700])

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download.Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            get(data, name)
    assert not list(data.rglob(".unpacking*"))
    assert not (data / name / "index.json").exists()
    assert get(data, name).entries
    assert (data / archive).read_bytes() == server.content[archive]


def test_what_is_absent_comes_to_where_a_link_leads(data, server):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:  # often another disk: no rename leads there
        data.mkdir()
        (data / "VOCdevkit").symlink_to(elsewhere)
        assert get(data, "pascal").entries
        assert (Path(elsewhere) / "VOC2012" / "JPEGImages").is_dir()


def test_half_of_the_masks_is_no_folder_of_masks(data, monkeypatch):
    whole, made = pascal.png, []

    def full(mask):
        if len(made) == 2:
            raise MemoryError
        return whole(made.append(mask) or mask)

    with monkeypatch.context() as patch:
        patch.setattr(pascal, "png", full)
        fails("no mask can be read", call=lambda: get(data))
    assert not (data / MASKS).exists()
    assert get(data).entries


@pytest.mark.parametrize(
    ("name", "archive", "why"), [("pascal", VOC_FILES[1], "MD5"), ("coco", COCO_FILES[1], "CRC")]
)
def test_a_corrupt_archive(data, server, name, archive, why):
    content = server.content[archive]
    server.content[archive] = content[:300] + bytes([content[300] ^ 1]) + content[301:]
    fails(archive, call=lambda: get(data, name))
    by_hand(server, data, archive)  # what a person put there is named, and left
    fails(f"{data / archive}: corrupt", why, "remove it", call=lambda: get(data, name))
    assert (data / archive).read_bytes() == server.content[archive]
    server.content[archive] = content
    (data / archive).unlink()
    assert get(data, name).entries


def test_an_archive_of_something_else(data, server):
    server.content[COCO_FILES[1]] = zipped({"val2017/a.jpg": b""})
    fails(COCO_FILES[1], "no val2014 in it", "remove it", call=lambda: get(data, "coco"))
    shutil.rmtree(data)
    server.content[COCO_FILES[0]] = b"<html>"
    fails(COCO_FILES[0], "not a zip file", call=lambda: get(data, "coco"))


@pytest.mark.parametrize(("name", "archives"), [("pascal", VOC_FILES), ("coco", COCO_FILES)])
def test_offline_says_what_to_put_where_and_then_takes_it(data, server, name, archives, monkeypatch):
    forbid_network(monkeypatch)
    urls = [f"{one} (" for one in archives]
    line = fails("--offline", f"put into {data}: ", "GB, http", *urls, call=lambda: get(data, name, online=False))
    assert not data.exists()
    by_hand(server, data, *archives[1:])
    line = fails(archives[0], call=lambda: get(data, name, online=False))
    assert f" {archives[1]} (" not in line
    by_hand(server, data, archives[0])
    assert get(data, name, online=False).entries
    assert not server.asked


@pytest.mark.parametrize("why", ["404", "Name or service not known"])
def test_without_network_it_says_why_and_what_to_put_where(data, server, why, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, why)

    if why == "404":
        server.status = 404
    else:
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    fails(download.VOC.url, f"put into {data}", *VOC_FILES, why, call=lambda: get(data))
    assert not (data / "pascal").exists()


def test_only_prepare_fetches(data, server, monkeypatch, capsys):
    monkeypatch.setenv("DPNET_RESULTS", "")
    data.mkdir()
    for name in ("pascal", "pascal-part", "coco"):
        assert cli.main(["plan", "table3", "--benchmark", name, "--data", str(data)]) == 1
        assert f"dpnet prepare {name.removesuffix('-part')} --root {data}" in capsys.readouterr().err
    assert cli.main(["prepare", "coco", "--root", str(data), "--offline"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not server.asked
    assert cli.main(["prepare", "coco", "--root", str(data)]) == 0
    assert server.asked


# --- the user's own


def test_the_users_masks_are_used_as_they_are(data, server, tmp_path):
    get(tmp_path / "other")
    shutil.copytree(tmp_path / "other/VOCdevkit", data / "VOCdevkit")
    for i, path in enumerate(sorted((data / MASKS).iterdir())):
        path.write_bytes(index.png(label(i, (4, 5))))
    before = contents(data / MASKS)
    for images, file, archive in (
        ("pfenet", "train_noval.txt", VOC_FILES[2]),
        ("canet", "train_aug.txt", VOC_FILES[1]),
    ):
        server.asked.clear()
        (data / LISTS / file).unlink()
        assert {c for entry in get(data, images=images).entries for c in entry.pixels} == {4, 5}
        assert contents(data / MASKS) == before
        assert set(server.asked) == {archive}


def test_parts_that_are_there_are_not_fetched_again(data, server, tmp_path):
    get(tmp_path / "other")
    shutil.copytree(tmp_path / "other/VOCdevkit/VOC2012", data)  # and the folder itself is given
    shutil.rmtree(data / "SegmentationClassAug")
    shutil.copytree(tmp_path / "theirs/val2014", tmp_path / "coco/val2014")
    before = contents(data)
    server.asked.clear()
    get(data)
    get(tmp_path / "coco", "coco")
    assert set(server.asked) == {VOC_FILES[1], COCO_FILES[0], COCO_FILES[2]}
    assert before.items() <= contents(data).items()


def test_a_copy_without_masks_is_completed_unless_it_may_not_be_written(data, server, tmp_path):
    get(tmp_path / "other")
    shutil.copytree(tmp_path / "other/VOCdevkit/VOC2012/JPEGImages", data / "VOCdevkit/VOC2012/JPEGImages")
    server.asked.clear()
    data.chmod(0o555)
    fails(data, "may not be written", *VOC_FILES[:2], "--root", call=lambda: get(data))
    data.chmod(0o755)
    assert not server.asked
    assert len(get(data).entries) == 5


def test_two_calls_at_once_fetch_once(data, server):
    done = []
    calls = [threading.Thread(target=lambda: done.append(get(data))) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert done[0] == done[1]
    assert not list(data.rglob("*.held"))
