"""Layouts as people have them: VOC's with lists and colours of its own, and the answers to what does not fit."""

import os
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dpnet import cli
from dpnet.data import Benchmark, images, legend, pairing, prepare_folder, voc_parts
from dpnet.io import DPNetError

NAMES = ("cup", "fork", "knife", "spoon")
COLOURS = {"background": (0, 0, 0), "spoon": (7, 8, 9), "cup": (128, 0, 0), "void": (224, 224, 192)}
COLOURS |= {"knife": (0, 0, 128), "fork": (0, 128, 0)}
IDS = {"background": 0, "void": 255} | {name: number for number, name in enumerate(NAMES, 1)}
SIZE = 30, 40  # height, width


def drawn(number: int) -> np.ndarray:
    """Ids of a label: all classes, and a line of void."""
    label = np.zeros(SIZE, np.uint8)
    for value in range(1, 5):
        label[3:27, 9 * value - 5 : 9 * value] = value
    label[0] = 255
    return np.roll(label, number, 1)


def photo(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def save(array: np.ndarray, file: Path, **how: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **how)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Twelve images and labels, and a class list."""
    for i in range(12):
        save(photo(i), tmp_path / "own" / "images" / f"a{i}.jpg")
        save(drawn(i), tmp_path / "own" / "labels" / f"a{i}.png")
    (tmp_path / "own" / "names.txt").write_text("\n".join(NAMES))
    return tmp_path / "own"


@pytest.fixture
def voc(own: Path, tmp_path: Path) -> Path:
    """The same in VOC's layout."""
    voc = tmp_path / "voc"
    voc.mkdir()
    shutil.copytree(own / "images", voc / "JPEGImages")
    shutil.copytree(own / "labels", voc / "SegmentationClass")
    (voc / "class_names.txt").write_text("_background_\n" + "\n".join(NAMES))
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"a{i}\n" for i in range(7)))
    (lists / "val.txt").write_text("".join(f"a{i}\n" for i in range(7, 11)))
    return voc


def prepared(own: Path, folds: str = "", **other: Path) -> Benchmark:
    parts = {"images": own / "images", "labels": own / "labels", "classes": own / "names.txt"} | other
    return prepare_folder(**parts, data=own.parent / "data", folds=folds)


def from_voc(voc: Path) -> Benchmark:
    images, labels, classes, lists = voc_parts(voc)
    return prepare_folder(images, labels, classes, voc.parent / "data", lists=lists)


def labels_of(benchmark: Benchmark) -> dict[str, np.ndarray]:
    return {entry.id: benchmark.label(entry) for entry in benchmark.entries}


def is_as_drawn(benchmark: Benchmark) -> None:
    found = labels_of(benchmark)
    assert found
    for name, label in found.items():
        np.testing.assert_array_equal(label, drawn(int(name.rpartition("a")[2])))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def coloured(label: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    for name, colour in COLOURS.items():
        table[IDS[name]] = colour
    return table[label]


def paint(labels: Path) -> None:
    """Labels of ids become labels of colours."""
    for file in labels.glob("*.png"):
        save(coloured(np.array(Image.open(file))), file)


def refuses(*parts: str, own: Path, **other: Path) -> str:
    """One line that names each of the parts; no index is written."""
    with pytest.raises(DPNetError) as caught:
        prepared(own, **other)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line
    assert not (own.parent / "data" / "folder" / "index.json").exists()
    return line


# ---- VOC's layout


def test_an_index_does_not_outlive_the_copies_that_it_names(own: Path) -> None:
    index = prepared(own).root / "index.json"
    wrong = sorted((own / "labels").rglob("*.png"))[0]
    Image.open(wrong).resize((3, 3)).save(wrong)
    with pytest.raises(DPNetError, match="make them the same size"):
        prepared(own)
    assert not index.exists()


def test_the_lists_say_what_is_for_training(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = from_voc(voc)
    assert benchmark.classes == NAMES
    assert {e.id for e in benchmark.entries if e.split == "train"} == {f"a{i}" for i in range(7)}
    assert {e.id for e in benchmark.entries if e.split == "val"} == {f"a{i}" for i in range(7, 11)}
    is_as_drawn(benchmark)
    said = capsys.readouterr().out
    assert "'_background_' is no class" in said
    assert "1 is 'cup'" in said
    assert "1 image(s) left out" in said


def test_label_pngs_in_capitals_are_found(voc: Path) -> None:
    for file in (voc / "SegmentationClass").iterdir():
        file.rename(file.with_suffix(".PNG"))
    assert len(from_voc(voc).entries) == 11


@pytest.mark.parametrize("line", ['"{}"', "{}.jpg", "{} 1", "JPEGImages/{}.jpg SegmentationClass/{}.png", "{}\r"])
def test_lists_as_tools_write_them(line: str, voc: Path) -> None:
    lists = voc / "ImageSets" / "Segmentation"
    for file in lists.iterdir():
        text = "\n".join(line.replace("{}", name) for name in file.read_text().split())
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(from_voc(voc).entries) == 11


def test_without_lists_a_quarter_is_for_testing(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = voc / "ImageSets" / "Segmentation"
    (lists / "train.txt").rename(lists / "default.txt")  # as CVAT names it
    (lists / "val.txt").unlink()
    splits = [entry.split for entry in from_voc(voc).entries]
    assert (splits.count("train"), splits.count("val")) == (9, 3)
    assert "found default.txt" in capsys.readouterr().out
    shutil.rmtree(lists.parent)
    assert [entry.split for entry in from_voc(voc).entries] == splits


def test_bad_lists(voc: Path) -> None:
    lists = voc / "ImageSets" / "Segmentation"

    def call(*parts: str, **files: str | None) -> None:
        kept = contents(lists)
        for name, text in files.items():
            (lists / f"{name}.txt").unlink(missing_ok=True) if text is None else (lists / f"{name}.txt").write_text(
                text
            )
        with pytest.raises(DPNetError) as caught:
            from_voc(voc)
        assert all(part in str(caught.value) for part in parts), caught.value
        assert not (voc.parent / "data").exists()
        for name, content in kept.items():
            (lists / name).write_bytes(content)

    call("train.txt: missing", "found val.txt", train=None)
    call("val.txt: missing", val=None)
    call("train.txt: names no image", train="\n")
    call("val.txt: 'a3' is in train.txt too", val="a8\na3\n")
    call("val.txt: 'zebra' has no label", "1 more", val="a8\nzebra\nyak\n")
    call("""val.txt: '"' has no label""", val='a8\n"\n')
    (voc / "JPEGImages" / "a2.jpg").unlink()
    call("a2.png: its image is missing", "JPEGImages/a2.*")


def test_colours_become_ids_in_the_data_folder(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint(voc / "SegmentationClass")
    lines = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in COLOURS.items()]
    (voc / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines))
    before = contents(voc)
    benchmark = from_voc(voc)
    assert benchmark.classes == ("spoon", "cup", "knife", "fork")
    back = {0: 0, 255: 255} | {i: IDS[name] for i, name in enumerate(benchmark.classes, 1)}
    for name, label in labels_of(benchmark).items():
        np.testing.assert_array_equal(np.vectorize(back.get)(label), drawn(int(name[1:])))
    assert contents(voc) == before
    assert "11 labels became ids" in capsys.readouterr().out
    # Palette PNGs of the same colours: their indices mean nothing.
    for file in (voc / "SegmentationClass").iterdir():
        Image.open(file).quantize(8).save(file)
    assert labels_of(from_voc(voc)).keys() == labels_of(benchmark).keys()
    again = labels_of(from_voc(voc))
    assert all(np.array_equal(label, again[name]) for name, label in labels_of(benchmark).items())


def test_colours_without_a_meaning(voc: Path) -> None:
    paint(voc / "SegmentationClass")
    with pytest.raises(
        DPNetError, match=r"a0.png: is RGB with 6 colour\(s\), 0,0,0; .*class_names.txt.* cup:255,0,0"
    ):
        from_voc(voc)
    (voc / "labelmap.txt").write_text("cup:128,0,0::\nfork:0,128,0::\nknife:0,0,128::\nvoid:224,224,192\n")
    with pytest.raises(DPNetError, match=r"has 1 colour\(s\), 7,8,9, which .*labelmap.txt lacks: it has cup 128,0,0"):
        from_voc(voc)


def test_a_folder_that_is_not_voc(voc: Path, tmp_path: Path) -> None:
    above = tmp_path / "above" / "VOCdevkit"
    above.mkdir(parents=True)
    voc.rename(above / "VOC2012")
    assert voc_parts(tmp_path / "above")[0] == above / "VOC2012" / "JPEGImages"
    shutil.rmtree(above / "VOC2012" / "SegmentationClass")
    with pytest.raises(DPNetError, match=r"no label PNG in SegmentationClass: found .*; expected JPEGImages"):
        voc_parts(above / "VOC2012")
    (above / "VOC2012" / "Annotations").mkdir()
    with pytest.raises(DPNetError, match="Annotations are boxes, export masks"):
        voc_parts(above / "VOC2012")
    (tmp_path / "voc.zip").write_bytes(b"PK")
    with pytest.raises(DPNetError, match=r"voc\.zip: an archive: unpack it"):
        voc_parts(tmp_path / "voc.zip")


def test_the_command(
    voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPNET_DATA", "")  # what the verb sets is taken back
    monkeypatch.chdir(tmp_path)
    root = ["--root", "data"]
    assert cli.main(["prepare", "folder", "--voc", "voc", *root]) == 0
    assert os.environ["DPNET_DATA"] == str(tmp_path / "data")  # notebooks' kernels work elsewhere
    said = capsys.readouterr().out
    assert "7 images to train on, 4 to test; folds: cup, fork; knife, spoon" in said
    (tmp_path / "mine.txt").write_text("tasse\ngabel\nmesser\nloeffel\n")
    assert cli.main(["prepare", "folder", "--voc", str(voc), "--classes", str(tmp_path / "mine.txt"), *root]) == 0
    assert "folds: tasse, gabel; messer, loeffel" in capsys.readouterr().out
    (voc / "class_names.txt").unlink()
    assert cli.main(["prepare", "folder", "--voc", str(voc), *root]) == 1
    assert "class_names.txt: no such file: write the class names" in capsys.readouterr().err
    assert cli.main(["prepare", "folder", "--images", "a", *root]) == 1
    assert "--voc DIR, or --images DIR --labels DIR --classes FILE" in capsys.readouterr().err
    assert cli.main(["prepare", "folder", "--voc", str(voc), "--classes", str(voc), *root]) == 1
    assert f"{voc}: is a folder: give the file in it that lists the class names" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--voc", "--images", "--labels", "--classes", "--folds"])
def test_what_is_for_a_folder_is_for_no_other_benchmark(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPNET_DATA", "")
    ways = {"shapes": "are rendered", "pascal": "holds VOCdevkit with --root", "coco": "holds coco with --root"}
    for benchmark, way in ways.items():
        assert cli.main(["prepare", benchmark, option, "2", "--root", str(tmp_path), "--preset", "quick"]) == 1
        assert re.search(
            rf"{option} is for benchmark folder, not for {benchmark}: .*{way}\n", capsys.readouterr().err
        )
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_early_is_no_error(own: Path) -> None:
    """As `head -1` does."""
    parts = ["--images", own / "images", "--labels", own / "labels", "--classes", own / "names.txt"]
    command = [sys.executable, "-m", "dpnet", "prepare", "folder", *parts, "--root", own.parent / "data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert "ipe" not in process.stderr.read()
    assert process.returncode == 1
    assert (own.parent / "data" / "folder" / "index.json").exists()


# ---- labels of every kind


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA", "I;16", "P", "upper"])
def test_labels_of_ids_in_any_mode(kind: str, own: Path) -> None:
    for file in (own / "labels").iterdir():
        ids = np.array(Image.open(file))
        if kind == "I;16":
            save(ids.astype(np.uint16), file)
        elif kind == "upper":
            file.rename(file.with_suffix(".PNG"))
        elif kind == "P":
            palette = Image.fromarray(ids)
            palette.putpalette([5, 5, 5] * 256)
            palette.save(file)
        else:
            Image.fromarray(ids).convert(kind).save(file)
    is_as_drawn(prepared(own))


def test_the_palette_of_an_encoder_shows_ids_and_its_indices_are_none(own: Path) -> None:
    for file in (own / "labels").iterdir():
        Image.open(file).convert("RGB").quantize(6).save(file)
    assert Image.open(file).getpalette()[:3] == [255, 255, 255]
    is_as_drawn(prepared(own))


@pytest.mark.parametrize("levels", [[0, 85, 170, 255], [0, 255]])
def test_palettes_that_make_ids_visible_are_not_read(levels: list[int], own: Path) -> None:
    for i in range(12):
        ids = np.where(np.isin(drawn(i), range(1, len(levels))), drawn(i), 0).astype(np.uint8)
        palette = Image.fromarray(ids)
        palette.putpalette([v for level in levels for v in [level] * 3])
        palette.save(own / "labels" / f"a{i}.png")
    (own / "names.txt").write_text("cup\nfork\nknife")
    if levels == [0, 255]:  # a class alone in each, and others elsewhere
        for i in range(6):
            save(drawn(i) % 4, own / "labels" / f"a{i}.png")
    for name, label in labels_of(prepared(own)).items():
        assert set(np.unique(label)) == ({0, 1} if levels == [0, 255] and int(name[1:]) > 5 else {0, 1, 2, 3})


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "P"])
def test_greys_mean_what_the_legend_says(mode: str, own: Path) -> None:
    greys = np.zeros(256, np.uint8)
    greys[[1, 2, 3, 4, 255]] = 50, 100, 255, 4, 200
    for file in (own / "labels").iterdir():
        Image.fromarray(greys[np.array(Image.open(file))]).convert(mode).save(file)
    colours = {"cup": 50, "fork": 100, "knife": 255, "spoon": 4, "void": 200}
    (own / "names.txt").write_text("".join(f"{name}:{v},{v},{v}\n" for name, v in colours.items()))
    is_as_drawn(prepared(own))
    save(np.full(SIZE, 9, np.uint8), own / "labels" / "a0.png")
    with pytest.raises(DPNetError, match=r"a0.png: has 1 colour\(s\), 9,9,9, which .*names.txt lacks: it has cup"):
        prepared(own)


def test_bad_labels(own: Path, tmp_path: Path) -> None:
    def changed(name: str, change, suffix: str = ".png") -> Path:
        for file in (own / "labels").iterdir():
            save(change(np.array(Image.open(file))), tmp_path / name / f"{file.stem}{suffix}")
        return tmp_path / name

    jpeg = changed("jpeg", lambda ids: ids, ".jpg")
    refuses("0 label PNGs", "it holds 12 .jpg", "JPEG smears ids", own=own, labels=jpeg)
    refuses("a0.png: is I;16 and holds 900", "0 (background) to 4", own=own,
            labels=changed("wide", lambda ids: np.where(ids == 1, np.uint16(900), ids)))  # fmt: skip
    refuses("class ids 70, 80 are out of range", "0…4", "11 more", own=own,
            labels=changed("gaps", lambda ids: np.where(np.isin(ids, (3, 4)), 10 * ids + 40, ids)))  # fmt: skip
    refuses(
        "only 0 and 255, which is void", own=own, labels=changed("white", lambda ids: 255 * (ids > 0).astype("u1"))
    )
    refuses("a0.png: the mask is 40x29, its image", "a0.jpg 40x30: make them the same size", own=own,
            labels=changed("small", lambda ids: ids[1:]))  # fmt: skip
    smooth = changed("smooth", lambda ids: np.array(Image.fromarray(coloured(ids)).resize((40, 30)).rotate(3, 2)))
    refuses("colour(s)", "0,0,0;", "…", own=own, labels=smooth)
    (tmp_path / "empty").mkdir()
    refuses("0 label PNGs", own=own, labels=tmp_path / "empty")
    (tmp_path / "heic").mkdir()
    (tmp_path / "heic" / "a0.heic").write_bytes(b"")
    refuses("no image in it", "it holds 1 .heic", own=own, images=tmp_path / "heic")
    (tmp_path / "a.zip").write_bytes(b"PK")
    refuses("a.zip: an archive: unpack it", own=own, images=tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["I;16", "LA", "RGBA", "transparent P", "CMYK", "L"])
def test_images_are_read_as_predict_reads_them(kind: str, own: Path) -> None:
    """16 bits are scaled, and what is transparent is white; other modes are what PIL makes of them."""
    shutil.rmtree(own / "images")
    for i in range(12):
        file = own / "images" / f"a{i}.{'tif' if kind == 'CMYK' else 'png'}"
        clear = np.dstack([photo(i), np.where(np.arange(SIZE[1]) < 9, 0, 255) * np.ones(SIZE, int)])
        if kind == "I;16":
            save(photo(i)[..., 0].astype(np.uint16) * 257, file)
        elif kind == "transparent P":
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(photo(i)).quantize(8).save(file, transparency=3)
        else:
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(clear.astype(np.uint8)).convert("RGBA").convert(kind).save(file)
    benchmark = prepared(own)
    for entry in benchmark.entries:
        found, file = benchmark.image(entry), benchmark.path(entry.image)
        np.testing.assert_array_equal(found, np.asarray(images.photograph(file)))
        if kind == "I;16":
            np.testing.assert_array_equal(found[..., 1], photo(int(entry.id[1:]))[..., 0])
        elif kind in ("LA", "RGBA"):
            assert (found[:, :9] == 255).all()
            assert found[:, 9:].mean() < 200
        elif kind != "transparent P":
            np.testing.assert_array_equal(found, np.asarray(Image.open(file).convert("RGB")))


def test_images_of_floats_are_refused(own: Path) -> None:
    shutil.rmtree(own / "images")
    for i in range(12):
        save(photo(i)[..., 0].astype(np.float32) / 255, own / "images" / f"a{i}.tif")
    refuses("a0.tif: is of floating-point numbers: save it with 8 or 16 bits", "11 more", own=own)


# ---- class lists


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("background\ncup\nfork\nknife\nspoon", "'background' is no class, and taken out: in labels it is 0"),
        ("__ignore__\n_background_\ncup\nfork\nknife\nspoon\n", "in labels it is 255"),
        ("cup\nfork\nknife\nspoon\nvoid\n", "'void' is no class, and taken out: in labels it is 255"),
        ("\ufeff\r\n\r\ncup\r\nfork\r\nknife\r\nspoon\r\n\r\n# the end", ""),
        ("# mine\ncup  \nfork\n knife\nspoon", ""),
    ],
)
def test_class_lists_as_people_have_them(text: str, said: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "names.txt").write_bytes(text.encode())
    benchmark = prepared(own)
    assert benchmark.classes == NAMES
    is_as_drawn(benchmark)
    assert said in capsys.readouterr().out


def test_bad_class_lists(own: Path) -> None:
    for text, *parts in (
        ("cup\nbackground\nfork\nknife", "'background' is line 2", "take it out"),
        ("cup\nfork\nknife\nspoon\nbackground", "'background' is line 5"),
        ("cup\nvoid\nfork\nknife\n", "'void' is line 2", "is 255"),
        ("1 cup\n2 fork\n3 knife", "'1 cup'", "the names only"),
        ("cup, fork, knife, spoon", "1 class(es), 'cup, fork, knife, spoon'", "one name per line"),
        ("cup", "1 class(es), 'cup'", "at least 3"),
        ("background\ncup\nfork", "2 class(es)", "at least 3"),
        ("background\n", "0 class names"),
        ("cup\n\nfork\nknife\nspoon", "line 2 is empty", "take it out"),
        ("# mine\ncup\nfork\n# knives\nknife\nspoon", "line 4 is a comment", "take it out"),
        ("cup:1,2,3\nfork\nknife:4,5,6", "'fork' has no colour", "cup:255,0,0"),
        ("cup,1,2,3\nfork,1,2,3333\nknife,4,5,6", "'fork,1,2,3333' has no colour", "numbers from 0 to 255"),
        ("title,1\ncup,1,2,3", "'title,1' has no colour"),
        ("cup:1,2,3\nfork:1,2,3\nknife:4,5,6", "'fork:1,2,3': another line has that colour"),
        ("cup:1,2,3\nfork:1,2,333\nknife:4,5,6", "a colour has 0 to 255"),
        ("background\ncup\nfork\nknife\n", "class id 4 is out of range", "0…3"),
    ):
        (own / "names.txt").write_text(text)
        refuses(*parts, own=own)
    (own / "names.txt").write_text("\n".join((*NAMES, "plate")))


@pytest.mark.parametrize(
    "header", ["name,r,g,b", "label:color_rgb:parts:actions", "Class; Red; Green; Blue", "\n# x\n"]
)
def test_a_table_of_colours_may_have_a_header_and_gaps(header: str, own: Path) -> None:
    paint(own / "labels")
    lines = [f"{name},{r},{g},{b}" for name, (r, g, b) in COLOURS.items()]
    (own / "names.txt").write_text("\n".join((header, *lines[:2], "", "# more", *lines[2:])))
    assert prepared(own).classes == ("spoon", "cup", "knife", "fork")


NAME = st.from_regex(r"[a-zäöü][a-zäöü \-]{0,8}[a-zäöü]", fullmatch=True).filter(
    lambda name: name not in legend.NOTHING + legend.NOBODY_KNOWS
)


@given(st.lists(NAME, min_size=1, max_size=8, unique=True), st.data())
def test_a_legend_is_read_in_every_tools_way(names: list[str], data: st.DataObject) -> None:
    channel = st.integers(0, 255)
    colour = st.tuples(channel, channel, channel).filter(any)
    colours = data.draw(st.lists(colour, min_size=len(names), max_size=len(names), unique=True))
    way = data.draw(st.sampled_from(["{}:{},{},{}::", "{} {} {} {}", "{}: {}, {}, {}", "{};{},{},{}"]))
    text = "\n".join(way.format(name, *c) for name, c in zip(names, colours, strict=True))

    class Written(type(Path())):  # a file in memory
        def is_file(self) -> bool:
            return True

        def read_text(self, *_: object) -> str:
            return text

    found = legend.read(Written("names.txt"))
    assert found.names == tuple(names)
    assert found.colours == {c: i for i, c in enumerate(colours, 1)} | {(0, 0, 0): 0}


def test_what_is_missing_is_said(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "names.txt").write_text("\n".join((*NAMES, "plate", "pot")))
    assert prepared(own, folds="cup,fork;knife,spoon,plate,pot").tested == ((1, 2), (3, 4))
    assert "in no label: plate, pot" in capsys.readouterr().out
    for i in range(12):  # three classes in a single image each
        label = np.zeros(SIZE, np.uint8)
        label[5:25, 5:25] = 1 if i < 9 else i - 7
        save(label, own / "labels" / f"a{i}.png")
    (own / "names.txt").write_text("\n".join(NAMES))
    shutil.rmtree(own.parent / "data")
    refuses("without cup, fork (fold 0) two classes must have two training images each, and none has", own=own)
    (own / "labels" / "a0.png").unlink()
    for i in range(1, 12):
        save(np.full(SIZE, i == 2, np.uint8), own / "labels" / f"a{i}.png")
    refuses("no class has two images for testing (found: cup 0, fork 0", "add labelled images", own=own)


def test_a_digest_is_of_what_the_files_hold(own: Path, tmp_path: Path) -> None:
    """Features and runs of other images are not taken for those of these, though names, sizes and counts agree."""
    first = prepared(own)
    assert prepared(own).digest == first.digest
    shutil.copytree(own, tmp_path / "moved" / "own")
    assert prepared(tmp_path / "moved" / "own").digest == first.digest
    was, file = [(e.id, e.pixels) for e in first.entries], own / "labels" / "a0.png"
    save(drawn(0)[:, ::-1].copy(), file)
    mirrored = prepared(own)
    assert [(e.id, e.pixels) for e in mirrored.entries] == was
    assert mirrored.digest != first.digest
    save(drawn(0), file)
    assert prepared(own).digest == first.digest
    shutil.copy(own / "images" / "a1.jpg", own / "images" / "a0.jpg")
    assert prepared(own).digest != first.digest


def test_a_digest_knows_what_colours_mean(own: Path) -> None:
    save(np.where(drawn(0) == 2, 1, np.where(drawn(0) == 1, 2, drawn(0))).astype(np.uint8), own / "labels" / "a0.png")
    paint(own / "labels")
    digests = set()
    for order in (("cup", "fork"), ("fork", "cup")):
        of = dict(zip(NAMES, (*order, "knife", "spoon"), strict=True)) | {"void": "void"}
        lines = [f"{name}:{','.join(map(str, COLOURS[other]))}" for name, other in of.items()]
        (own / "names.txt").write_text("\n".join(lines))
        digests.add(prepared(own).digest)
    assert len(digests) == 2


def test_specks_are_not_set_aside_for_testing(own: Path) -> None:
    """A class that shows in a few pixels of most images, and in four well: two of the four are to test."""
    for i in range(12):
        label = drawn(i)
        label[label == 4] = 0
        label[5:25, :15] = 4 * (i < 4)
        label[29, 3] = 4
        save(label, own / "labels" / f"a{i}.png")
    benchmark = prepared(own)
    assert [len(benchmark.images_of(4, split)) for split in ("train", "val")] == [2, 2]


def test_who_is_not_tested_and_why(own: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("DPNET_DATA", "")
    for i in range(2, 12):
        save(np.where(drawn(i) == 2, 0, drawn(i)).astype(np.uint8), own / "labels" / f"a{i}.png")
    parts = ["--images", str(own / "images"), "--labels", str(own / "labels"), "--classes", str(own / "names.txt")]
    folds = ["--folds", "cup,fork", "--root", str(own.parent / "data")]
    assert cli.main(["prepare", "folder", *parts, *folds]) == 0
    said = capsys.readouterr().out
    assert "since fewer than two of their images could be set aside for that: fork\n" in said
    assert "since --folds leaves them out: they are for training: knife, spoon\n" in said


# ---- names and places


def test_names_of_every_kind(own: Path) -> None:
    for i, name in enumerate(("Müller a0", "IMG (1) a1", "x.y.a2")):
        (own / "images" / f"a{i}.jpg").rename(own / "images" / f"{name}.JPG")
        (own / "labels" / f"a{i}.png").rename(own / "labels" / f"{unicodedata.normalize('NFD', name)}.png")
    (own / "labels" / "._a3.png").write_bytes(b"what a Mac leaves")
    (own / "images" / "__MACOSX").mkdir()
    (own / "images" / "__MACOSX" / "a3.jpg").write_bytes(b"")
    benchmark = prepared(own)
    assert len(benchmark.entries) == 12
    assert {"Müller a0", "IMG (1) a1", "x.y.a2"} < {entry.id for entry in benchmark.entries}
    is_as_drawn(benchmark)


def test_names_that_no_index_can_hold(own: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        os.rename(own / kind / f"a3.{suffix}", os.fsencode(own / kind) + b"/caf\xe9." + suffix.encode())
    refuses("caf\\udce9.png': rename it: its name is not UTF-8", own=own)


def test_folds_by_names_that_have_commas(own: Path) -> None:
    (own / "names.txt").write_text("cup, small\nfork\nknife\nspoon")
    assert prepared(own, folds="fork;knife,spoon").folds == ((2,), (3, 4))
    shutil.rmtree(own.parent / "data")
    refuses("the class 'cup, small' cannot be named", "write a number", own=own, folds="cup, small;fork")
    (own / "names.txt").write_text("\n".join(NAMES))
    refuses("folds='²': no class is called '²'", own=own, folds="²")


def test_images_and_labels_in_one_folder(own: Path) -> None:
    shutil.copytree(own / "labels", own / "images", dirs_exist_ok=True)
    is_as_drawn(prepared(own, labels=own / "images"))


def test_labels_in_folders_and_images_flat(own: Path) -> None:
    for i in range(12):
        (own / "labels" / f"part{i % 2}").mkdir(exist_ok=True)
        (own / "labels" / f"a{i}.png").rename(own / "labels" / f"part{i % 2}" / f"a{i}.png")
    benchmark = prepared(own)
    assert all(benchmark.path(e.image).stem == benchmark.path(e.label).stem for e in benchmark.entries)


def test_links_are_followed_once(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "there").symlink_to(own / "images")
    (own / "images" / "back").symlink_to(linked)
    is_as_drawn(prepared(own, images=linked))
    assert "left out" not in capsys.readouterr().out


def test_images_there_twice_are_said(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(own / "images" / "a1.jpg", own / "images" / "a7.jpg")
    prepared(own)
    assert "1 image(s) there twice (a7.jpg is a1.jpg)" in capsys.readouterr().out


@pytest.mark.parametrize("turn", [3, 6])
def test_photographs_stand_as_their_labels_do(turn: int, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A camera lies: it saves what it sees, and a note; annotation tools show it upright."""
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = np.asarray(Image.open(own / "images" / "a0.jpg"))
    for name in ("a0", "a1"):
        seen = np.asarray(Image.open(own / "images" / f"{name}.jpg"))
        lying = np.rot90(seen) if turn == 6 else seen[::-1, ::-1]
        save(np.ascontiguousarray(lying), own / "images" / f"{name}.jpg", exif=exif, quality=100, subsampling=0)
    # The second label was made by a program that ignores the note.
    if turn == 6:
        save(np.rot90(drawn(1)).copy(), own / "labels" / "a1.png")
    before = contents(own)
    benchmark = prepared(own)
    entries = {entry.id: entry for entry in benchmark.entries}
    found = benchmark.image(entries["a0"])
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 12  # two JPEGs of noise
    assert entries["a1"].size == (SIZE if turn == 3 else SIZE[::-1])
    assert contents(own) == before
    assert f"{1 if turn == 6 else 2} photographs were turned upright" in capsys.readouterr().out


def test_thousands_of_files_are_paired_at_once(tmp_path: Path) -> None:
    """No comparison of all with all: a set, or a dictionary, for each question."""
    for kind, suffix in (("i", "jpg"), ("l", "png")):
        (tmp_path / kind).mkdir()
        for number in range(3000):
            (tmp_path / kind / f"{number}.{suffix}").write_bytes(b"%d" % number)
    found = pairing.items(tmp_path / "i", tmp_path / "l")
    assert len(found) == 3000
    assert all(re.fullmatch(rf".*/i/{name}\.jpg", image.as_posix()) for name, _, image, _ in found)
