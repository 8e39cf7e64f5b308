"""The common layout, what fills it, and the one line that each bad input gives."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dpnet import data as benchmarks
from dpnet.companion import presets
from dpnet.config import Recipe
from dpnet.data import check, custom, index, known, load, pascal, prepare, prepare_folder, shapes
from dpnet.io import DPNetError

REAL = Path(__file__).parents[2] / "shared" / "data" / "voc_partial"
CANET = Recipe(images="canet")
SMALL = Recipe(size=48, train=3, val=2)
SIZE = 40, 50  # height, width: a class counts from 2048 * (50 / 500)² = 20.48 pixels
VOC = "VOCdevkit/VOC2012"
TRAIN, VAL = ("2007_000001", "2007_000002", "2008_000003"), ("2007_000004", "2008_000005")


def save_pair(photos, masks, name, seed=0, labels=(0, 1, 7, 20, 255)):
    rng = np.random.default_rng(seed)
    for place in (photos, masks):
        place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(photos / f"{name}.jpg")
    mask = Image.fromarray(rng.choice(np.array(labels, dtype=np.uint8), SIZE))
    mask.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
    mask.save(masks / f"{name}.png")


def make_voc(data, train=TRAIN, val=VAL):
    """A tiny copy of VOC 2012; returns `data`."""
    voc = data / VOC
    for i, name in enumerate((*train, *val)):
        save_pair(voc / "JPEGImages", voc / "SegmentationClassAug", name, i)
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in val))
    (lists / "train.txt").write_text("".join(f"{name}\n" for name in train[:2]))
    (lists / "train_noval.txt").write_text("".join(f"{name}\n" for name in train[1:]))
    line = "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png\n"
    (lists / "train_aug.txt").write_text("".join(line.format(name) for name in train))
    return data


def make_folder(base, number=9, labels=(0, 1, 2, 3, 4, 5, 255)):
    for i in range(number):
        save_pair(base / "images", base / "labels", f"img{i}", i, labels)
    (base / "names.txt").write_text("cup\nfork\nknife\nspoon\nplate\n")
    return base / "images", base / "labels", base / "names.txt"


def plain_render(seed, classes, size, diversity):
    rng = np.random.default_rng(seed)
    label = rng.choice(np.array([0, *classes, 255], dtype=np.uint8), (size, size))
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8), label


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(custom.rglob("*")) if path.is_file()}


def fails(*parts, call):
    """The call raises one line that names each of `parts`."""
    with pytest.raises(DPNetError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line
    return line


@pytest.fixture
def data(tmp_path):
    return make_voc(tmp_path / "data")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No test writes into the project's own data folder."""
    monkeypatch.setattr(benchmarks, "_home", lambda: tmp_path / "home")
    return tmp_path / "home"


# --- what is in the index


def test_pixels_sizes_and_splits_are_those_of_the_files(data):
    benchmark = prepare("pascal", data)
    assert [entry.id for entry in benchmark.entries] == sorted(TRAIN + VAL)
    for entry in benchmark.entries:
        mask = np.array(Image.open(data / VOC / "SegmentationClassAug" / f"{entry.id}.png"))
        counts = np.bincount(mask.ravel(), minlength=256)
        assert entry.pixels == {c: counts[c] for c in (1, 7, 20, 255)}
        assert entry.size == SIZE == benchmark.label(entry).shape
        assert entry.split == ("val" if entry.id in VAL else "train")
        np.testing.assert_array_equal(benchmark.label(entry), mask)
        photo = Image.open(data / VOC / "JPEGImages" / f"{entry.id}.jpg")
        np.testing.assert_array_equal(benchmark.image(entry), np.array(photo))
    assert benchmark.classes[14] == "person"
    assert benchmark.folds[3] == (16, 17, 18, 19, 20)
    assert benchmark.tested == benchmark.folds


@pytest.mark.parametrize(("images", "ids"), [("pfenet", TRAIN), ("canet", TRAIN)])
def test_both_training_lists_give_each_image_once(data, images, ids):
    benchmark = prepare("pascal", data, Recipe(images=images))
    assert tuple(entry.id for entry in benchmark.entries if entry.split == "train") == ids


@pytest.mark.parametrize("inside", ["", "VOCdevkit", VOC])
def test_data_may_be_the_parent_the_devkit_or_voc2012(data, inside):
    assert len(prepare("pascal", data / inside).entries) == 5


def test_grey_png_masks_are_as_good_as_palette_ones(data):
    file = data / VOC / "SegmentationClassAug" / f"{VAL[0]}.png"
    before = prepare("pascal", data).digest
    Image.fromarray(np.array(Image.open(file))).save(file)
    shutil.rmtree(data / "pascal")
    assert prepare("pascal", data).digest == before


def test_a_class_counts_from_2048_pixels_at_500_and_never_above(tmp_path):
    def entry(name, size, pixels):
        return index.Entry(name, "train", "", "", size, pixels)

    entries = [
        entry("a", (500, 300), {1: 2048, 2: 2047, 255: 9999}),
        entry("b", (50, 40), {1: 21, 2: 20}),
        entry("c", (640, 1000), {1: 2048, 2: 2047}),
        entry("d", (352, 10), {1: 1016, 2: 1015}),
    ]
    benchmark = index.write(tmp_path, "any", ("x", "y"), ((1,), (2,)), ((1,), (2,)), entries, {})
    assert [benchmark.min_pixels(e) for e in benchmark.entries] == [2048, 21, 2048, 1016]
    assert benchmark.images_of(1, "train") == [0, 1, 2, 3]
    assert benchmark.images_of(2, "train") == benchmark.images_of(255, "train") == []
    assert benchmark.images_of(1, "val") == []
    assert benchmark.trainable(1, 3) == (1,)
    assert benchmark.trainable(1, 4) == benchmark.trainable(0, 1) == ()


def test_mini_tests_classes_with_20_images_5_of_them_in_val(tmp_path):
    folds = ((1, 2, 3, 4), (5, 6))

    def images(class_id, train, val):
        splits = ["train"] * train + ["val"] * val
        pixels = {class_id: 2048}
        return [index.Entry(f"{class_id}-{i}", s, "", "", (500, 500), pixels) for i, s in enumerate(splits)]

    amounts = {1: (15, 5), 2: (14, 5), 3: (16, 4), 4: (0, 20), 5: (99, 99), 6: (99, 4)}
    entries = [entry for c, (train, val) in amounts.items() for entry in images(c, train, val)]
    benchmark = index.write(tmp_path, "any", "abcdef", folds, folds, entries, {})
    assert pascal.enough(benchmark) == ((1, 4), ())


# --- once, the same, and whole


def test_prepared_twice_the_index_is_the_same_and_the_second_time_reads_no_image(data, monkeypatch):
    first = prepare("pascal", data)
    index = (data / "pascal" / "index.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(index, "decode", None)
        again = prepare("pascal", data)
    assert again == first == load("pascal", data)
    assert hash(again) == hash(first)
    shutil.rmtree(data / "pascal")
    prepare("pascal", data)
    assert (data / "pascal" / "index.json").read_bytes() == index


def test_another_list_is_another_benchmark(data):
    first = prepare("pascal", data)
    fails("pascal/index.json", "canet", "prepare pascal", call=lambda: load("pascal", data, CANET))
    assert prepare("pascal", data, CANET).digest != first.digest


def test_digest_and_index_do_not_depend_on_the_place(data, tmp_path):
    here = prepare("pascal", data)
    (data / "pascal" / "index.json").unlink()
    moved = data.rename(tmp_path / "elsewhere")
    there = prepare("pascal", moved)
    assert there.digest == here.digest
    assert not any(os.path.isabs(entry.image) or os.path.isabs(entry.label) for entry in there.entries)
    again = moved.rename(tmp_path / "third")  # the index moves with the data
    check(load("pascal", again))


def test_data_that_cannot_be_written_is_indexed_at_home(data, home, monkeypatch):
    here = prepare("pascal", data)
    shutil.rmtree(data / "pascal")
    before = contents(data)
    monkeypatch.setattr(index.os, "access", lambda path, mode: not (mode & os.W_OK and data in (path, *path.parents)))
    benchmark = prepare("pascal", data)
    assert benchmark.root.parent == home / "data"
    assert benchmark.root.name.startswith("pascal-")
    assert len(benchmark.root.name) == len("pascal-") + 8
    assert benchmark.digest == here.digest
    assert contents(data) == before
    assert load("pascal", data) == prepare("pascal", data) == benchmark
    check(benchmark)


def test_permission_bits_hold_for_root_too(tmp_path):
    folder = tmp_path / "theirs"
    custom.mkdir()
    assert index.writable(folder / "pascal")
    custom.chmod(0o555)
    assert not index.writable(folder / "pascal")
    custom.chmod(0o755)


def test_neither_place_can_be_written(data, monkeypatch):
    monkeypatch.setattr(index, "writable", lambda folder: False)
    fails("cannot be written", "--root", call=lambda: prepare("pascal", data))


def test_shapes_do_not_depend_on_the_number_of_workers(tmp_path):
    one = prepare("shapes", tmp_path / "one", SMALL, workers=1)
    two = prepare("shapes", tmp_path / "two", SMALL, workers=2)
    assert contents(one.root) == contents(two.root)
    assert one.digest == two.digest
    assert set(contents(one.root)) == {"index.json"} | {
        f"{folder}-{i:05d}.{suffix}"
        for split, number in (("train", 3), ("val", 2))
        for i in range(1, number + 1)
        for folder, suffix in ((f"images/{split}", "jpg"), (f"labels/{split}", "png"))
    }
    table = check(one)
    assert list(table["fold"]) == sorted(table["fold"])
    assert table["train"].sum() == sum(len(one.images_of(c, "train")) for c in range(1, 21)) > 0
    for entry in one.entries:
        counts = np.bincount(one.label(entry).ravel(), minlength=256)
        assert entry.pixels == {c: counts[c] for c in range(1, 256) if counts[c]}


def test_shapes_say_in_their_folder_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "render", plain_render)
    roots = set()
    for change in ({}, {"size": 49}, {"diversity": 0.2}, {"train": 4}, {"val": 3}, {"seed": 1}):
        benchmark = prepare("shapes", tmp_path, Recipe(**{**vars(SMALL), **change}), workers=1)
        roots.add(benchmark.root)
        assert load("shapes", tmp_path, Recipe(**{**vars(SMALL), **change, "images": "canet"})) == benchmark
    assert len(roots) == 6
    name = f"v{shapes.RECIPE_VERSION}-48px-d0.4-3+2-s0"
    assert tmp_path / "shapes" / name in roots
    entries = load("shapes", tmp_path, SMALL).entries
    masks = {(tmp_path / "shapes" / name / entry.label).read_bytes() for entry in entries}
    assert len(masks) == 5, "each image has its own seed"


def test_label_pngs_of_shapes_have_the_colours_of_voc(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "render", plain_render)
    benchmark = prepare("shapes", tmp_path, SMALL, workers=1)
    with Image.open(benchmark.path(benchmark.entries[0].label)) as label:
        colours = np.array(label.getpalette()).reshape(-1, 3)
    assert colours[[0, 1, 2, 15, 20]].tolist() == [
        [0] * 3,
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
    ]
    assert colours[255].tolist() == [224, 224, 192]


def test_shapes_killed_in_the_middle_are_not_there_and_a_rerun_completes(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "render", plain_render)
    whole = contents(prepare("shapes", tmp_path / "whole", SMALL, workers=1).root)

    def dies(seed, *rest):
        if list(seed)[1:] == [1, 2]:
            raise KeyboardInterrupt
        return plain_render(seed, *rest)

    monkeypatch.setattr(shapes, "render", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare("shapes", tmp_path / "again", SMALL, workers=1)
    monkeypatch.setattr(shapes, "render", plain_render)
    assert any((tmp_path / "again").rglob("*.jpg"))
    assert not any((tmp_path / "again").rglob("index.json"))
    fails("missing", "prepare shapes", call=lambda: load("shapes", tmp_path / "again", SMALL))
    assert contents(prepare("shapes", tmp_path / "again", SMALL, workers=1).root) == whole


def test_killed_while_the_index_is_written(data, monkeypatch):
    before = contents(data)

    def dies(*names):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index.os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare("pascal", data)
    assert contents(data) == before
    assert len(prepare("pascal", data).entries) == 5


# --- bad input


@pytest.mark.parametrize("call", [prepare, load])
def test_unknown_benchmark(tmp_path, call):
    fails("'cifar'", "shapes", "pascal-mini", "folder", call=lambda: call("cifar", tmp_path))


@pytest.mark.parametrize("name", benchmarks.NAMES)
def test_what_is_not_prepared_says_how(tmp_path, name):
    fails(str(tmp_path), f"python -m dpnet prepare {name}", call=lambda: load(name, tmp_path))
    fails(str(tmp_path), "index.json", "python -m dpnet prepare", call=lambda: index.read(tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [("size", 8), ("train", 0), ("val", 0), ("seed", -1), ("diversity", 1.5), ("images", "hsnet")],
)
def test_recipes_that_make_no_sense(field, value):
    fails(field, str(value), call=lambda: Recipe(**{field: value}))


@pytest.mark.parametrize("name", ["pascal", "pascal-mini"])
def test_data_that_is_no_voc(tmp_path, name):
    def call(data):
        return fails(str(data), "VOCdevkit/VOC2012", call=lambda: prepare(name, data))

    assert "no such folder" in call(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "not a folder" in call(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert ": empty:" in call(tmp_path / "empty")
    (tmp_path / "other" / "photos").mkdir(parents=True)
    assert "JPEGImages" in call(tmp_path / "other")
    assert not any(tmp_path.rglob("index.json"))


@pytest.mark.parametrize("part", ["JPEGImages", "SegmentationClassAug"])
def test_voc_without_photographs_or_masks(data, part):
    shutil.rmtree(data / VOC / part)
    fails(f"{VOC}/{part}", "missing: it holds the", call=lambda: prepare("pascal", data))


@pytest.mark.parametrize(
    ("images", "file", "hint"),
    [
        ("pfenet", "train.txt", "VOC 2012"),
        ("pfenet", "train_noval.txt", "SBDataset"),
        ("canet", "train_aug.txt", "SBD"),
        ("canet", "val.txt", "VOC 2012"),
    ],
)
def test_a_missing_or_empty_list(data, images, file, hint):
    path = data / VOC / "ImageSets" / "Segmentation" / file
    path.write_text("\n")
    fails(str(path), "no image", hint, call=lambda: prepare("pascal", data, Recipe(images=images)))
    path.unlink()
    fails(str(path), "missing", hint, call=lambda: prepare("pascal", data, Recipe(images=images)))


def test_an_image_in_both_splits(data):
    (data / VOC / "ImageSets" / "Segmentation" / "val.txt").write_text(f"{VAL[0]}\n{TRAIN[2]}\n")
    fails(TRAIN[2], "val.txt", call=lambda: prepare("pascal", data))


def cut(file, keep=0.6):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep)])


def save_array(file, shape, value):
    Image.fromarray(np.full(shape, value, dtype=np.uint8)).save(file)


BAD = {
    "missing": (lambda file: file.unlink(), ("missing", "copy"), "both"),
    "truncated": (cut, ("cannot be decoded", "truncated", "copy"), "both"),
    "no image": (lambda file: file.write_text("<html>"), ("cannot be decoded", "not an image"), "both"),
    "empty": (lambda file: file.write_bytes(b""), ("cannot be decoded", "copy"), "both"),
    "size": (lambda file: save_array(file, (30, 20), 0), ("20x30", "50x40", f"{VAL[0]}.jpg"), "mask"),
    "class": (lambda file: save_array(file, SIZE, 21), ("class id 21", "0…20", "255"), "mask"),
    "colours": (lambda file: save_array(file, (*SIZE, 3), 1), ("RGB", "palette"), "mask"),
}
CASES = [(kind, which) for kind, (_, _, on) in BAD.items() for which in ("photo", "mask") if on in (which, "both")]


@pytest.mark.parametrize(("kind", "which"), CASES)
def test_a_bad_file_is_named_and_nothing_is_written(data, kind, which):
    spoil, parts, _ = BAD[kind]
    folder, suffix = {"photo": ("JPEGImages", "jpg"), "mask": ("SegmentationClassAug", "png")}[which]
    file = data / VOC / folder / f"{VAL[0]}.{suffix}"
    spoil(file)
    line = fails(str(file), *parts, call=lambda: prepare("pascal", data))
    assert "more" not in line
    assert not any(data.rglob("index.json"))
    assert not (data / "pascal").exists()


def test_of_several_bad_files_the_first_is_named_and_the_others_are_counted(data):
    masks = data / VOC / "SegmentationClassAug"
    for name in (TRAIN[1], VAL[0], VAL[1]):
        (masks / f"{name}.png").unlink()
    fails(TRAIN[1], "2 more", call=lambda: prepare("pascal", data))


def test_truncated_images_are_found_when_read_too(data):
    benchmark = prepare("pascal", data)
    entry = benchmark.entries[0]
    cut(benchmark.path(entry.image))
    cut(benchmark.path(entry.label))
    fails(f"JPEGImages/{entry.id}.jpg", "truncated", call=lambda: benchmark.image(entry))
    fails(f"SegmentationClassAug/{entry.id}.png", "truncated", call=lambda: benchmark.label(entry))


def test_check_finds_what_changed(data):
    benchmark = prepare("pascal", data)
    assert check(benchmark)["val"].tolist().count(2) == 3  # classes 1, 7 and 20 are in both val images
    save_array(benchmark.path(benchmark.entries[0].label), SIZE, 3)
    fails(benchmark.entries[0].id, "index.json", "prepare again", call=lambda: check(benchmark))
    cut(benchmark.path(benchmark.entries[1].image))
    fails(benchmark.entries[1].id, "decoded", call=lambda: check(benchmark))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"train"', '"val"', 1),
        lambda text: text.replace('"pixels":{"1":', '"pixels":{"2":', 1),
    ],
)
@pytest.mark.parametrize("call", [prepare, load])
def test_a_corrupt_index(data, spoil, call):
    file = prepare("pascal", data).root / "index.json"
    file.write_text(spoil(file.read_text()))
    fails(str(file), "corrupt", "delete it and prepare", call=lambda: call("pascal", data))


def test_an_index_of_another_version(data):
    file = prepare("pascal", data).root / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 2}))
    fails(str(file), "version 2, not 1", "delete it", call=lambda: load("pascal", data))


def test_shapes_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "render", plain_render)
    (tmp_path / "file").write_text("")
    fails("file/shapes", "cannot be written", "--root", call=lambda: prepare("shapes", tmp_path / "file", SMALL))

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index.os, "replace", full)
    call = lambda: prepare("shapes", tmp_path / "full", SMALL, workers=1)  # noqa: E731
    fails("No space left on device", "train-00001.jpg", call=call)
    assert not contents(tmp_path / "full")


# --- your own data


def test_a_folder_of_your_own(tmp_path):
    images, labels, names = make_folder(tmp_path)
    with Image.open(images / "img3.jpg") as picture:
        picture.save(images / "img3.PNG")
    (images / "img3.jpg").unlink()
    save_pair(images, tmp_path / "spare", "unlabelled")
    benchmark = prepare_folder(images, labels, names, tmp_path / "data")
    assert benchmark.classes == ("cup", "fork", "knife", "spoon", "plate")
    assert benchmark.folds == benchmark.tested == ((1, 2, 3), (4, 5))
    assert sum(entry.split == "val" for entry in benchmark.entries) == 2
    assert benchmark.path(benchmark.entries[3].image).name == "img3.PNG"
    assert load("folder", tmp_path / "data") == prepare("folder", tmp_path / "data") == benchmark
    assert check(benchmark)["class"].tolist() == list(benchmark.classes)
    for text, cut in (("3", ((1, 2), (3, 4), (5,))), ("plate,cup; fork,knife", ((5, 1), (2, 3)))):
        assert prepare_folder(images, labels, names, tmp_path / "data", text).folds == cut


@pytest.mark.parametrize(("number", "folds"), [(3, 3), (4, 2), (7, 3), (8, 4), (20, 4)])
def test_folds_by_themselves_leave_two_classes_to_train_on(number, folds):
    cut = custom._cut([f"c{i}" for i in range(number)], "")
    assert len(cut) == folds
    assert sorted(c for part in cut for c in part) == list(range(1, number + 1))
    assert all(number - len(part) >= 2 for part in cut)
    assert number == 3 or all(len(part) >= 2 for part in cut)  # so that a wrong support can be had


def test_images_in_sub_folders(tmp_path):
    images, labels, names = make_folder(tmp_path, 12)
    flat = prepare_folder(images, labels, names, tmp_path / "flat")
    for i in range(12):
        (images / f"part{i % 2}").mkdir(exist_ok=True)
        (images / f"img{i}.jpg").rename(images / f"part{i % 2}" / f"img{i}.jpg")
    theirs = prepare_folder(images, labels, names, tmp_path / "theirs")
    assert [(e.id, e.split, e.pixels) for e in theirs.entries] == [(e.id, e.split, e.pixels) for e in flat.entries]
    for i in range(12):
        (labels / f"part{i % 2}").mkdir(exist_ok=True)
        (labels / f"img{i}.png").rename(labels / f"part{i % 2}" / f"img{i}.png")
    both = prepare_folder(images, labels, names, tmp_path / "both")
    assert sorted(e.id for e in both.entries) == sorted(f"part{i % 2}/img{i}" for i in range(12))
    assert all(both.path(e.image).stem == both.path(e.label).stem for e in both.entries)


@given(st.lists(st.sets(st.integers(1, 6), min_size=1, max_size=3), min_size=4, max_size=60))
def test_a_quarter_of_each_class_is_for_testing(shown):
    """Whatever the order of the names: each class that has four images has two on either side."""
    entries = tuple(
        index.Entry(f"{i:03d}", "train", "", "", (1, 1), dict.fromkeys(classes, 1)) for i, classes in enumerate(shown)
    )
    divided = custom._divided(entries)
    assert [e.id for e in divided] == [e.id for e in entries]
    for c in range(1, 7):
        mine = [e.split for e in divided if c in e.pixels]
        if len(mine) >= 16 and all(len(classes) == 1 for classes in shown):
            assert abs(mine.count("val") - len(mine) / 4) <= 1
        if len(mine) >= 4 and all(len(classes) == 1 for classes in shown):
            assert min(mine.count("val"), mine.count("train")) >= 2


def test_a_bad_folder(tmp_path):
    images, labels, names = make_folder(tmp_path)

    def call(*parts, folds="", images=images, labels=labels):
        fails(*parts, call=lambda: prepare_folder(images, labels, names, tmp_path / "data", folds))
        assert not (tmp_path / "data").exists()

    call("nowhere", "no such folder", images=tmp_path / "nowhere")
    call("names.txt", "not a folder", labels=names)
    call("folds=0", "2 to 5", folds="0")
    call("folds=9", "2 to 5", folds="9")
    call("'pot'", "cup,fork;knife", folds="cup,pot;fork")
    call("twice", folds="cup,cup;fork")
    (tmp_path / "none").mkdir()
    call("none", "0 label PNGs", labels=tmp_path / "none")
    (images / "img2.jpg").rename(images / "img2.txt")
    call("images/img2", "missing")
    (images / "img2.txt").rename(images / "img2.jpg")
    shutil.copy(images / "img1.jpg", images / "img1.jpeg")
    call("img1.jpg", "img1.jpeg", "rename")
    (images / "img1.jpeg").unlink()
    names.write_text("cup\nfork\nknife\n")
    call("labels/img0.png", "class ids 4, 5 are", "0…3", "8 more")
    names.write_text("cup\nfork\n")
    call("2 class(es)", "at least 3")
    names.write_text("cup\nfork\ncup\n")
    call("names.txt", "'cup'", "twice")
    names.write_text(" \n\n")
    call("names.txt", "0 class names")
    names.write_bytes(b"\xff\xfe\x00")
    call("names.txt", "UTF-8")
    names.unlink()
    call("names.txt", "no such file")


def test_wrong_layouts_are_answered_with_what_was_found(tmp_path):
    images, labels, names = make_folder(tmp_path)

    def call(*parts, images=images, labels=labels):
        fails(*parts, call=lambda: prepare_folder(images, labels, names, tmp_path / "data"))
        assert not (tmp_path / "data").exists()

    for kind, change in (
        ("white", lambda mask: mask.point(lambda value: 255 * (value > 0))),
        ("empty", lambda mask: mask.point(lambda value: 0)),
        ("colours", lambda mask: Image.merge("RGB", [mask.point(lambda v, k=k: k * v % 256) for k in (1, 2, 3)])),
    ):
        (tmp_path / kind).mkdir()
        for file in labels.iterdir():
            with Image.open(file) as mask:
                change(mask.convert("L")).save(tmp_path / kind / file.name)
    call("white", "only 0 and 255, which is void", "from 1", labels=tmp_path / "white")
    call("empty", "only 0, the background", labels=tmp_path / "empty")
    call("img0.png", "is RGB with 7 colour(s)", "names.txt", "cup:255,0,0", "8 more", labels=tmp_path / "colours")
    (tmp_path / "none").mkdir()
    call("none", "no image in it", images=tmp_path / "none")
    shutil.copytree(labels, tmp_path / "named")
    for file in (tmp_path / "named").iterdir():
        file.rename(file.with_name(f"{file.stem}_mask.png"))
    call("img0_mask.png", "its image is img0", "labels end in '_mask'", labels=tmp_path / "named")
    shutil.copytree(labels, tmp_path / "other")
    for file in (tmp_path / "other").iterdir():
        file.rename(file.with_name(f"label{file.stem[3:]}.png"))
    call("label0.png", "no image of that name", "img0", labels=tmp_path / "other")


def test_make_clean_leaves_the_users_data(tmp_path):
    shutil.copy(Path(__file__).parents[1] / "Makefile", tmp_path)
    ours = ["shapes/v1/index.json", "pascal/features/a.npy", "pascal-mini/pixels/a.npy", "coco-1/validation/a.npy",
            "folder/features/a.npy", "folder/made/labels/a.png", "folder/index.json"]  # fmt: skip
    theirs = ["VOCdevkit/VOC2012/JPEGImages/a.jpg", "coco/train2014/a.jpg", "coco/labels/val/a.png", "SBD/a.mat",
              "pascal/index.json", "mine/features/a.jpg", "folder/images/a.jpg", "train2014.zip"]  # fmt: skip
    for name in (*ours, *theirs):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text("")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert {name for name in (*ours, *theirs) if (tmp_path / "data" / name).exists()} == set(theirs)


# --- what is known of them


def test_known_counts_stand_beside_those_here(data):
    for images, known_train in (("pfenet", 5953), ("canet", 10582)):
        benchmark = prepare("pascal", data, Recipe(images=images))
        table = known(benchmark).set_index("list")
        assert table.known["train: images"] == known_train
        assert table.here[["train: images", "val: images"]].tolist() == [3, 2]
        assert table.here["val: aeroplane"] == len(benchmark.images_of(1, "val")) == 2
        folds = [f"val: fold {i}" for i in range(4)]
        assert table.here[folds].tolist() == [2, 2, 0, 2]
        assert table.known[folds].tolist() == [346, 451, 725, 346]
        classes = [f"val: {name}" for name in benchmark.classes]
        per_fold = [table.known[[classes[c - 1] for c in fold]].sum() for fold in benchmark.folds]
        assert per_fold == table.known[folds].tolist()
        assert (table.deviates == table.here - table.known).all()
        assert ("train: images that show enough of a class" in table.index) == (images == "canet")


def test_what_is_known_of_coco_is_what_its_preset_trains_on():
    table = pd.read_csv(benchmarks.KNOWN, comment="#").query("benchmark == 'coco'").set_index("list")
    assert table.known["train: images"] * 20 // 8 == presets.resolve("coco", "paper").training.steps  # 20 epochs of 8
    assert table.known["val: images"] == 40137


def test_nothing_is_known_of_other_benchmarks(tmp_path):
    assert known(prepare_folder(*make_folder(tmp_path), tmp_path / "data")).empty


# --- real photographs


def test_real_photographs(home):
    if not REAL.is_dir():
        pytest.skip(f"no partial copy of VOC at {REAL}")
    before = sorted(path.name for path in REAL.iterdir())
    (home / "voc").mkdir(parents=True)
    (home / "voc" / "VOCdevkit").symlink_to(REAL / "VOCdevkit")
    benchmark = prepare("pascal-mini", home / "voc")
    splits = [entry.split for entry in benchmark.entries]
    assert (splits.count("train"), splits.count("val")) == (768, 329)
    assert [len(fold) for fold in benchmark.tested[:1]] == [0]
    assert all(len(fold) >= 2 for fold in benchmark.tested[1:])
    table = check(benchmark).set_index("class")
    assert 245 <= table.loc["person", ["train", "val"]].sum() <= 260
    assert sum(table[["train", "val"]].sum(axis=1) >= 20) == 13
    assert sorted(path.name for path in REAL.iterdir()) == before
    counts = known(benchmark).set_index("list")
    assert counts.deviates["train: images"] == counts.deviates["val: images"] == 0
    assert counts.here.drop(["train: images", "val: images"]).tolist() == table[["train", "val"]].sum(axis=1).tolist()
    assert counts.deviates.abs().max() <= 2  # the copy is scaled: a few are at the limit
    same = {(entry.id, entry.split) for entry in prepare("pascal", home / "voc", CANET).entries}
    assert same == {(entry.id, entry.split) for entry in benchmark.entries}
