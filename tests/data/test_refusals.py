"""Bad input, files and arrays: one line each, exit code 1, and no index, or the old one."""

import os
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from samples import (
    SIZE,
    change_json,
    coloured,
    drawn,
    fails,
    labelmap,
    labelme,
    make_own,
    make_own_coco,
    make_own_voc,
    photo,
    save,
    save_noted,
)

from dpnet import cli
from dpnet.data.images import mask, photograph

SQUARE = np.zeros(SIZE, np.uint8)
SQUARE[10:30, 15:40] = 1

# What is wrong with a class list; with a part of what is said, if it is not that a line is no name alone.
LISTS = {
    "Roboflow's table": "Pixel Value, Class\n0, background\n1, cup\n",
    "id and name": "id,name\n1,cup\n2,fork\n3,knife\n",
    "tabs": "cup\t1\nfork\t2\nknife\t3\n",
    "quotes": '"cup"\n"fork"\n"knife"\n',
    "hex colours": "cup #ff0000\nfork #00ff00\nknife #0000ff\n",
    "a title": "name\ncup\nfork\nknife\nspoon\n",
    "JSON": '[\n  "cup",\n  "fork"\n]',
    "YOLO's YAML": "path: ../data\nnames:\n  0: cup\n",
    "dashes": "- cup\n- fork\n- knife\n- spoon\n",
    "all in one line": "cup, fork, knife, spoon",
    "numbers": "1 cup\n2 fork\n3 knife\n",
    "Supervisely's colours": "cup 128 0 0\nfork 0 128 0\nknife 0 0 128\n",
    "indented": ("cup\n fork\nknife\n", "line 2, ' fork', is not"),
    "an empty line": ("cup\n\nfork\nknife\nspoon", "line 2, '', is not"),
    "a comment": ("cup\nfork\n# knives\nknife", "line 3, '# knives', is not"),
    "a background": ("background\ncup\nfork\nknife\nspoon", "line 1, 'background', is not"),
    "a void": ("cup\nfork\nknife\nspoon\nvoid\n", "line 5, 'void', is not"),
    "twice": ("Cup\ncup\nfork\nknife\n", "'cup' stands there twice"),
    "empty": ("\n", "0 class names"),
    "two": ("cup\nfork\n", "give 3 to 254"),
    "too few": ("cup\nfork\nknife\n", "ids 4 are out of range: a mask holds 0…3"),
    "one without colour": ("cup:1,2,3::\nfork\nknife:4,5,6::", "'fork': write each line as CVAT does"),
    "colours twice": ("cup:1,2,3::\nfork:1,2,3::\nknife:4,5,6::", "in its own colour"),
    "no such colour": ("cup:1,2,3::\nfork:1,2,333::\nknife:4,5,6::", "'fork:1,2,333::'"),
}


def each_label(change):
    return lambda own: [save(change(np.array(Image.open(file))), file) for file in (own / "labels").iterdir()]


def to_palette(colours, change=lambda ids: ids):
    def spoil(own):
        for file in (own / "labels").iterdir():
            image = Image.fromarray(change(np.array(Image.open(file))))
            image.putpalette([channel for colour in colours for channel in colour])
            image.save(file)

    return spoil


def quantised(own):
    for file in (own / "labels").iterdir():
        Image.fromarray(coloured(np.array(Image.open(file)))).quantize(8).save(file)


def recoloured(own):  # as a tool that quantises each file by itself: no number has one colour
    for i in range(12):
        image = Image.fromarray(drawn(i) % 5)
        tones = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
        image.putpalette([v for colour in [(0, 0, 0), *tones[i % 2 :], *tones[: i % 2]] for v in colour])
        image.save(own / f"labels/a{i}.png")


def renamed(how, folder="labels"):
    def spoil(own):
        for file in sorted((own / folder).iterdir()):
            target = file.parent / how(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)

    return spoil


def linked(own):
    for file in (own / "images").iterdir():
        file.unlink()
        file.symlink_to(f"/nowhere/{file.name}")


def rewrite(own, label):
    for i in range(12):
        save(label(i).astype(np.uint8), own / f"labels/a{i}.png")


def two_bits(own):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + bytes([0b00011011] * 13) for _ in range(40)))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 50, 40, 2, 0, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (own / "labels/a0.png").write_bytes(whole)


def cut(name):
    return lambda own: (own / name).write_bytes((own / name).read_bytes()[:600])


def turned(own):  # photographs lie, and whoever made the labels ignored the EXIF note
    for file in (own / "images").iterdir():
        save_noted(np.array(Image.open(file)), file, 6)


# What is wrong with images and labels.
FILES = {
    "renumbered palette": (quantised, "a tool renumbered it"),
    "black is not 0": (to_palette([(5, 5, 5)] * 256), "but 0 is the background, and black"),
    "ids as greys": (to_palette([(i,) * 3 for i in (0, 2, 4, 3, 1)], lambda ids: ids % 255), "is the colour of 2"),
    "a palette in each file": (recoloured, "a tool renumbered the palette"),
    "colours without a map": (each_label(coloured), "is RGB, and a label is an 8-bit grey or palette PNG"),
    "16 bits": (each_label(lambda ids: ids.astype(np.uint16)), "is I;16"),
    "2 bits": (two_bits, "is grey with 2 bits"),
    "transparent": (each_label(lambda ids: np.dstack([ids, ids, ids, ids])), "is RGBA"),
    "white on black": (
        each_label(lambda ids: np.where(ids > 0, 255, 0).astype("u1")),
        "only 0, the background, or 255",
    ),
    "too large": (each_label(lambda ids: np.where(ids == 4, 70, ids).astype("u1")), "ids 70 are out of range"),
    "another size": (each_label(lambda ids: ids[1:]), "the mask is 50x39, its image"),
    "EXIF ignored": (turned, "40x50 as a viewer shows it"),
    "JPEG labels": (renamed(lambda file: f"{file.stem}.jpg"), "0 label PNGs"),
    "other names": (renamed(lambda file: f"{file.stem}_mask.png"), "a0_mask.png: no image of this name"),
    "train and test": (renamed(lambda f: f"{'train' if f.stem < 'a5' else 'test'}/{f.name}"), "in test, train"),
    "only train": (renamed(lambda file: f"train/{file.name}"), "labels lie in train:"),
    "beside train": (renamed(lambda file: f"train/{file.name}" if file.stem < "a5" else file.name), "no sub-folder"),
    "Train and Val": (
        renamed(lambda f: f"{'Train' if f.stem < 'a5' else 'Val'}/{f.name}"),
        "labels lie in Train, Val",
    ),
    "training": (renamed(lambda file: f"training/{file.name}"), "put all into sub-folders train and val"),
    "dangling links": (linked, "a0.jpg: no such file, or a link that leads nowhere"),
    "HEIC": (renamed(lambda file: f"{file.stem}.heic", "images"), "0 images"),
    "two of a name": (lambda own: shutil.copy(own / "images/a1.jpg", own / "images/a1.png"), "has the same name"),
    "torn image": (cut("images/a3.jpg"), "a3.jpg: cannot be decoded"),
    "LFS pointer": (lambda own: (own / "images/a3.jpg").write_text("version https://git-lfs"), "not an image"),
    "huge label": (lambda own: Image.new("1", (20000, 12000)).save(own / "labels/a3.png"), "178 million"),
    "float image": (lambda own: Image.new("F", SIZE[::-1]).save(own / "images/a3.jpg", "TIFF"), "floating-point"),
    "no names": (lambda own: (own / "names.txt").unlink(), "names.txt: no list of names ([Errno 2]"),
    "names in a table": (lambda own: (own / "names.txt").rename(own / "names.csv"), "no list of names (a .csv file)"),
    "UTF-16 names": (lambda own: (own / "names.txt").write_bytes("cup\n".encode("utf-16")), "names ('utf-8' codec"),
    "odd name": (lambda own: os.rename(own / "images/a3.jpg", os.fsencode(own) + b"/images/\xe9.jpg"), "not UTF-8"),
    "a file": (lambda own: (own / "labels").rename(own / "x") and (own / "labels").write_text(""), "not a folder"),
    "one test image": (lambda own: rewrite(own, lambda i: np.full(SIZE, i == 2)), "images (train+val: cup 1+0"),
    "one class": (lambda own: rewrite(own, lambda i: SQUARE * (1 if i < 9 else i - 7)), "two training images each"),
}


def annotation(**change):
    return lambda file: change_json(file, lambda content: content["annotations"][0].update(change))


def text(old, new):
    return lambda file: file.write_text(file.read_text().replace(old, new, 1))


# What is wrong with an instances file.
COCO = {
    "half": (lambda file: file.write_text(file.read_text()[:99]), "no COCO instances file, or corrupt (JSON"),
    "a list": (lambda file: file.write_text("[]"), "no COCO instances file"),
    "no images": (lambda file: file.write_text('{"annotations": [], "categories": []}'), "no image with objects"),
    "flat list": (annotation(segmentation=[1, 2, 3, 4, 5, 6]), "annotation 0: a segmentation is a list of polygons"),
    "no numbers": (annotation(segmentation=[[None] * 6]), "corrupt (TypeError"),
    "fractions": (
        lambda file: file.write_text(re.sub(r'\{"counts.*?\}', "[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]", file.read_text())),
        "polygons in fractions of the size",
    ),
    "leads elsewhere": (text("a3.jpg", "../coco/a3.jpg"), "../coco/a3.jpg: name photographs as they lie"),
    "far outside": (annotation(segmentation=[[1e9, 2, 3, 1e9, 5, 5]]), "far outside"),
    "another image's": (annotation(segmentation={"counts": [2000], "size": [50, 40]}), "run lengths of another size"),
    "too short": (annotation(segmentation={"counts": [5, 20], "size": [40, 50]}), "run lengths of another size"),
    "unknown image": (annotation(image_id=77), "image 77, or a category of its objects, is not listed"),
    "unknown category": (annotation(category_id=7), "image 0, or a category of its objects, is not listed"),
    "category twice": (text('"fork"', '"cup"'), "'cup' stands there twice"),
    "photograph missing": (lambda file: (file.parent / "a3.jpg").unlink(), "names it: give the photographs' folder"),
    "photograph of another size": (lambda file: save(photo(0)[1:], file.parent / "a3.jpg"), "the mask is 50x40"),
    "name twice": (text("a3.jpg", "a4.jpg"), "a4.jpg stands there"),
}


def lists_of(**files):
    def spoil(voc):
        for split, content in files.items():
            file = voc / f"ImageSets/Segmentation/{split}.txt"
            file.unlink() if content is None else file.write_text(content)

    return spoil


def with_other_map(voc):
    (voc / "class_names.txt").rename(voc / "labelmap.txt").write_text("cup:1,2,3::\nfork:4,5,6::\nx:7,7,7::")
    save(coloured(drawn(0)), voc / "SegmentationClass/a0.png")


# What is wrong with a folder in VOC's layout.
VOC = {
    "no train.txt": (lists_of(train=None), "train.txt: no text with a name"),
    "empty val.txt": (lists_of(val="\n"), "val.txt: no text with a name"),
    "in both": (lists_of(val="a1\na2\n"), "val.txt: 'a2' has no label of its name, or is in train.txt too"),
    "CVAT's subsets": (
        lambda voc: [f.rename(f.with_stem(f.stem.title())) for f in (voc / "ImageSets/Segmentation").iterdir()],
        "Segmentation: holds Train, Val: name the lists train.txt and val.txt",
    ),
    "suffixes in lists": (lists_of(val="a1.jpg\n"), "'a1.jpg' has no label of its name"),
    "no such image": (lists_of(val="a1\nzebra\n"), "'zebra' has no label"),
    "boxes": (
        lambda voc: (voc / "SegmentationClass").rename(voc / "Annotations"),
        "holds Annotations, ImageSets, JPEGImages, class_names.txt; expected JPEGImages, SegmentationClass (label",
    ),
    "no class list": (lambda voc: (voc / "class_names.txt").unlink(), "and one class list: labelmap.txt (CVAT) or"),
    "two class lists": (lambda voc: (voc / "labelmap.txt").write_text(labelmap()), "labelmap.txt; expected"),
    "colours not in the map": (with_other_map, "colour(s) that the class list lacks"),
}

FORM_A = ["--images", "own/images", "--labels", "own/labels", "--classes", "own/names.txt"]
MORE = {
    "no folder": (["--images", "nowhere", *FORM_A[2:]], "nowhere: no such folder"),
    "nothing": ([], "more is needed: dpnet prepare folder"),
    "half of it": (["--labels", "own/labels"], "more is needed"),
    "two forms": (["--voc", "own", "--coco", "own"], "--voc and --coco are given"),
    "no VOC": (["--voc", "own"], "holds images, labels, names.txt; expected JPEGImages"),
    "images alone": (["--voc", "own/images"], "a3.jpg, a4.jpg, a5.jpg; expected JPEGImages"),
    "no JSON": (["--coco", "own/no.json"], "own/no.json: no COCO instances file"),
    "too many folds": ([*FORM_A, "--folds", "9"], "2 to 4"),
    "folds of nobody": ([*FORM_A, "--folds", "cup,pot;fork"], "folds='cup,pot;fork'"),
    "a fold twice": ([*FORM_A, "--folds", "cup,cup;fork"], "each once"),
}


GROUPS = {"list": LISTS, "files": FILES, "coco": COCO, "voc": VOC, "more": MORE}


@pytest.mark.parametrize(("group", "kind"), [(group, kind) for group in GROUPS for kind in GROUPS[group]])
def test_a_bad_data_set_gives_one_line(group, kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = make_own(tmp_path / "own")
    arguments = list(FORM_A)
    assert cli.main(["prepare", "folder", *arguments, "--root", "data"]) == 0
    capsys.readouterr()
    before = (tmp_path / "data/folder/index.json").read_bytes()
    bad = GROUPS[group][kind]
    spoil, part = (bad, "is not a class name alone") if isinstance(bad, str) else bad
    if group == "list":
        (own / "names.txt").write_text(spoil)
    elif group == "more":
        arguments = spoil
    elif group == "files":
        spoil(own)
        arguments[-1] = next(own.glob("names.*"), arguments[-1])
    elif group == "coco":
        spoil(file := make_own_coco(tmp_path / "coco"))
        arguments = ["--coco", file]
    else:
        spoil(voc := make_own_voc(tmp_path / "voc"))
        arguments = ["--voc", voc]
    assert cli.main(["prepare", "folder", *map(str, arguments), "--root", "data"]) == 1
    out, line = capsys.readouterr()
    assert line.count("\n") == 1, line
    assert part in line
    assert "Traceback" not in out + line
    file = tmp_path / "data/folder/index.json"
    assert not file.exists() or file.read_bytes() == before


def bad_masks(tmp_path):
    corner = [[1, 1], [9, 1], [9, 9]]

    def drawn_as(kind, points=corner, **more):
        return labelme(tmp_path / f"{kind}{len(list(tmp_path.iterdir()))}.json", [("cup", kind, points)], **more)

    renumbered = Image.fromarray(1 - SQUARE).convert("P")
    renumbered.putpalette([200, 10, 10, 0, 0, 0])
    voc = Image.fromarray(SQUARE * 2)
    voc.putpalette([0, 0, 0, 0, 128, 0, 128, 0, 0])
    ramp = Image.fromarray(np.kron(np.arange(4, dtype=np.uint8), np.ones((40, 13), np.uint8))[:, :50])
    ramp.putpalette([v for i in range(4) for v in [85 * i] * 3])
    torn = tmp_path / "torn.png"
    save(SQUARE * 255, torn)
    torn.write_bytes(torn.read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "not.json").write_text("{")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "link.png").symlink_to("/nowhere/m.png")
    two = SQUARE * 255
    two[30:36, 2:12] = 150
    return {
        "other size": (SQUARE[1:], "50 x 39 pixels, but its support has 50 x 40"),
        "empty": (SQUARE * 0, "no foreground"),
        "colours": (np.dstack([SQUARE, SQUARE * 2, SQUARE * 3]), "has colours"),
        "black moved": (renumbered, "0 as (200, 10, 10)"),
        "VOC renumbered": (voc, "2 as (128, 0, 0), which is the colour of 1"),
        "grey ramp": (ramp, "1 as (85, 85, 85), which is the colour of 85"),
        "void or white": (two, "255 beside 150"),
        "four axes": (np.zeros((1, *SIZE, 3)), "shape (1, 40, 50, 3)"),
        "negative": (SQUARE.astype(int) - 1, "values from -1 to 0"),
        "floats to 255": (
            SQUARE * 255.0,
            "float64 values from 0 to 255: give whole numbers from 0 to 255, or floats",
        ),
        "infinite": (np.where(SQUARE, np.inf, 0), "values from 0 to inf"),
        "not a number": (np.where(SQUARE, np.nan, 0), "values from nan"),
        "complex": (SQUARE * 1j, "ndarray: give a path"),
        "None": (None, "NoneType: give a path"),
        "text array": (np.array([["a"]]), "give a path"),
        "no file": (tmp_path / "no.png", "no such file"),
        "dangling link": (tmp_path / "link.png", "no such file, or a link that leads nowhere"),
        "torn": (torn, "cannot be decoded"),
        "no image": (tmp_path / "text.png", "not an image"),
        "no JSON file": (tmp_path / "no.json", "No such file"),
        "torn JSON": (tmp_path / "not.json", "no LabelMe file"),
        "other JSON": (tmp_path / "other.json", "no LabelMe file"),
        "linestrip": (drawn_as("linestrip"), "has a 'linestrip'"),
        "points": (drawn_as("points"), "has a 'points'"),
        "AI mask": (drawn_as("mask"), "has a 'mask'"),
        "two corners": (drawn_as("polygon", corner[:2]), "'polygon' of 2 points"),
        "one corner": (drawn_as("rectangle", corner[:1]), "'rectangle' of 1 points"),
        "far": (drawn_as("polygon", [[500, 500], [600, 500], [600, 600]]), "no foreground"),
        "very far": (drawn_as("polygon", [[1e300, 5], [6, 5], [6, 6]]), "far outside"),
        "other shape": (drawn_as("polygon", imageWidth=400), "400 x 40 pixels"),
    }


def test_each_bad_mask_gives_one_line(tmp_path):
    for source, part in bad_masks(tmp_path).values():
        line = fails(part, call=lambda source=source: mask(source, SIZE[::-1], name="mask 3"))
        assert (str(source) if hasattr(source, "exists") else "mask 3: ") in line


BAD_PHOTOGRAPHS = [
    (torch.randn(3, 40, 50), "values from -"),
    (np.zeros((40, 50, 2)), "shape (40, 50, 2)"),
    (np.zeros((0, 50)), "shape (0, 50)"),
    (np.full(SIZE, 70000), "values from 70000"),
    (Image.new("F", SIZE[::-1]), "floating-point"),
    (3, "shape ()"),
]


def test_each_bad_photograph_gives_one_line():
    for source, part in BAD_PHOTOGRAPHS:
        fails("support 2: ", part, call=lambda source=source: photograph(source, "support 2"))
