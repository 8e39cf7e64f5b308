"""Your own images in three forms: the same ids come back from each, the split is kept, and what is done is said."""

import re
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from samples import (
    NAMES,
    SIZE,
    change_json,
    drawn,
    fails,
    make_own,
    make_own_coco,
    make_own_voc,
    photo,
    prepare_folder,
    runs,
    save,
    save_noted,
)
from scipy.ndimage import binary_erosion

from dpnet import cli
from dpnet.data import checks, custom, forms, images, load, prepare
from dpnet.data.custom import cut_folds, divide
from dpnet.data.forms import of_coco, of_voc, read_label_map
from dpnet.data.index import Entry, png
from dpnet.episodes import test_episodes as list_of


def prepared(own, **more):
    parts = [own / "images", own / "labels", own / "names.txt"]
    return prepare_folder(*parts, own.parent / "data", **more)


def prepare_voc(voc, data, folds="", classes=None, size=241):
    return custom.prepare(of_voc(voc, data / "folder", classes), data / "folder", folds, size)


def prepare_coco(train, data, val=None, photos=None, folds="", **more):
    return custom.prepare(
        of_coco(train, data / "folder", val, photos), data / "folder", folds, **{"size": 241} | more
    )


def labels_of(benchmark):
    return {entry.id: benchmark.label(entry) for entry in benchmark.entries}


def is_as_drawn(benchmark):
    for name, label in labels_of(benchmark).items():
        np.testing.assert_array_equal(label, drawn(int(name.rpartition("a")[2])))
    return len(benchmark.entries)


@pytest.fixture
def own(tmp_path):
    return make_own(tmp_path / "own")


# --- the same ids from every form


def write_form(form, place, labels):
    """Labels in a form, and the benchmark made of it; a class is known by its name."""
    if form in ("grey", "palette", "with void first"):
        own = make_own(place / "own", labels)
        if form == "palette":
            for i, label in enumerate(labels):
                (own / f"labels/a{i}.png").write_bytes(png(label))
        if form == "with void first":
            (own / "names.txt").write_text("__ignore__\r\n_background_\r\n" + "\r\n".join(NAMES) + "\r\n\r\n")
        return prepared(own)
    if form in ("labelme2voc", "CVAT", "CVAT palette"):
        voc = make_own_voc(place / "voc", labels, cvat=form != "labelme2voc")
        if form == "CVAT palette":  # whose numbers mean nothing
            for file in (voc / "SegmentationClass").iterdir():
                Image.open(file).quantize(8).save(file)
        return prepare_voc(voc, place / "data")
    if form == "COCO":
        return prepare_coco(make_own_coco(place / "coco", labels), place / "data")
    half = len(labels) // 2
    train, val = (
        make_own_coco(place / "train", labels[:half]),
        make_own_coco(place / "val", labels[half:], numbers=range(half, len(labels))),
    )
    return prepare_coco(train, place / "data", val)


FORMS = ("grey", "palette", "with void first", "labelme2voc", "CVAT", "CVAT palette", "COCO", "COCO train and val")


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=arrays.arrays(np.uint8, (3, 8, 10), elements=st.integers(0, 5)))
def test_every_form_gives_back_the_ids_that_were_written(form, blocks, tmp_path_factory):
    label = np.kron(blocks, np.ones((1, 5, 5), np.uint8))
    label[label == 5] = 255
    labels = [drawn(i) for i in range(8)] + [one for one in label if one.any()]
    benchmark = write_form(form, tmp_path_factory.mktemp("form"), labels)
    id_of = {benchmark.classes.index(name) + 1: i for i, name in enumerate(NAMES, 1)} | {0: 0, 255: 255}
    assert sorted(benchmark.classes) == sorted(NAMES)
    assert len(benchmark.entries) == len(labels)
    for name, ids in labels_of(benchmark).items():
        np.testing.assert_array_equal(np.vectorize(id_of.get)(ids), labels[int(name[1:])])
    assert load("folder", benchmark.root.parent) == benchmark


NAME = st.from_regex(r"[a-zäöü0-9][a-zäöü0-9 ()'.&+-]{0,8}[a-zäöü]", fullmatch=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(names=["happy", "sad", "unlabeled", "neutral"], cvat=False)  # of which none is void
@given(names=st.lists(NAME, min_size=1, max_size=9, unique_by=str.casefold), cvat=st.booleans())
def test_a_list_of_names_is_never_trimmed_or_moved(names, cvat, tmp_path):
    reserved = forms.NOTHING | forms.NOBODY_KNOWS | forms.TITLES
    names = [name for name in names if name.lower() not in reserved and not re.match(r"\d+\s", name)]
    lines = [f"{name}:{i},0,7::" for i, name in enumerate(names)] if cvat else names
    (tmp_path / "names.txt").write_text("\n".join(lines), "utf-8")
    colours = {(i, 0, 7): i + 1 for i in range(len(names))} | {(0, 0, 0): 0} if cvat and names else {}
    assert read_label_map(tmp_path / "names.txt") == (tuple(names), colours)


# --- splits


def test_sub_folders_train_and_val_are_the_split(own):
    for i in range(12):
        for kind, suffix in (("images", "jpg"), ("labels", "png")):
            place = own / kind / ("train" if i < 7 else "val")
            place.mkdir(exist_ok=True)
            (own / kind / f"a{i}.{suffix}").rename(place / f"a{i}.{suffix}")
    benchmark = prepared(own)
    assert all(entry.split == entry.id.split("/")[0] for entry in benchmark.entries)
    assert is_as_drawn(benchmark) == 12


def test_lists_are_the_split_in_every_form(tmp_path):
    voc = make_own_voc(tmp_path / "voc")
    benchmark = prepare_voc(voc, tmp_path / "data")
    assert {e.id: e.split for e in benchmark.entries} == {f"a{i}": ("train", "val")[i % 2] for i in range(12)}
    (voc / "ImageSets/Segmentation/val.txt").write_bytes("\ufeffa1  \r\n\r\na3\r\na5\r\n".encode())
    parts = voc / "JPEGImages", voc / "SegmentationClass", voc / "class_names.txt", tmp_path / "data"
    again = prepare_folder(*parts, lists=voc / "ImageSets/Segmentation")
    assert [e.id for e in again.entries if e.split == "val"] == ["a1", "a3", "a5"]
    assert again.recipe["notes"] == ["3 images left out: they have no label, or stand in no list"]
    for file in (voc / "ImageSets/Segmentation").iterdir():
        file.unlink()
    (voc / "ImageSets/Segmentation/default.txt").write_text("a0\n")  # CVAT's, where images are in no subset
    assert [e.split for e in prepare_voc(voc, tmp_path / "data").entries].count("val") == 3


@given(st.lists(st.sets(st.integers(1, 6), min_size=1, max_size=3), min_size=4, max_size=60))
def test_a_quarter_of_each_class_is_for_testing(classes_of):
    """Whatever the order of the names: each class that has four images has two on either side."""
    entries = tuple(
        Entry(f"{i:03d}", "train", "", "", (1, 1), dict.fromkeys(classes, 1)) for i, classes in enumerate(classes_of)
    )
    divided = divide(entries)
    assert [e.id for e in divided] == [e.id for e in entries]
    for c in range(1, 7):
        splits = [e.split for e in divided if c in e.pixels]
        if all(len(classes) == 1 for classes in classes_of):
            assert len(splits) < 16 or abs(splits.count("val") - len(splits) / 4) <= 1
            assert len(splits) < 4 or min(splits.count("val"), splits.count("train")) >= 2


def test_folds_by_themselves_leave_two_classes_to_train_on():
    for number, folds in {3: 3, 4: 2, 7: 3, 8: 4, 20: 4}.items():
        cut = cut_folds([f"c{i}" for i in range(number)], "")
        assert len(cut) == folds
        assert sorted(c for part in cut for c in part) == list(range(1, number + 1))
        assert all(number - len(part) >= 2 for part in cut)
        assert number == 3 or all(len(part) >= 2 for part in cut)  # so that a wrong support can be had


def test_folds_as_they_are_given(own):
    for text, cut in (("", ((1, 2), (3, 4))), ("3", ((1, 2), (3,), (4,))), ("spoon,cup; fork", ((4, 1), (2,)))):
        assert prepared(own, folds=text).folds == cut


# --- files


def test_images_of_any_kind_are_what_a_viewer_shows_and_changes_are_said_once(own):
    """A camera that lies saves what it sees, and a note; annotation tools show it upright."""
    opaque = np.where(np.arange(SIZE[1]) < 9, 0, 255) * np.ones(SIZE, int)
    for i in range(12):
        (own / f"images/a{i}.jpg").unlink()
        kind = ("I;16", "LA", "RGBA", "CMYK", "L", "P")[i % 6]
        if kind == "I;16":
            save(photo(i)[..., 0].astype(np.uint16) * 16, own / f"images/a{i}.PNG")
        else:
            file = own / f"images/a{i}.{'tif' if kind == 'CMYK' else 'png'}"
            clear = Image.fromarray(np.dstack([photo(i), opaque]).astype(np.uint8))
            clear.convert("RGBA" if "A" in kind else "RGB").convert(kind).save(file)
    save_noted(photo(4)[::-1, ::-1], own / "images/a4.png", 3)
    save_noted(np.rot90(photo(5)), own / "images/a5.png", 6)
    benchmark = prepared(own)
    for entry in benchmark.entries:
        assert np.array_equal(benchmark.image(entry), np.asarray(images.photograph(benchmark.path(entry.image))))
    seen = {entry.id: benchmark.image(entry) for entry in benchmark.entries}
    assert np.array_equal(seen["a0"][..., 0], photo(0)[..., 0].astype(int) * 16 * 255 // 4095)
    assert np.array_equal(seen["a4"], photo(4))
    assert np.array_equal(seen["a5"], photo(5))
    assert benchmark.recipe["notes"] == [
        "photographs in CMYK: converted to RGB: 2",
        "photographs turned upright, as their EXIF notes say: 2",
        "photographs with more than 8 bits: scaled to 8 by the range that they use: 2",
        "photographs with transparent parts: shown on white: 4",
    ]
    is_as_drawn(benchmark)


def test_names_of_every_kind(own):
    for i, name in enumerate(("Müller a0", "IMG (1) a1", "x.y.a2")):
        (own / f"images/a{i}.jpg").rename(own / f"images/{name}.JPG")
        (own / f"labels/a{i}.png").rename(own / f"labels/{unicodedata.normalize('NFD', name)}.PNG")
    (own / "labels/._a3.png").write_bytes(b"what a Mac leaves")
    (own / "images/__MACOSX").mkdir()
    (own / "images/__MACOSX/a3.jpg").write_bytes(b"")
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (own / kind / "[part] 1").mkdir()
        (own / kind / f"a5.{suffix}").rename(own / kind / "[part] 1" / f"a5.{suffix}")
    benchmark = prepared(own)
    assert {"Müller a0", "IMG (1) a1", "x.y.a2", "[part] 1/a5"} < {entry.id for entry in benchmark.entries}
    assert is_as_drawn(benchmark) == 12


def test_images_and_labels_in_one_folder_and_linked_folders(own, tmp_path):
    shutil.copytree(own / "labels", own / "images", dirs_exist_ok=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/there").symlink_to(own / "images")
    parts = tmp_path / "linked", tmp_path / "linked", own / "names.txt", tmp_path / "data"
    assert is_as_drawn(prepare_folder(*parts)) == 12


def test_what_is_missing_or_there_twice_is_said(own):
    (own / "names.txt").write_text("\n".join((*NAMES, "plate", "pot")))
    shutil.copy(own / "images/a1.jpg", own / "images/a7.jpg")
    save(photo(99), own / "images/spare.jpg")
    notes = prepared(own, folds="cup,fork;knife,spoon,plate,pot").recipe["notes"]
    assert notes[:2] == ["1 images left out: they have no label, or stand in no list", "in no label: plate, pot"]
    assert "1 images are there twice" in notes[2]


def test_a_digest_is_of_what_the_files_hold(own, tmp_path):
    """Features and runs of other images are not taken for those of these, though names, sizes and counts agree."""
    first = prepared(own)
    shutil.copytree(own, tmp_path / "moved/own")
    assert prepared(tmp_path / "moved/own").digest == first.digest == prepared(own).digest
    was = [(e.id, e.pixels) for e in first.entries]
    save(drawn(0)[:, ::-1].copy(), own / "labels/a0.png")
    mirrored = prepared(own)
    assert [(e.id, e.pixels) for e in mirrored.entries] == was
    assert mirrored.digest != first.digest
    save(drawn(0), own / "labels/a0.png")
    shutil.copy(own / "images/a1.jpg", own / "images/a0.jpg")
    assert prepared(own).digest != first.digest


def test_an_index_does_not_outlive_the_copies_that_it_names(tmp_path):
    voc = make_own_voc(tmp_path / "voc", cvat=True)
    file = prepare_voc(voc, tmp_path / "data").root / "index.json"
    save(np.zeros((3, 3, 3), np.uint8), voc / "SegmentationClass/a0.png")
    fails("make them the same size", call=lambda: prepare_voc(voc, tmp_path / "data"))
    assert not file.exists()


# --- COCO's odd annotations


def test_objects_without_a_shape_are_skipped_and_counted(tmp_path):
    file = make_own_coco(tmp_path / "coco")

    def add(content):
        one = {"image_id": 0, "category_id": 20}
        shapes = (None, [], [[]], [[5, 5]], [[5, 5, 20, 12]])
        content["annotations"] += [one | {"id": 5000 + i, "segmentation": shape} for i, shape in enumerate(shapes)]
        content["annotations"].append(one | {"id": 6000})
        content["images"].append({"id": 99, "file_name": "a99.jpg", "height": 40, "width": 50})

    change_json(file, add)
    benchmark = prepare_coco(file, tmp_path / "data")
    assert is_as_drawn(benchmark) == 12
    counts = ["1 images skipped", "6 objects without a shape skipped"]
    assert benchmark.recipe["notes"] == [f"instances.json: {count}" for count in counts]
    change_json(file, lambda content: [one.update(segmentation=[]) for one in content["annotations"]])
    fails("export polygons or masks, not boxes", call=lambda: prepare_coco(file, tmp_path / "data"))


def test_areas_and_crowds_may_be_absent_and_lines_beside_polygons_paint_nothing(tmp_path):
    label, inner = np.zeros(SIZE, np.uint8), np.zeros(SIZE, bool)
    label[3:11, 2:12] = 1
    inner[5:7, 4:6] = True
    file = make_own_coco(tmp_path / "coco", [drawn(i) for i in range(8)] + [label])

    def change(content):
        one = content["annotations"][-1]
        one["segmentation"] = [[25, 5, 35, 12], [2, 3, 12, 3, 12, 11, 2, 11]]
        del one["iscrowd"]
        content["annotations"].insert(
            0, one | {"id": 1, "category_id": 20, "segmentation": runs(inner), "area": None}
        )

    change_json(file, change)
    label[inner] = 2
    np.testing.assert_array_equal(labels_of(prepare_coco(file, tmp_path / "data"))["a8"], label)


def test_photographs_lie_beside_the_file_or_in_their_folder(tmp_path):
    file = make_own_coco(tmp_path / "coco")
    (tmp_path / "photos/train").mkdir(parents=True)
    for photograph in (tmp_path / "coco").glob("*.jpg"):
        photograph.rename(tmp_path / "photos" / photograph.name)
    assert len(prepare_coco(file, tmp_path / "data", photos=tmp_path / "photos").entries) == 12
    fails("a0.jpg: missing", "11 more", call=lambda: prepare_coco(file, tmp_path / "data"))


# --- too thin


def wires(own, width, number=16, size=(400, 800)):
    """Each class a wire of some pixels: it counts by its area, and few squares of the network meet it."""
    rng = np.random.default_rng(0)
    for i in range(number):
        label = np.zeros(size, np.uint8)
        for value in range(1, 5):
            x = 190 * value + int(rng.integers(-90, 0))
            label[:, x : x + width] = value
        save(np.zeros((*size, 3), np.uint8) + i, own / f"images/b{i:02d}.png")
        save(label, own / f"labels/b{i:02d}.png")


def test_pairs_without_a_pixel_left_are_counted_and_never_used(own):
    for file in (*(own / "images").iterdir(), *(own / "labels").iterdir()):
        file.unlink()
    wires(own, 6)
    benchmark = prepared(own, size=65)
    assert any("images have no pixel of it left at 65 x 65: not used" in note for note in benchmark.recipe["notes"])
    lost = 0
    for position, entry in enumerate(benchmark.entries):
        small = np.asarray(Image.fromarray(benchmark.label(entry)).resize((65, 65), Image.Resampling.NEAREST))
        for c in range(1, 5):
            assert (position in benchmark.images_of(c, entry.split)) == (c in small)
            lost += c not in small
    assert 5 < lost < 60
    assert load("folder", own.parent / "data").entries == benchmark.entries
    for fold in range(2):
        for episode in list_of(benchmark, fold, 1, 0, 20):
            used = [benchmark.entries[p] for p in (episode.query, *episode.supports)]
            assert not any(episode.class_id in entry.thin for entry in used)
    assert not any(entry.thin for entry in prepared(own, size=321).entries)
    plain = make_own(own.parent / "plain/own")
    assert not any(entry.thin for entry in prepared(plain, size=65).entries)


def test_where_too_few_are_left_a_size_that_would_do_is_said(own):
    wires(own, 6)
    for i in range(12):  # the others have no spoon
        save(np.where(drawn(i) == 4, 0, drawn(i)).astype(np.uint8), own / f"labels/a{i}.png")
    for i in range(4, 16):
        save(np.zeros((400, 800), np.uint8), own / f"labels/b{i:02d}.png")
    fails("without cup, fork two classes", "too few are left: a network of", call=lambda: prepared(own, size=41))
    notes = prepared(own, size=41, folds="spoon;cup").recipe["notes"]
    (note,) = [note for note in notes if note.startswith("spoon: ")]
    assert re.fullmatch(
        r"spoon: \d of 4 images .* 41 x 41: not used; too few are left: a network of \d+ x \d+ .*", note
    )


# --- the verbs


def run(capsys, *arguments):
    code = cli.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def test_own_images_are_prepared_for_the_size_of_a_preset(own, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    form = ["--voc", make_own_voc(tmp_path / "voc"), "--classes", own / "names.txt"]
    code, out, _ = run(capsys, "prepare", "folder", *form, "--root", "data")
    assert (code, out.splitlines()[0]) == (0, "6 images to train on, 6 to test; folds: cup, fork; knife, spoon")
    assert prepare("folder", tmp_path / "data") == load("folder", tmp_path / "data")
    code, out, _ = run(capsys, "check", "folder", "--root", "data", "--preset", "tiny")
    assert code == 0
    assert "void: 2.5% of all pixels, in 12 of 12 labels" in out
    assert "counted at 241 x 241: for --preset tiny, 65 x 65, prepare it again" in out
    fold = ["--benchmark", "folder", "--preset", "tiny", "--data", "data", "--results", "results"]
    code, _, err = run(capsys, "train", "table3", "--variant", "base", *fold)
    assert code == 1
    assert "too thin at 241 x 241 pixels, and this preset's network is smaller, 65 x 65: prepare it again" in err


def test_who_is_not_tested_and_why(own, tmp_path, capsys):
    for i in range(2, 12):
        save(np.where(drawn(i) == 2, 0, drawn(i)).astype(np.uint8), own / f"labels/a{i}.png")
    form = ["--images", own / "images", "--labels", own / "labels", "--classes", own / "names.txt"]
    code, out, _ = run(capsys, "prepare", "folder", *form, "--folds", "cup,fork", "--root", tmp_path / "data")
    assert code == 0
    assert "since fewer than two of their images could be set aside for that: fork\n" in out
    assert "since --folds leaves them out: they are for training: knife, spoon\n" in out


def test_what_is_for_a_folder_is_for_no_other_benchmark(tmp_path, capsys):
    ways = {"shapes": "are rendered", "pascal": "holds VOCdevkit with --root", "coco": "holds coco with --root"}
    for benchmark, way in ways.items():
        for option in ("--voc", "--coco", "--coco-val", "--images", "--labels", "--classes", "--folds"):
            code, _, err = run(capsys, "prepare", benchmark, option, "2", "--root", tmp_path)
            assert code == 1
            assert re.search(rf"{option} is for benchmark folder, not for {benchmark}: .*{way}\n", err)
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_early_is_no_error(own):
    """As `head -1` does."""
    parts = ["--images", own / "images", "--labels", own / "labels", "--classes", own / "names.txt"]
    command = [sys.executable, "-m", "dpnet", "prepare", "folder", *parts, "--root", own.parent / "data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "ipe" not in process.stderr.read()
    assert process.returncode == 1
    assert (own.parent / "data/folder/index.json").exists()


# --- the contact sheet


def test_the_contact_sheet_shows_each_class_where_it_is(own):
    benchmark = prepared(own)
    sheet = np.asarray(checks.contact_sheet(benchmark, per_class=3, cell=SIZE[::-1])).astype(int)
    assert sheet.shape == (4 * 70, 3 * 50, 3)
    for c in range(1, 5):
        every = [p for split in ("train", "val") for p in benchmark.images_of(c, split)]
        for column, position in enumerate((every[0], every[-1])):
            cell = sheet[70 * (c - 1) + 30 :][:40, 100 * column :][:, :50]
            label = benchmark.label(benchmark.entries[position])
            edge = (label == c) & ~binary_erosion(label == c, border_value=1)
            assert (cell[edge] == checks.MARK).all()
            assert (cell == checks.MARK).all(2).sum() <= edge.sum() + 2
            assert (cell[label == 255] == 200).all()  # a line is all outline
