"""Small data sets in every form, written by the tests, and what a refusal looks like."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpnet.data import custom, forms
from dpnet.io import DPNetError

SIZE = 40, 50  # height, width: a class counts from 2048 * (50 / 500)² = 20.48 pixels
NAMES = ("cup", "fork", "knife", "spoon")
COLOURS = {1: (128, 0, 0), 2: (0, 128, 0), 3: (0, 0, 128), 4: (7, 8, 9), 255: (224, 224, 192), 0: (0, 0, 0)}
VOC = "VOCdevkit/VOC2012"
TRAIN, VAL = ("2007_000001", "2007_000002", "2008_000003"), ("2007_000004", "2008_000005")


def fails(*parts, call):
    """The call raises one line that names each of `parts`."""
    with pytest.raises(DPNetError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert str(part) in line
    return line


def prepare_folder(photos, labels, names, data, folds="", lists=None, size=241):
    """`dpnet prepare folder` of label PNGs."""
    return custom.prepare(forms.of_pngs(photos, labels, names, data / "folder", lists), data / "folder", folds, size)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def save(array, file, **how):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **how)


def save_noted(array, file, note, **how):
    """With an EXIF note of how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = note
    save(np.ascontiguousarray(array), file, exif=exif, **how)


def photo(number, size=SIZE):
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def drawn(number, size=SIZE):
    """A label: a bar of each of four classes, and a line of void."""
    label = np.zeros(size, np.uint8)
    for value in range(1, 5):
        label[3:-3, 9 * value - 5 : 9 * value] = value
    label[0] = 255
    return np.roll(label, number, 1)


def coloured(label):
    table = np.zeros((256, 3), np.uint8)
    for value, colour in COLOURS.items():
        table[value] = colour
    return table[label]


def labelmap(in_order=False):
    """CVAT's, in the order of the ids or in another."""
    listed = {"background": 0, **{name: i for i, name in enumerate(NAMES, 1)}, "void": 255}
    ordered = listed.items() if in_order else sorted(listed.items(), reverse=True)
    lines = [f"{name}:{','.join(map(str, COLOURS[value]))}::" for name, value in ordered]
    return "\n".join(["# label:color_rgb:parts:actions", *lines, ""])


def make_own(where, labels=None, names=NAMES):
    """Form a: photographs, label PNGs and a list of names."""
    labels = [drawn(i) for i in range(12)] if labels is None else labels
    for i, label in enumerate(labels):
        save(photo(i, label.shape), where / "images" / f"a{i}.jpg")
        save(label, where / "labels" / f"a{i}.png")
    (where / "names.txt").write_text("\n".join(names))
    return where


def make_own_voc(where, labels=None, cvat=False):
    """Form b: VOC's layout, with lists; labelme2voc's ids, or CVAT's colours."""
    labels = [drawn(i) for i in range(12)] if labels is None else labels
    for i, label in enumerate(labels):
        save(photo(i, label.shape), where / "JPEGImages" / f"a{i}.jpg")
        save(coloured(label) if cvat else label, where / "SegmentationClass" / f"a{i}.png")
    names = ("labelmap.txt", labelmap()) if cvat else ("class_names.txt", "_background_\n" + "\n".join(NAMES))
    (where / names[0]).write_text(names[1])
    lists = where / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, ids in (("train", range(0, len(labels), 2)), ("val", range(1, len(labels), 2))):
        (lists / f"{split}.txt").write_text("".join(f"a{i}\n" for i in ids))
    return where


def change_json(file, how):
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


def runs(inside):
    """COCO's uncompressed run lengths, which go down the columns and begin with zeros."""
    flat = inside.ravel(order="F").astype(int)
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    return {"counts": [0] * int(flat[0]) + [int(n) for n in np.diff(ends)], "size": list(inside.shape)}


def make_own_coco(where, labels=None, file="instances.json", numbers=None):
    """Form c: an instances file beside its photographs; the ids of categories have gaps."""
    labels = [drawn(i) for i in range(12)] if labels is None else labels
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 10 * i, "name": name} for i, name in enumerate(NAMES, 1)][::-1]
    for i, label in zip(numbers or range(len(labels)), labels, strict=True):
        save(photo(i, label.shape), where / f"a{i}.jpg")
        content["images"].append(
            {"id": i, "file_name": f"a{i}.jpg", "height": label.shape[0], "width": label.shape[1]}
        )
        for value in np.unique(label[label > 0]).tolist():
            one = {"id": len(content["annotations"]) + 1000 * i, "image_id": i, "iscrowd": int(value == 255)}
            one |= {"category_id": 10 if value == 255 else 10 * value, "segmentation": runs(label == value)}
            content["annotations"].append(one)
    (where / file).write_text(json.dumps(content))
    return where / file


def save_pair(photos, masks, name, seed=0, labels=(0, 1, 7, 20, 255)):
    save(photo(seed), photos / f"{name}.jpg")
    mask = Image.fromarray(np.random.default_rng(seed).choice(np.array(labels, dtype=np.uint8), SIZE))
    mask.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
    masks.mkdir(parents=True, exist_ok=True)
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


def labelme(file, shapes, size=SIZE, **more):
    """A LabelMe file: (label, kind, points) of each shape."""
    listed = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    about = {"version": "5.4.1", "imageHeight": size[0], "imageWidth": size[1], "shapes": listed}
    Path(file).write_text(json.dumps(about | more))
    return Path(file)
