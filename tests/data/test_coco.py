"""COCO-20i: what is painted, what is on top, resuming, and the one line that each bad input gives."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as runs
from pycocotools.coco import COCO

from dpnet import cli, episodes
from dpnet import data as benchmarks
from dpnet.companion import presets
from dpnet.data import check, coco, index, load, prepare
from dpnet.io import DPNetError

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "coco_sample"
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # COCO numbers its 80 categories 1 … 90, without these
CATEGORIES = [number for number in range(1, 91) if number not in GAPS]
HEIGHT, WIDTH = 30, 40
TRAIN, VAL = "annotations/instances_train2014.json", "annotations/instances_val2014.json"


def box(x, y, width, height):
    """A polygon whose pixels are exactly these columns and rows."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def crowd(x, y, width, height):
    """The same as uncompressed run lengths, which go down the columns and begin with zeros."""
    flat = np.zeros((HEIGHT, WIDTH), dtype=int)
    flat[y : y + height, x : x + width] = 1
    flat = flat.ravel(order="F")
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    return {"counts": [0] * int(flat[0]) + [int(n) for n in np.diff(ends)], "size": [HEIGHT, WIDTH]}


def thing(category, shape, area, iscrowd=0):
    return {"category_id": category, "segmentation": shape, "area": area, "iscrowd": iscrowd, "bbox": [0, 0, 1, 1]}


PLAIN = [thing(1, box(2, 3, 10, 8), 80)]


def write_split(data, split, pictures, first=1):
    """`pictures`: the annotations of each image; images are noise."""
    (data / f"{split}2014").mkdir(parents=True, exist_ok=True)
    (data / "annotations").mkdir(exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": c, "name": f"c{c}"} for c in CATEGORIES[::-1]]}
    for number, things in enumerate(pictures, first):
        name = f"COCO_{split}2014_{number:012d}.jpg"
        noise = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(noise).save(data / f"{split}2014" / name)
        content["images"].append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for one in things:
            key = 1000 * number + len(content["annotations"])
            content["annotations"].append({**one, "id": key, "image_id": number})
    (data / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))


def make_coco(data, train=(PLAIN, PLAIN, PLAIN), val=(PLAIN, PLAIN)):
    """A tiny copy of COCO 2014; returns `data`."""
    write_split(data, "train", train)
    write_split(data, "val", val, first=100)
    return data


def from_sample(data):
    """A tree made from the sample: every third image becomes val."""
    content = json.loads((SAMPLE / TRAIN).read_text())
    (data / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        images = [one for i, one in enumerate(content["images"]) if (i % 3 == 2) == (split == "val")]
        kept = {one["id"] for one in images}
        (data / f"{split}2014").mkdir()
        for one in images:
            (data / f"{split}2014" / one["file_name"]).symlink_to(SAMPLE / "train2014" / one["file_name"])
        objects = [one for one in content["annotations"] if one["image_id"] in kept]
        part = {**content, "images": images, "annotations": objects}
        (data / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(part))
    return data


def change(file, how):
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fails(*parts, data):
    """To prepare raises one line that names each of `parts`, and leaves no index."""
    with pytest.raises(DPNetError) as caught:
        prepare("coco", data, workers=1)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line
    assert not (data / "coco" / "index.json").exists()
    return line


def label_of(tmp_path, *things):
    """The label of a train image with these annotations."""
    benchmark = prepare("coco", make_coco(tmp_path, [list(things)]), workers=1)
    return benchmark.label(benchmark.entries[0])


def boxed(*parts):
    """The mask in which each (value, x, y, width, height) lies on those before it."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for value, x, y, width, height in parts:
        mask[y : y + height, x : x + width] = value
    return mask


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No test writes into the project's own data folder."""
    monkeypatch.setattr(benchmarks, "_home", lambda: tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def data(tmp_path):
    return make_coco(tmp_path / "data")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    if not SAMPLE.is_dir():
        pytest.skip("the 63 images of coco_sample are not beside this repository")
    return prepare("coco", from_sample(tmp_path_factory.mktemp("sample")), workers=1)


# --- what is painted


def test_polygons_and_run_lengths_fill_their_pixels_with_the_class_id(tmp_path):
    two_parts = thing(90, box(0, 0, 3, 2) + box(30, 20, 5, 6), 36)
    packed = runs.encode(np.asfortranarray(boxed((1, 20, 3, 4, 5))))
    packed = {**packed, "counts": packed["counts"].decode()}
    label = label_of(tmp_path, two_parts, thing(13, crowd(10, 10, 8, 7), 56), thing(2, packed, 20))
    # category 90 is the 80th, and 13 follows 11
    parts = (80, 0, 0, 3, 2), (80, 30, 20, 5, 6), (12, 10, 10, 8, 7), (2, 20, 3, 4, 5)
    np.testing.assert_array_equal(label, boxed(*parts))


@pytest.mark.parametrize("turn", [1, -1])
def test_the_smaller_object_is_on_top(tmp_path, turn):
    large, small, smallest = (
        thing(1, box(0, 0, 30, 20), 600),
        thing(2, box(5, 5, 8, 8), 64),
        thing(3, box(7, 7, 2, 2), 4),
    )
    label = label_of(tmp_path, *(smallest, large, small)[::turn])
    np.testing.assert_array_equal(label, boxed((1, 0, 0, 30, 20), (2, 5, 5, 8, 8), (3, 7, 7, 2, 2)))


@pytest.mark.parametrize("turn", [1, -1])
def test_a_crowd_is_void_and_below_every_object(tmp_path, turn):
    things = thing(1, crowd(0, 0, 6, 6), 36, 1), thing(2, box(3, 3, 20, 20), 400), thing(3, crowd(20, 0, 9, 9), 81, 1)
    label = label_of(tmp_path, *things[::turn])
    np.testing.assert_array_equal(label, boxed((255, 0, 0, 6, 6), (255, 20, 0, 9, 9), (2, 3, 3, 20, 20)))


def test_of_equal_areas_the_higher_annotation_id_is_on_top_whatever_the_order(data):
    def equal(content):
        first = content["annotations"][0]
        other = {**first, "id": first["id"] + 1, "category_id": 2, "segmentation": box(6, 3, 10, 8)}
        content["annotations"] = [other, *content["annotations"]]

    expected = boxed((1, 2, 3, 10, 8), (2, 6, 3, 10, 8))
    change(data / TRAIN, equal)
    benchmark = prepare("coco", data, workers=1)
    np.testing.assert_array_equal(benchmark.label(benchmark.entries[0]), expected)
    change(data / TRAIN, lambda content: content["annotations"].reverse())
    shutil.rmtree(data / "coco")
    np.testing.assert_array_equal(prepare("coco", data, workers=1).label(benchmark.entries[0]), expected)


def test_images_without_objects_are_no_part_of_it(tmp_path):
    void = [thing(1, crowd(1, 1, 5, 5), 25, 1)]
    benchmark = prepare("coco", make_coco(tmp_path, [PLAIN, [], void]), workers=1)
    ids = [entry.id for entry in benchmark.entries if entry.split == "train"]
    assert ids == ["COCO_train2014_000000000001", "COCO_train2014_000000000003"]
    assert benchmark.entries[1].pixels == {255: 25}
    assert {path.stem for path in (tmp_path / "coco/labels/train").iterdir()} == set(ids)


def test_splits_places_and_colours(data):
    benchmark = prepare("coco", data, workers=1)
    assert [(e.split, e.image, e.label) for e in benchmark.entries[2:4]] == [
        (split, f"../{name.split('_')[1]}/{name}.jpg", f"labels/{split}/{name}.png")
        for split, name in (("train", "COCO_train2014_000000000003"), ("val", "COCO_val2014_000000000100"))
    ]
    with Image.open(benchmark.path(benchmark.entries[0].label)) as label:
        assert label.mode == "P"
        assert np.array(label.getpalette()).reshape(-1, 3)[[0, 1, 80]].tolist() == [[0] * 3, [128, 0, 0], [32, 64, 0]]
    table = check(load("coco", data)).set_index("class")
    assert table.loc["c1", ["fold", "id", "train", "val"]].tolist() == [0, 1, 3, 2]


def test_folds_are_interleaved_and_all_tested(data):
    benchmark = prepare("coco", data, workers=1)
    assert benchmark.classes == tuple(f"c{number}" for number in CATEGORIES)
    assert benchmark.folds == benchmark.tested
    assert [fold[:3] for fold in benchmark.folds] == [(1, 5, 9), (2, 6, 10), (3, 7, 11), (4, 8, 12)]
    assert sorted(c for fold in benchmark.folds for c in fold) == list(range(1, 81))


# --- the real sample


def test_real_classes_and_their_folds(sample):
    numbered = {name: number for number, name in enumerate(sample.classes, 1)}
    of = {name: next(i for i, fold in enumerate(sample.folds) if numbered[name] in fold) for name in numbered}
    assert [of[n] for n in ("person", "bicycle", "car", "motorcycle", "airplane")] == [0, 1, 2, 3, 0]
    # by the category ids 1, 11, 13, 27, 90 of COCO's own list
    names = ("person", "fire hydrant", "stop sign", "backpack", "toothbrush")
    assert [numbered[n] for n in names] == [1, 11, 12, 25, 80]


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools 2.0.11 under numpy 2
def test_real_labels_are_those_of_a_plain_loop(sample):
    content = json.loads((SAMPLE / TRAIN).read_text())
    ids = {one["id"]: one["file_name"] for one in content["images"]}
    entries = {entry.id: entry for entry in sample.entries}
    assert len(entries) == len(ids) == 63
    covered = 0
    for number, name in ids.items():
        entry = entries[Path(name).stem]
        expected = np.zeros(entry.size, dtype=np.uint8)
        own = [one for one in content["annotations"] if one["image_id"] == number]
        for one in sorted(own, key=lambda one: one["id"]):  # the sorts are stable: area first, then id
            one["filled"] = runs.decode(runs.merge(runs.frPyObjects(one["segmentation"], *entry.size)))
        for one in sorted(sorted(own, key=lambda one: one["id"]), key=lambda one: one["area"], reverse=True):
            covered += int(expected[one["filled"] == 1].astype(bool).sum())
            expected[one["filled"] == 1] = CATEGORIES.index(one["category_id"]) + 1
        np.testing.assert_array_equal(sample.label(entry), expected)
        assert entry.pixels == index.count(expected)
    assert covered > 1000, "objects overlap in it, so the order shows"


def test_real_labels_do_not_depend_on_the_number_of_workers(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "CHUNK", 20)
    two = prepare("coco", from_sample(tmp_path / "data"), workers=2)
    assert contents(two.root) == contents(sample.root)


def test_episodes_from_the_real_sample(sample):
    check(sample)
    for fold in range(4):
        pools = episodes.training_pools(sample, fold, presets.resolve("coco", "quick").training.novel)
        assert len(pools) >= 3
        assert not set(pools) & set(sample.folds[fold])
        for episode in episodes.training_batch(sample, pools, fold, 0, 0, 8):
            for position in (episode.query, *episode.supports):
                assert (sample.label(sample.entries[position]) == episode.class_id).sum() >= 1000
    with pytest.raises(DPNetError, match="add images"):  # most classes of a fold have none here
        episodes.test_episodes(sample, 0, 1, 0, 10)
    seen = tuple(c for c in sample.folds[0] if len(sample.images_of(c, "val")) >= 2)
    fewer = replace(sample, tested=(seen,))
    assert 1 in seen
    for episode in episodes.test_episodes(fewer, 0, 1, 0, 10):
        assert {sample.entries[i].split for i in (episode.query, *episode.supports)} == {"val"}


# --- once, the same, and whole


def test_the_second_time_nothing_is_done(data, monkeypatch):
    first = prepare("coco", data, workers=1)
    before = contents(data)
    for part in ("train2014", "val2014", "annotations"):
        shutil.rmtree(data / part)  # not even looked at
    monkeypatch.setattr(coco, "prepare", None)
    assert prepare("coco", data) == load("coco", data) == first
    assert contents(data) == {name: content for name, content in before.items() if name.startswith("coco/")}


def spoil(content, how):
    middle = len(content) // 2
    return {
        "half": content[:middle],
        "last byte": content[:-1],
        "empty": b"",
        "bit": content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],  # the last of the compressed pixels
    }[how]


@pytest.mark.parametrize("how", ["half", "last byte", "empty", "bit", "gone"])
def test_killed_half_way_it_is_completed_with_the_same_bytes(data, how, monkeypatch):
    prepare("coco", data, workers=1)
    before = contents(data)
    (data / "coco/index.json").unlink()
    victim, *intact = sorted((data / "coco/labels").rglob("*.png"))
    if how == "gone":
        victim.unlink()
    else:
        victim.write_bytes(spoil(victim.read_bytes(), how))
    painted = []
    paint = coco.paint
    monkeypatch.setattr(coco, "paint", lambda *args: painted.append(args) or paint(*args))
    dates = [path.stat().st_mtime_ns for path in intact]
    prepare("coco", data, workers=1)
    assert contents(data) == before
    assert len(painted) == 1
    assert [path.stat().st_mtime_ns for path in intact] == dates


def test_labels_of_other_annotations_are_painted_anew(data, monkeypatch):
    prepare("coco", data, workers=1)
    (data / "coco/index.json").unlink()
    change(data / TRAIN, lambda content: content["annotations"][0].update(segmentation=box(0, 0, 4, 4)))
    benchmark = prepare("coco", data, workers=1)
    assert benchmark.entries[0].pixels == {1: 16}
    monkeypatch.setattr(coco, "VERSION", coco.VERSION + 1)
    with pytest.raises(DPNetError, match="another recipe"):
        load("coco", data)
    stamps = {path: path.read_bytes() for path in (data / "coco/labels").rglob("*.png")}
    assert prepare("coco", data, workers=1).digest != benchmark.digest
    assert all(path.read_bytes() != content for path, content in stamps.items())


def test_the_index_comes_last(data, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(coco, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare("coco", data, workers=1)
    assert len(list((data / "coco").rglob("*.png"))) == 5
    with pytest.raises(DPNetError, match="prepare coco"):
        load("coco", data)


def test_a_folder_coco_in_data_may_hold_it(tmp_path):
    here = prepare("coco", make_coco(tmp_path / "one"), workers=1)
    there = prepare("coco", make_coco(tmp_path / "two" / "coco").parent, workers=1)
    assert there.root == tmp_path / "two/coco"
    assert there.digest == here.digest
    assert not any(os.path.isabs(e.image) or ".." in e.label for e in there.entries)
    check(load("coco", (tmp_path / "two").rename(tmp_path / "moved")))


def test_a_copy_that_cannot_be_written_is_painted_at_home(data, home, monkeypatch):
    here = prepare("coco", data, workers=1)
    shutil.rmtree(data / "coco")
    before = contents(data)
    monkeypatch.setattr(index.os, "access", lambda path, mode: not (mode & os.W_OK and data in (path, *path.parents)))
    benchmark = prepare("coco", data, workers=1)
    assert benchmark.root.parent == home / "data"
    assert benchmark.digest == here.digest
    assert contents(data) == before
    assert load("coco", data) == benchmark
    check(benchmark)


def test_the_verbs_say_what_is_there_and_nothing_of_pycocotools(data, capfd, monkeypatch):
    monkeypatch.delenv("DPNET_DATA", raising=False)
    monkeypatch.setenv("DPNET_DATA", "")  # what the verbs set is taken back
    assert cli.main(["prepare", "coco", "--root", str(data)]) == 0
    assert capfd.readouterr() == ("coco: 5 images of 80 classes are ready\n", "")
    assert cli.main(["check", "coco", "--root", str(data)]) == 0
    table, known, verdict = capfd.readouterr().out.split("\n\n")
    assert len(table.splitlines()) == 81
    assert [line.split()[:4] for line in known.splitlines()[1:]] == [
        ["train:", "images", "3", "82081"],
        ["val:", "images", "2", "40137"],
    ]
    assert verdict == "2 of 2 counts deviate\n"


def test_the_papers_setting():
    paper = presets.resolve("coco", "paper")
    training = paper.training
    assert (training.backbone, training.size, training.batch, training.learning_rate) == ("resnet50", 641, 8, 0.005)
    assert (training.decay, training.novel, training.dilations) == (0.0, "background", (6, 12, 18))
    assert (training.steps, paper.episodes) == (205202, 1000)  # 20 epochs of 82,081 / 8
    assert presets.resolve("coco", "quick").training == presets.resolve("pascal", "quick").training


# --- bad input


def test_data_that_is_no_coco(tmp_path):
    assert "no such folder" in fails("nowhere", "instances_{train,val}2014.json", "--root", data=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    fails("empty", "no COCO 2014", "instances_{train,val}2014.json", "--root", data=tmp_path / "empty")
    with pytest.raises(DPNetError, match="not a folder"):
        prepare("coco", Path(__file__))


@pytest.mark.parametrize(
    ("part", "name"),
    [(TRAIN, "annotations [241MB]"), (VAL, "annotations [241MB]"), ("train2014", "13GB"), ("val2014", "6GB")],
)
def test_a_missing_part_and_where_it_comes_from(data, part, name):
    (data / part).rename(data / "elsewhere")
    fails(f"{data / part}: missing", name, "cocodataset.org/#download", data=data)
    assert not (data / "coco").exists()


BAD_INSTANCES = {
    "half": (lambda text: text[: len(text) // 2], ("corrupt", "JSONDecodeError")),
    "empty": (lambda text: "", ("corrupt", "JSONDecodeError")),
    "no text": (lambda text: "\x00\x01", ("corrupt",)),
    "a list": (lambda text: "[]", ("corrupt",)),
    "nothing": (lambda text: "{}", ("0 categories",)),
    "no name": (lambda text: text.replace('"file_name"', '"name"', 1), ("corrupt", "file_name")),
    "no image id": (lambda text: text.replace('"image_id"', '"image"', 1), ("corrupt", "image_id")),
    "unknown image": (lambda text: text.replace('"image_id": 1', '"image_id": 77', 1), ("image_id 77", "annotation")),
    "unknown category": (lambda text: text.replace('"category_id": 1', '"category_id": 12', 1), ("category_id 12",)),
    "79 categories": (lambda text: text.replace('{"id": 90, "name": "c90"}, ', ""), ("79 categories", "80")),
    "81 categories": (lambda text: text.replace('"c90"}', '"c90"}, {"id": 91, "name": "x"}'), ("81 categories",)),
}


@pytest.mark.parametrize("kind", BAD_INSTANCES)
def test_bad_instances(data, kind):
    how, parts = BAD_INSTANCES[kind]
    before = (data / TRAIN).read_text()
    (data / TRAIN).write_text(how(before))
    assert (data / TRAIN).read_text() != before
    fails(str(data / TRAIN), "2014 Train/Val annotations [241MB]", "again", *parts, data=data)
    assert not (data / "coco").exists()


@pytest.mark.parametrize(
    "shape",
    [
        None,
        [],
        [[1, 2]],
        [["a"] * 6],
        [[1e9, 2, 3, 1e9, 5, 5]],
        [[float("nan")] * 6],
        {"counts": [5, 20], "size": [HEIGHT, WIDTH]},  # too few: pycocotools would read foreign memory
        {"counts": [HEIGHT * WIDTH], "size": [WIDTH, HEIGHT]},
        {"size": [HEIGHT, WIDTH]},
    ],
)
def test_a_malformed_segmentation(data, shape):
    change(data / VAL, lambda content: content["annotations"][0].update(segmentation=shape))
    fails(str(data / VAL), "COCO_val2014_000000000100.jpg", "cannot be painted", "again", data=data)


def test_a_malformed_segmentation_in_another_process(data, monkeypatch):
    monkeypatch.setattr(coco, "CHUNK", 1)
    change(data / VAL, lambda content: content["annotations"][0].update(segmentation=None))
    with pytest.raises(DPNetError, match=r"COCO_val2014_000000000100\.jpg cannot be painted"):
        prepare("coco", data, workers=2)
    assert not (data / "coco/index.json").exists()


def test_no_objects_other_categories_and_an_image_in_both_splits(data):
    text = (data / VAL).read_text()
    change(data / VAL, lambda content: content.update(annotations=[]))
    fails(str(data / VAL), "no image with objects", data=data)
    (data / VAL).write_text(text.replace('"c7"', '"x7"'))
    fails(str(data / VAL), TRAIN, "other categories", data=data)
    (data / VAL).write_text(text.replace("COCO_val2014_000000000101", "COCO_train2014_000000000001"))
    shutil.copy(data / "train2014/COCO_train2014_000000000001.jpg", data / "val2014")
    fails(str(data / VAL), "COCO_train2014_000000000001", "instances_train2014.json", data=data)


def test_images_missing_truncated_or_of_another_size(data):
    first, *_, last = sorted((data / "train2014").iterdir())
    content = first.read_bytes()
    first.unlink()
    last.rename(data / "spare")
    fails(f"{first}: missing", "1 more", "complete your copy", data=data)
    assert not (data / "coco").exists()
    (data / "spare").rename(last)
    first.write_bytes(content[: len(content) // 2])
    fails(f"{first}: cannot be decoded", "intact copy", data=data)
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(first)
    fails(str(first), "40x30", "40x31", "same size", data=data)
    first.write_bytes(content)
    assert len(prepare("coco", data, workers=1).entries) == 5


def test_pycocotools_prints_nothing_and_its_index_is_the_files(data, capsys):
    names, pictures = coco.read(data, data / "coco", "train")
    assert capsys.readouterr() == ("", "")
    index = COCO(str(data / TRAIN))
    assert len(names) == len(index.cats)
    assert [one["id"] for p in pictures for _, one in p.objects] == sorted(index.anns)
