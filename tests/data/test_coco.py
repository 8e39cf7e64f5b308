"""COCO-20i: what is painted, what is on top, resuming, and the one line that each bad input gives."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as packing
from samples import contents, runs

from dpnet import cli, episodes
from dpnet.companion import presets
from dpnet.data import check, coco, index, load, prepare
from dpnet.io import DPNetError

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "coco_sample"
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # COCO numbers its 80 categories 1 … 90, without these
CATEGORIES = [number for number in range(1, 91) if number not in GAPS]
HEIGHT, WIDTH = SIZE = 30, 40
TRAIN, VAL = "annotations/instances_train2014.json", "annotations/instances_val2014.json"


def box(x, y, width, height):
    """A polygon whose pixels are exactly these columns and rows."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def crowd(x, y, width, height):
    """The same as uncompressed run lengths."""
    return runs(boxed((1, x, y, width, height)) == 1)


def annotation(category, shape, area, iscrowd=0):
    return {"category_id": category, "segmentation": shape, "area": area, "iscrowd": iscrowd, "bbox": [0, 0, 1, 1]}


PLAIN = [annotation(1, box(2, 3, 10, 8), 80)]


def write_split(data, split, pictures, first=1):
    """`pictures`: the annotations of each image; images are noise."""
    (data / f"{split}2014").mkdir(parents=True, exist_ok=True)
    (data / "annotations").mkdir(exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": c, "name": f"c{c}"} for c in CATEGORIES[::-1]]}
    for number, annotations in enumerate(pictures, first):
        name = f"COCO_{split}2014_{number:012d}.jpg"
        noise = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(noise).save(data / f"{split}2014" / name)
        content["images"].append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for one in annotations:
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
        numbers = {one["id"] for one in images}
        (data / f"{split}2014").mkdir()
        for one in images:
            (data / f"{split}2014" / one["file_name"]).symlink_to(SAMPLE / "train2014" / one["file_name"])
        objects = [one for one in content["annotations"] if one["image_id"] in numbers]
        part = {**content, "images": images, "annotations": objects}
        (data / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(part))
    return data


def change(file, how):
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


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


def label_of(tmp_path, *annotations):
    """The label of a train image with these annotations."""
    benchmark = prepare("coco", make_coco(tmp_path, [list(annotations)]), workers=1)
    return benchmark.label(benchmark.entries[0])


def boxed(*parts):
    """The mask in which each (value, x, y, width, height) lies on those before it."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for value, x, y, width, height in parts:
        mask[y : y + height, x : x + width] = value
    return mask


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
    two_parts = annotation(90, box(0, 0, 3, 2) + box(30, 20, 5, 6), 36)
    packed = packing.encode(np.asfortranarray(boxed((1, 20, 3, 4, 5))))
    packed = {**packed, "counts": packed["counts"].decode()}
    label = label_of(tmp_path, two_parts, annotation(13, crowd(10, 10, 8, 7), 56), annotation(2, packed, 20))
    # category 90 is the 80th, and 13 follows 11
    parts = (80, 0, 0, 3, 2), (80, 30, 20, 5, 6), (12, 10, 10, 8, 7), (2, 20, 3, 4, 5)
    np.testing.assert_array_equal(label, boxed(*parts))


@pytest.mark.parametrize("turn", [1, -1])
def test_the_smaller_object_is_on_top(tmp_path, turn):
    large, small, smallest = (
        annotation(1, box(0, 0, 30, 20), 600),
        annotation(2, box(5, 5, 8, 8), 64),
        annotation(3, box(7, 7, 2, 2), 4),
    )
    label = label_of(tmp_path, *(smallest, large, small)[::turn])
    np.testing.assert_array_equal(label, boxed((1, 0, 0, 30, 20), (2, 5, 5, 8, 8), (3, 7, 7, 2, 2)))


@pytest.mark.parametrize("turn", [1, -1])
def test_a_crowd_is_void_and_below_every_object(tmp_path, turn):
    annotations = (
        annotation(1, crowd(0, 0, 6, 6), 36, 1),
        annotation(2, box(3, 3, 20, 20), 400),
        annotation(3, crowd(20, 0, 9, 9), 81, 1),
    )
    label = label_of(tmp_path, *annotations[::turn])
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
    void = [annotation(1, crowd(1, 1, 5, 5), 25, 1)]
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
            one["filled"] = packing.decode(packing.merge(packing.frPyObjects(one["segmentation"], *entry.size)))
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
    assert not any(Path(e.image).is_absolute() or ".." in e.label for e in there.entries)
    check(load("coco", (tmp_path / "two").rename(tmp_path / "moved")))


def test_the_verbs_say_what_is_there_and_nothing_of_pycocotools(data, capfd):
    assert cli.main(["prepare", "coco", "--root", str(data)]) == 0
    assert capfd.readouterr() == ("coco: 5 images of 80 classes are ready\n", "")
    assert cli.main(["check", "coco", "--root", str(data)]) == 0
    table, known, rest = capfd.readouterr().out.split("\n\n")
    assert [len(table.splitlines()), table.splitlines()[-1]] == [82, "void: 0.0% of all pixels, in 0 of 5 labels"]
    assert [line.split()[:4] for line in known.splitlines()[1:]] == [
        ["train:", "images", "3", "82081"],
        ["val:", "images", "2", "40137"],
    ]
    assert rest.startswith("2 of 2 counts deviate\n")
    assert (data / "coco/contact_sheet.png").exists()


def test_the_papers_setting():
    paper = presets.resolve("coco", "paper")
    training = paper.training
    assert (training.backbone, training.size, training.batch, training.learning_rate) == ("resnet50", 641, 8, 0.005)
    assert (training.decay, training.novel, training.dilations) == (0.0, "background", (6, 12, 18))
    assert (training.steps, paper.episodes) == (205202, 1000)  # 20 epochs of 82,081 / 8
    assert presets.resolve("coco", "quick").training == presets.resolve("pascal", "quick").training


# --- bad input


@pytest.mark.parametrize(
    ("part", "name"),
    [(TRAIN, "annotations [241MB]"), (VAL, "annotations [241MB]"), ("train2014", "13GB"), ("val2014", "6GB")],
)
def test_a_missing_part_and_where_it_comes_from(data, part, name):
    (data / part).rename(data / "elsewhere")
    fails(f"{data / part}: missing", name, "cocodataset.org/#download", data=data)
    assert not (data / "coco").exists()


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('{"id": 90, "name": "c90"}, ', "", "79 categories, and COCO 2014 has 80"),
        ('"c90"}', '"c90"}, {"id": 91, "name": "x"}', "81 categories"),
        ('"c7"', '"x7"', "the same in train and val"),
        ('"image_id": 1', '"image_id": 77', "image_id 77"),
        ('"file_name"', '"name"', "file_name"),
        ("{", "", "corrupt (JSONDecodeError"),
    ],
)
def test_bad_instances(data, old, new, part):
    (data / TRAIN).write_text((data / TRAIN).read_text().replace(old, new, 1))
    fails("annotations/instances_", part, "again", data=data)
    assert not (data / "coco").exists()


def test_a_malformed_segmentation_in_another_process(data, monkeypatch):
    monkeypatch.setattr(coco, "CHUNK", 1)
    change(data / VAL, lambda content: content["annotations"][0].update(segmentation=[["a"] * 6]))
    with pytest.raises(DPNetError, match=r"COCO_val2014_000000000100\.jpg cannot be painted"):
        prepare("coco", data, workers=2)
    assert not (data / "coco/index.json").exists()


def test_no_objects_and_an_image_in_both_splits(data):
    text = (data / VAL).read_text()
    change(data / VAL, lambda content: content.update(annotations=[]))
    fails(str(data / VAL), "no image with objects", data=data)
    (data / VAL).write_text(text.replace("COCO_val2014_000000000101", "COCO_train2014_000000000001"))
    shutil.copy(data / "train2014/COCO_train2014_000000000001.jpg", data / "val2014")
    fails(str(data / VAL), "COCO_train2014_000000000001", "instances_train2014.json", data=data)


def test_images_missing_truncated_or_of_another_size(data):
    first, *_, last = sorted((data / "train2014").iterdir())
    content = first.read_bytes()
    first.unlink()
    last.rename(data / "spare")
    fails(f"{first}: missing", "1 more", "complete the data", data=data)
    assert not (data / "coco").exists()
    (data / "spare").rename(last)
    first.write_bytes(content[: len(content) // 2])
    fails(f"{first}: cannot be decoded", "intact copy", data=data)
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(first)
    fails(str(first), "40x30", "40x31", "same size", data=data)
    first.write_bytes(content)
    assert len(prepare("coco", data, workers=1).entries) == 5
