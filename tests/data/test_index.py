"""The common layout, what fills it from VOC and from a seed, and the one line that each bad file gives."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from samples import SIZE, TRAIN, VAL, VOC, contents, fails, make_own, make_voc, prepare_folder

from dpnet.companion import presets
from dpnet.config import BENCHMARKS, Recipe
from dpnet.data import check, checks, index, known, load, prepare, shapes

REAL = Path(__file__).parents[3] / "shared" / "data" / "voc"
CANET = Recipe(images="canet")
SMALL = Recipe(size=48, train=3, val=2)


@pytest.fixture
def data(tmp_path):
    return make_voc(tmp_path / "data")


def entry(name, split, size, pixels, **more):
    return index.Entry(name, split, "", "", size, pixels, **more)


def written(root, classes, folds, entries):
    return index.write(index.Benchmark("any", root, classes, folds, folds, tuple(entries)))


def save_array(file, shape, value):
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(file)


# --- what is in the index


def test_pixels_sizes_and_splits_are_those_of_the_files(data):
    benchmark = prepare("pascal", data)
    assert [e.id for e in benchmark.entries] == sorted(TRAIN + VAL)
    for e in benchmark.entries:
        mask = np.array(Image.open(data / VOC / "SegmentationClassAug" / f"{e.id}.png"))
        counts = np.bincount(mask.ravel(), minlength=256)
        assert e.pixels == {c: counts[c] for c in (1, 7, 20, 255)}
        assert (e.size, e.thin) == (SIZE, ())
        assert e.split == ("val" if e.id in VAL else "train")
        np.testing.assert_array_equal(benchmark.label(e), mask)
        np.testing.assert_array_equal(benchmark.image(e), np.array(Image.open(benchmark.path(e.image))))
    assert (benchmark.classes[14], benchmark.folds[3]) == ("person", (16, 17, 18, 19, 20))
    assert benchmark.tested == benchmark.folds
    assert "thin" not in (benchmark.root / "index.json").read_text()  # nor in the digest
    assert [e.id for e in prepare("pascal", data, CANET).entries if e.split == "train"] == list(TRAIN)


def test_data_may_be_the_parent_the_devkit_or_voc2012(data):
    assert all(len(prepare("pascal", data / inside).entries) == 5 for inside in ("", "VOCdevkit", VOC))


def test_a_class_counts_from_2048_pixels_at_500_and_where_it_is_not_too_thin(tmp_path):
    entries = [
        entry("a", "train", (500, 300), {1: 2048, 2: 2047, 255: 9999}),
        entry("b", "train", (50, 40), {1: 21, 2: 20}),
        entry("c", "train", (640, 1000), {1: 2048, 2: 2047}),
        entry("d", "train", (352, 10), {1: 1016, 2: 1015}),
        entry("e", "train", (50, 40), {1: 2000}, thin=(1,)),
    ]
    benchmark = written(tmp_path, ("x", "y"), ((1,), (2,)), entries)
    assert [index.least(*e.size) for e in benchmark.entries] == [2048, 21, 2048, 1016, 21]
    assert benchmark.images_of(1, "train") == [0, 1, 2, 3]
    assert benchmark.images_of(2, "train") == benchmark.images_of(255, "train") == benchmark.images_of(1, "val") == []
    assert index.read(tmp_path) == benchmark
    thick = [*entries[:4], entry("e", "train", (50, 40), {1: 2000})]
    assert written(tmp_path, ("x", "y"), ((1,), (2,)), thick).digest != benchmark.digest


# --- once, the same, and whole


def test_the_second_time_no_image_is_read_and_another_list_is_another_benchmark(data, monkeypatch):
    first = prepare("pascal", data)
    content = (data / "pascal/index.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(index, "decode", None)
        assert prepare("pascal", data) == first == load("pascal", data)
    assert hash(load("pascal", data)) == hash(first)
    shutil.rmtree(data / "pascal")
    prepare("pascal", data)
    assert (data / "pascal/index.json").read_bytes() == content
    fails("pascal/index.json", "canet", "prepare pascal", call=lambda: load("pascal", data, CANET))
    assert prepare("pascal", data, CANET).digest != first.digest


def test_digest_and_index_do_not_depend_on_the_place(data, tmp_path):
    here = prepare("pascal", data)
    (data / "pascal/index.json").unlink()
    moved = data.rename(tmp_path / "elsewhere")
    there = prepare("pascal", moved)
    assert there.digest == here.digest
    assert not any(os.path.isabs(e.image) or os.path.isabs(e.label) for e in there.entries)
    check(load("pascal", moved.rename(tmp_path / "third")))  # the index moves with the data


def test_data_that_cannot_be_written_is_indexed_at_home(data, home, monkeypatch):
    here = prepare("pascal", data)
    shutil.rmtree(data / "pascal")
    before = contents(data)
    data.chmod(0o555)  # root may write there, but the owner meant it
    benchmark = prepare("pascal", data)
    assert (benchmark.root.parent, benchmark.digest) == (home / "data", here.digest)
    assert benchmark.root.name.startswith("pascal-")
    assert contents(data) == before
    assert load("pascal", data) == prepare("pascal", data) == benchmark
    data.chmod(0o755)
    check(benchmark)
    monkeypatch.setattr(index, "writable", lambda folder: False)
    fails("cannot be written", "--root", call=lambda: prepare("pascal", data, CANET))


def test_shapes_do_not_depend_on_the_number_of_workers_and_say_in_their_folder_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "CHUNK", 2)
    one, two = (prepare("shapes", tmp_path / str(n), SMALL, workers=n) for n in (1, 2))
    assert contents(one.root) == contents(two.root)
    assert one.digest == two.digest
    names = {f"{split}-{i:05d}" for split, number in (("train", 3), ("val", 2)) for i in range(1, number + 1)}
    files = {f"images/{name}.jpg" for name in names} | {f"labels/{name}.png" for name in names}
    assert set(contents(one.root)) == files | {"index.json"}
    assert one.root.name == f"v{shapes.RECIPE_VERSION}-48px-d0.4-3+2-s0"
    assert len({one.path(e.label).read_bytes() for e in one.entries}) == 5, "each image has its own seed"
    table = check(one)
    assert list(table["fold"]) == sorted(table["fold"])
    assert table["train"].sum() == sum(len(one.images_of(c, "train")) for c in range(1, 21)) > 0
    assert load("shapes", tmp_path / "1", Recipe(**{**vars(SMALL), "images": "canet"})) == one
    for change in ({"size": 49}, {"diversity": 0.2}, {"train": 4}, {"val": 3}, {"seed": 1}):
        call = lambda change=change: load("shapes", tmp_path / "1", Recipe(**{**vars(SMALL), **change}))  # noqa: E731
        fails("missing", "prepare shapes", call=call)


def test_killed_in_the_middle_nothing_is_there_and_a_rerun_completes(data, tmp_path, monkeypatch):
    whole = contents(prepare("shapes", tmp_path / "whole", SMALL, workers=1).root)
    render, before = shapes.render, contents(data)

    def dies(*arguments):
        if len(arguments) == 2 or list(arguments[0])[1:] == [1, 2]:
            raise KeyboardInterrupt
        return render(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "render", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare("shapes", tmp_path / "again", SMALL, workers=1)
        patch.setattr(index.io.os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare("pascal", data)
    assert any((tmp_path / "again").rglob("*.jpg"))
    assert not any((tmp_path / "again").rglob("index.json"))
    assert contents(data) == before
    assert contents(prepare("shapes", tmp_path / "again", SMALL, workers=1).root) == whole
    assert len(prepare("pascal", data).entries) == 5


# --- bad input


def test_what_is_unknown_or_not_prepared_says_how(tmp_path):
    for call in (prepare, load):
        fails("'cifar'", "shapes", "pascal-part", "folder", call=lambda call=call: call("cifar", tmp_path))
    for name in BENCHMARKS:
        fails(tmp_path, f"dpnet prepare {name}", call=lambda name=name: load(name, tmp_path))
    fails(tmp_path, "index.json", "dpnet prepare", call=lambda: index.read(tmp_path))


def test_data_that_is_no_copy(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other/photos").mkdir(parents=True)
    whys = {"nowhere": "no such folder", "file": "no such folder", "empty": "no part of it", "other": "no part of it"}
    for name in ("pascal", "pascal-part", "coco"):
        for place, why in whys.items():
            call = lambda name=name, place=place: prepare(name, tmp_path / place)  # noqa: E731
            fails(tmp_path / place, why, "give the folder", call=call)
    assert not any(tmp_path.rglob("index.json"))


def test_a_missing_part_or_list(data):
    lists = data / VOC / "ImageSets/Segmentation"
    for file in ("train.txt", "train_noval.txt", "train_aug.txt", "val.txt"):
        hint = "dpnet prepare" if "_" in file else "VOC 2012"
        call = lambda file=file: prepare("pascal", data, CANET if "aug" in file else Recipe())  # noqa: E731
        whole = (lists / file).read_text()
        (lists / file).write_text("\n")
        fails(lists / file, "missing, or names no image", hint, call=call)
        (lists / file).unlink()
        fails(lists / file, "missing, or names no image", hint, call=call)
        (lists / file).write_text(whole)
    for part in ("SegmentationClassAug", "JPEGImages"):
        shutil.rmtree(data / VOC / part)
        fails(f"{VOC}/{part}: missing", "dpnet prepare pascal", call=lambda: prepare("pascal", data))


def test_an_image_in_both_splits(data):
    (data / VOC / "ImageSets/Segmentation/val.txt").write_text(f"{VAL[0]}\n{TRAIN[2]}\n")
    fails(TRAIN[2], "val.txt", call=lambda: prepare("pascal", data))


BAD = {
    "missing": (lambda file: file.unlink(), ("no such file",)),
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-300]), ("cannot be decoded", "truncated")),
    "size": (lambda file: save_array(file, (30, 20), 0), ("20x30", "50x40", f"{VAL[0]}.jpg")),
    "class": (lambda file: save_array(file, SIZE, 21), ("ids 21 are out of range", "0…20", "255")),
}


def test_bad_files_are_named_and_nothing_is_written(data):
    masks = data / VOC / "SegmentationClassAug"
    file = masks / f"{VAL[0]}.png"
    whole = file.read_bytes()
    for spoil, parts in BAD.values():
        spoil(file)
        assert "more" not in fails(file, *parts, call=lambda: prepare("pascal", data))
        assert not (data / "pascal").exists()
        file.write_bytes(whole)
    file.unlink()
    (masks / f"{VAL[1]}.png").unlink()
    fails(file, "1 more", call=lambda: prepare("pascal", data))


def test_check_finds_what_changed(data):
    benchmark = prepare("pascal", data)
    assert check(benchmark)["val"].tolist().count(2) == 3  # classes 1, 7 and 20 are in both val images
    save_array(benchmark.path(benchmark.entries[0].label), SIZE, 3)
    fails(benchmark.entries[0].id, "index.json", "prepare again", call=lambda: check(benchmark))
    benchmark.path(benchmark.entries[1].image).write_bytes(b"")
    fails(benchmark.entries[1].id, "decoded", call=lambda: check(benchmark))
    fails(benchmark.entries[1].id, "decoded", call=lambda: benchmark.image(benchmark.entries[1]))


def test_a_corrupt_index(data):
    file = prepare("pascal", data).root / "index.json"
    whole = file.read_text()
    other_split, other_class = ('"train"', '"val"', 1), ('"pixels":{"1":', '"pixels":{"2":', 1)
    for spoilt in (whole[:500], "", "[]", "{}", whole.replace(*other_split), whole.replace(*other_class)):
        file.write_text(spoilt)
        for call in (prepare, load):
            fails(file, "corrupt", "delete it and prepare", call=lambda call=call: call("pascal", data))
    file.write_text(json.dumps(json.loads(whole) | {"version": 2}))
    fails(file, "not of version 1", "delete it", call=lambda: load("pascal", data))


def test_shapes_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    fails("file/shapes", "cannot be written", "--root", call=lambda: prepare("shapes", tmp_path / "file", SMALL))

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index.io.os, "replace", full)
    call = lambda: prepare("shapes", tmp_path / "full", SMALL, workers=1)  # noqa: E731
    fails("No space left on device", "train-00001.jpg", call=call)
    assert not contents(tmp_path / "full")


def test_make_clean_leaves_the_users_data(tmp_path):
    shutil.copy(Path(__file__).parents[2] / "Makefile", tmp_path)
    ours = ["shapes/v1/index.json", "pascal/features/a.npy", "pascal-part/pixels/a.npy", "coco-1/validation/a.npy",
            "folder/features/a.npy", "folder/made/labels/a.png", "folder/index.json"]  # fmt: skip
    theirs = ["VOCdevkit/VOC2012/JPEGImages/a.jpg", "coco/train2014/a.jpg", "coco/labels/val/a.png", "SBD/a.mat",
              "pascal/index.json", "mine/features/a.jpg", "folder/images/a.jpg", "train2014.zip"]  # fmt: skip
    for name in (*ours, *theirs):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text("")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert {name for name in (*ours, *theirs) if (tmp_path / "data" / name).exists()} == set(theirs)


# --- what is known of them, and real photographs


def test_known_counts_stand_beside_those_here(data, tmp_path):
    for images, known_train in (("pfenet", 5953), ("canet", 10582)):
        benchmark = prepare("pascal", data, Recipe(images=images))
        table = known(benchmark).set_index("list")
        assert table.known["train: images"] == known_train
        assert table.here[["train: images", "val: images"]].tolist() == [3, 2]
        assert table.here["val: aeroplane"] == len(benchmark.images_of(1, "val")) == 2
        folds = [f"val: fold {i}" for i in range(4)]
        assert table.here[folds].tolist() == [2, 2, 0, 2]
        assert table.known[folds].tolist() == [346, 451, 725, 346]
        names = [[f"val: {benchmark.classes[c - 1]}" for c in fold] for fold in benchmark.folds]
        assert [table.known[some].sum() for some in names] == table.known[folds].tolist()
        assert (table.deviates == table.here - table.known).all()
        assert ("train: images that show enough of a class" in table.index) == (images == "canet")
    coco = pd.read_csv(checks.KNOWN, comment="#").query("benchmark == 'coco'").set_index("list")
    assert coco.known["train: images"] * 20 // 8 == presets.resolve("coco", "paper").training.steps  # 20 epochs of 8
    own = make_own(tmp_path / "own")
    parts = own / "images", own / "labels", own / "names.txt", tmp_path / "data"
    assert known(prepare_folder(*parts)).empty


def test_real_photographs(home):
    if not REAL.is_dir():
        pytest.skip(f"no part of VOC 2012 at {REAL}")
    (home / "voc").mkdir(parents=True)
    (home / "voc/VOCdevkit").symlink_to(REAL / "VOCdevkit")
    benchmark = prepare("pascal-part", home / "voc")
    splits = [e.split for e in benchmark.entries]
    assert (splits.count("train"), splits.count("val")) == (3736, 1162)
    shows = [{i for c in fold for i in benchmark.images_of(c, "val")} for fold in benchmark.folds]
    assert [len(one) for one in shows] == [276, 359, 474, 261]  # fewer than have a pixel of it
    assert benchmark.tested == benchmark.folds
    same = {(e.id, e.split) for e in prepare("pascal", home / "voc", CANET).entries}
    assert same == {(e.id, e.split) for e in benchmark.entries}
