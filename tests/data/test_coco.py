"""COCO-20i: what is painted, what is on top, resuming, and the one line that each bad input gives."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as packing
from samples import change_json, contents, fails, photo, runs, save

from dpnet import cli, episodes
from dpnet.companion import presets
from dpnet.data import check, coco, index, load, prepare

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "coco_sample"
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # COCO numbers its 80 categories 1 … 90, without these
CATEGORIES = [number for number in range(1, 91) if number not in GAPS]
HEIGHT, WIDTH = SIZE = 30, 40
TRAIN, VAL = "annotations/instances_train2014.json", "annotations/instances_val2014.json"


def box(x, y, width, height):
    """A polygon whose pixels are exactly these columns and rows."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def boxed(*parts):
    """The mask in which each (value, x, y, width, height) lies on those before it."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    for value, x, y, width, height in parts:
        mask[y : y + height, x : x + width] = value
    return mask


def annotation(category, shape, area, iscrowd=0):
    return {"category_id": category, "segmentation": shape, "area": area, "iscrowd": iscrowd, "bbox": [0, 0, 1, 1]}


PLAIN = [annotation(1, box(2, 3, 10, 8), 80)]


def make_coco(data, train=(PLAIN, PLAIN, PLAIN), val=(PLAIN, PLAIN)):
    """A tiny copy of COCO 2014, of the annotations of each image; returns `data`."""
    for split, pictures, first in (("train", train, 1), ("val", val, 100)):
        content = {"images": [], "annotations": []}
        content["categories"] = [{"id": c, "name": f"c{c}"} for c in CATEGORIES[::-1]]
        for number, annotations in enumerate(pictures, first):
            name = f"COCO_{split}2014_{number:012d}.jpg"
            save(photo(number, SIZE), data / f"{split}2014" / name)
            content["images"].append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
            for one in annotations:
                key = 1000 * number + len(content["annotations"])
                content["annotations"].append({**one, "id": key, "image_id": number})
        (data / "annotations").mkdir(exist_ok=True)
        (data / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))
    return data


def from_sample(data):
    """A tree made from the sample: every third image becomes val."""
    content = json.loads((SAMPLE / TRAIN).read_text())
    (data / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        images = [one for i, one in enumerate(content["images"]) if (i % 3 == 2) == (split == "val")]
        numbers = {one["id"] for one in images}
        (data / f"{split}2014").mkdir()
        for one in images:
            (data / f"{split}2014" / one["file_name"]).symlink_to(SAMPLE / "train2014" / one["file_name"])
        objects = [one for one in content["annotations"] if one["image_id"] in numbers]
        part = {**content, "images": images, "annotations": objects}
        (data / f"annotations/instances_{split}2014.json").write_text(json.dumps(part))
    return data


def refused(*parts, data):
    """To prepare raises one line that names each of `parts`, and leaves no index."""
    fails(*parts, call=lambda: prepare("coco", data, workers=1))
    assert not (data / "coco/index.json").exists()


@pytest.fixture
def data(tmp_path):
    return make_coco(tmp_path / "data")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    if not SAMPLE.is_dir():
        pytest.skip("the 63 images of coco_sample are not beside this repository")
    return prepare("coco", from_sample(tmp_path_factory.mktemp("sample")), workers=1)


# --- what is painted


BOX = st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(1, 10), st.integers(1, 10))


KIND = st.sampled_from(["polygon", "runs", "packed"])


@given(st.lists(st.tuples(BOX, st.integers(1, 80), st.booleans(), KIND), max_size=8))
def test_crowds_are_void_and_lowest_and_smaller_objects_lie_on_larger_ones(objects):
    annotations = []
    for i, (place, class_id, crowd, kind) in enumerate(objects):
        inside = boxed((1, *place))
        shape = box(*place) if kind == "polygon" and not crowd else runs(inside == 1)
        if kind == "packed":
            shape = packing.encode(np.asfortranarray(inside))
            shape = {**shape, "counts": shape["counts"].decode()}
        one = annotation(0, shape, place[2] * place[3], int(crowd)) | {"id": i, "image_id": 1}
        annotations.append((class_id, one))
    ordered = sorted(enumerate(objects), key=lambda o: (not o[1][2], -o[1][0][2] * o[1][0][3], o[0]))
    expected = boxed(*((255 if crowd else class_id, *place) for _, (place, class_id, crowd, _) in ordered))
    np.testing.assert_array_equal(coco.paint(SIZE, annotations[::-1]), expected)


def test_images_ids_places_and_folds(tmp_path):
    data = make_coco(tmp_path, [PLAIN, [], [annotation(90, runs(boxed((1, 1, 1, 5, 5)) == 1), 25, 1)]])
    benchmark = prepare("coco", data, workers=1)
    names = ["COCO_train2014_000000000001", "COCO_train2014_000000000003"]  # the second has no objects
    assert [e.id for e in benchmark.entries if e.split == "train"] == names
    assert [e.pixels for e in benchmark.entries[:2]] == [{1: 80}, {255: 25}]
    assert {path.stem for path in (tmp_path / "coco/labels/train").iterdir()} == set(names)
    name = "COCO_val2014_000000000100"
    assert (benchmark.entries[2].image, benchmark.entries[2].label) == (
        f"../val2014/{name}.jpg",
        f"labels/val/{name}.png",
    )
    with Image.open(benchmark.path(benchmark.entries[0].label)) as label:
        assert label.mode == "P"
        assert np.array(label.getpalette()).reshape(-1, 3)[[0, 1, 80]].tolist() == [[0] * 3, [128, 0, 0], [32, 64, 0]]
    assert benchmark.classes == tuple(f"c{number}" for number in CATEGORIES)
    assert benchmark.folds == benchmark.tested
    assert [fold[:3] for fold in benchmark.folds] == [(1, 5, 9), (2, 6, 10), (3, 7, 11), (4, 8, 12)]
    table = check(load("coco", data)).set_index("class")
    assert table.loc["c1", ["fold", "id", "train", "val"]].tolist() == [0, 1, 1, 2]


# --- the real sample


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools 2.0.11 under numpy 2
def test_real_labels_are_those_of_a_plain_loop(sample, tmp_path, monkeypatch):
    numbered = {name: number for number, name in enumerate(sample.classes, 1)}
    # by the category ids 1, 11, 13, 27, 90 of COCO's own list
    names = ("person", "fire hydrant", "stop sign", "backpack", "toothbrush")
    assert [numbered[n] for n in names] == [1, 11, 12, 25, 80]
    content = json.loads((SAMPLE / TRAIN).read_text())
    ids = {one["id"]: one["file_name"] for one in content["images"]}
    entries = {entry.id: entry for entry in sample.entries}
    assert len(entries) == len(ids) == 63
    covered = 0
    for number, name in ids.items():
        entry = entries[Path(name).stem]
        expected = np.zeros(entry.size, dtype=np.uint8)
        objects = [one for one in content["annotations"] if one["image_id"] == number]
        for one in sorted(objects, key=lambda one: (-one["area"], one["id"])):
            filled = packing.decode(packing.merge(packing.frPyObjects(one["segmentation"], *entry.size))) == 1
            covered += int(expected[filled].astype(bool).sum())
            expected[filled] = CATEGORIES.index(one["category_id"]) + 1
        np.testing.assert_array_equal(sample.label(entry), expected)
        assert entry.pixels == index.count(expected)
    assert covered > 1000, "objects overlap in it, so the order shows"
    monkeypatch.setattr(index, "CHUNK", 20)
    assert contents(prepare("coco", from_sample(tmp_path / "data"), workers=2).root) == contents(sample.root)


def test_episodes_from_the_real_sample(sample):
    for fold in range(4):
        pools = episodes.training_pools(sample, fold, presets.resolve("coco", "quick").training.novel)
        assert len(pools) >= 3
        assert not set(pools) & set(sample.folds[fold])
        for episode in episodes.training_batch(sample, pools, fold, 0, 0, 8):
            for position in (episode.query, *episode.supports):
                assert (sample.label(sample.entries[position]) == episode.class_id).sum() >= 1000
    fails("add images", call=lambda: episodes.test_episodes(sample, 0, 1, 0, 10))  # most classes have none here
    seen = tuple(c for c in sample.folds[0] if len(sample.images_of(c, "val")) >= 2)
    for episode in episodes.test_episodes(replace(sample, tested=(seen,)), 0, 1, 0, 10):
        assert {sample.entries[i].split for i in (episode.query, *episode.supports)} == {"val"}


# --- once, the same, and whole


def test_killed_half_way_it_is_completed_with_the_same_bytes(data, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(coco, "write", stop)  # the index comes last
        with pytest.raises(KeyboardInterrupt):
            prepare("coco", data, workers=1)
    fails("prepare coco", call=lambda: load("coco", data))
    before = contents(data / "coco")
    half, empty, bit, gone, *intact = sorted((data / "coco/labels").rglob("*.png"))
    content = bit.read_bytes()
    half.write_bytes(half.read_bytes()[:200])
    empty.write_bytes(b"")
    bit.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])  # of the compressed pixels
    gone.unlink()
    dates = [path.stat().st_mtime_ns for path in intact]
    prepare("coco", data, workers=1)
    (data / "coco/index.json").unlink()
    assert contents(data / "coco") == before
    assert [path.stat().st_mtime_ns for path in intact] == dates


def test_labels_of_other_annotations_are_painted_anew(data, monkeypatch):
    prepare("coco", data, workers=1)
    (data / "coco/index.json").unlink()
    change_json(data / TRAIN, lambda content: content["annotations"][0].update(segmentation=box(0, 0, 4, 4)))
    benchmark = prepare("coco", data, workers=1)
    assert benchmark.entries[0].pixels == {1: 16}
    monkeypatch.setattr(coco, "VERSION", coco.VERSION + 1)
    monkeypatch.setattr(coco, "paint", lambda size, objects: np.full(size, 80, np.uint8))
    fails("another recipe", call=lambda: load("coco", data))
    again = prepare("coco", data, workers=1)
    assert again.digest != benchmark.digest
    assert all(entry.pixels == {80: HEIGHT * WIDTH} for entry in again.entries)


def test_a_folder_coco_in_data_may_hold_it(data, tmp_path):
    here = prepare("coco", data, workers=1)
    there = prepare("coco", make_coco(tmp_path / "two/coco").parent, workers=1)
    assert (there.root, there.digest) == (tmp_path / "two/coco", here.digest)
    check(load("coco", (tmp_path / "two").rename(tmp_path / "moved")))


def test_the_verbs_say_what_is_there_and_nothing_of_pycocotools(data, capfd):
    assert cli.main(["prepare", "coco", "--root", str(data)]) == 0
    assert capfd.readouterr() == ("coco: 5 images of 80 classes are ready\n", "")
    assert cli.main(["check", "coco", "--root", str(data)]) == 0
    table, known, rest = capfd.readouterr().out.split("\n\n")
    assert [len(table.splitlines()), table.splitlines()[-1]] == [82, "void: 0.0% of all pixels, in 0 of 5 labels"]
    listed = [line.split()[:4] for line in known.splitlines()[1:]]
    assert listed == [["train:", "images", "3", "82081"], ["val:", "images", "2", "40137"]]
    assert rest.startswith("2 of 2 counts deviate\n")
    assert (data / "coco/contact_sheet.png").exists()


# --- bad input


def test_a_missing_part(data):
    for part in (TRAIN, VAL, "train2014", "val2014"):
        (data / part).rename(data / "elsewhere")
        refused(f"{data / part}: missing", "dpnet prepare coco", data=data)
        assert not (data / "coco").exists()
        (data / "elsewhere").rename(data / part)


BAD = [
    ('{"id": 90, "name": "c90"}, ', "", "79 categories, and COCO 2014 has 80"),
    ('"c90"}', '"c90"}, {"id": 91, "name": "x"}', "81 categories"),
    ('"c7"', '"x7"', "the same in train and val"),
    ('"file_name"', '"name"', "file_name"),
    ("COCO_train2014_000000000001", "COCO_val2014_000000000100", "missing"),
]


def test_bad_instances(data):
    whole = (data / TRAIN).read_text()
    for old, new, part in BAD:
        (data / TRAIN).write_text(whole.replace(old, new, 1))
        refused("instances_", part, data=data)
        assert not (data / "coco").exists()


def test_a_malformed_segmentation_in_another_process(data, monkeypatch):
    monkeypatch.setattr(index, "CHUNK", 1)
    change_json(data / VAL, lambda content: content["annotations"][0].update(segmentation={"counts": [5, 20]}))
    fails("COCO_val2014_000000000100.jpg cannot be painted", call=lambda: prepare("coco", data, workers=2))
    assert not (data / "coco/index.json").exists()


def test_an_image_in_both_splits(data):
    content = (data / VAL).read_text()
    (data / VAL).write_text(content.replace("COCO_val2014_000000000101", "COCO_train2014_000000000001"))
    shutil.copy(data / "train2014/COCO_train2014_000000000001.jpg", data / "val2014")
    refused(str(data / VAL), "COCO_train2014_000000000001", "instances_train2014.json", data=data)
