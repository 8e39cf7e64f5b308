"""From a few labelled pictures to a labelled folder: VOC's layout, COCO's JSON, a table, and a contact sheet."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dpnet.data import checks, forms, images, index
from dpnet.data.index import Benchmark, Entry
from dpnet.io import DPNetError, to_json, write
from dpnet.predict import Segmenter

LABELS, CONFIDENCE = "SegmentationClass", "confidence"


class Labelled(NamedTuple):
    """A photograph and its label."""

    entry: Entry
    confidence: dict[int, float]  # mean probability of each class where the label has it
    shapes: list[dict[str, Any]]  # an annotation of COCO for each class, without ids of it and of the image


def label(photographs: Path, supports: Path, out: Path, segmenter: Segmenter, threshold: float) -> pandas.DataFrame:
    """Label each photograph of a folder with the most probable class, where that is over the threshold, else 0.

    `supports` is own data (`forms.supports`). Killed and started again, it goes on.

    Returns:
        A row per class: class, images that show it, share of area, mean confidence.
    """
    files, pairs = forms.photographs(photographs), forms.supports(supports)
    for of_class in pairs.values():
        segmenter.support([image for image, _ in of_class], [mask for _, mask in of_class])
    names = tuple(pairs)
    _need_same(out / "settings.json", photographs.resolve(), segmenter, pairs, threshold)

    def one(item: tuple[str, Path]) -> Labelled:
        file = out / LABELS / f"{item[0]}.png"
        if not file.exists():
            write(file, _packed(*segmenter.segment(item[1], threshold)), "--out")
        return _read(*item, file)

    done = index.in_threads(one, list(files.items()), f"labelling with {len(names)} class(es)")
    _write_lists(out, photographs, names, list(files))
    write(out / "instances.json", to_json(_instances(done, names, photographs)), "--out")
    every = Benchmark("labels", out, names, (), (), tuple(one.entry for one in done))
    write(out / "contact_sheet.png", images.png(checks.contact_sheet(every)), "--out")
    table = _table(done, names)
    write(out / "table.csv", table.to_csv(index=False, lineterminator="\n").encode(), "--out")
    return table


def _need_same(file: Path, photographs: Path, segmenter: Segmenter, pairs: dict[str, Any], threshold: float) -> None:
    """Note what labels depend on; DPNetError where those that are there came from something else."""
    if file.resolve().is_relative_to(photographs):  # else its own output would be labelled
        raise DPNetError(f"{file.parent}: lies in the folder of the photographs: choose another with --out")
    settings = segmenter.size, segmenter.beta, segmenter.scales, threshold, [*pairs]
    whole = hashlib.sha256(repr((str(photographs), settings)).encode())
    arrays = [array for of_class in pairs.values() for pair in of_class for array in pair]
    for array in (*arrays, *(value.numpy() for value in segmenter.model.head.state_dict().values())):
        whole.update(array.tobytes())
    noted = to_json({"classes": [*pairs], "threshold": threshold, "digest": whole.hexdigest()})
    if file.read_bytes() != noted if file.exists() else (file.parent / LABELS).exists():
        why = "its labels are of other photographs or supports, or were made with another head or threshold"
        raise DPNetError(f"{file.parent}: {why}: choose another folder with --out")
    write(file, noted, "--out")


def _packed(mask: np.ndarray, probability: np.ndarray) -> bytes:
    """A label as a palette PNG, with the mean probability of each class as a note in it."""
    means = {c: round(float(probability[mask == c].mean()), 4) for c in index.count(mask)}
    note = PngInfo()
    note.add_text(CONFIDENCE, json.dumps(means))
    return index.png(mask, pnginfo=note)


def _read(key: str, photograph: Path, file: Path) -> Labelled:
    from pycocotools import mask as coco

    with Image.open(file) as stored:
        label, note = np.array(stored), json.loads(stored.info.get(CONFIDENCE, "{}"))
    shapes, pixels = [], index.count(label)
    for c in pixels:
        runs = coco.encode(np.asfortranarray(label == c, np.uint8))
        box = [float(x) for x in coco.toBbox(runs)]
        runs = {"size": list(label.shape), "counts": runs["counts"].decode()}
        shapes.append({"category_id": c, "segmentation": runs, "area": pixels[c], "bbox": box, "iscrowd": 0})
    entry = Entry(key, "val", str(photograph.absolute()), str(file.absolute()), label.shape, pixels)
    return Labelled(entry, {int(c): mean for c, mean in note.items()}, shapes)


def _instances(done: Sequence[Labelled], names: Sequence[str], photographs: Path) -> dict[str, Any]:
    """COCO's instances of all labels; file names are those below the folder of the photographs."""
    listed: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    for number, (entry, _, of_image) in enumerate(done, 1):
        name, (height, width) = Path(entry.image).relative_to(photographs.absolute()), entry.size
        listed.append({"id": number, "file_name": name.as_posix(), "height": height, "width": width})
        shapes += [{**shape, "image_id": number, "id": i} for i, shape in enumerate(of_image, len(shapes) + 1)]
    categories = [{"id": c, "name": name} for c, name in enumerate(names, 1)]
    return {"images": listed, "annotations": shapes, "categories": categories}


def _write_lists(out: Path, photographs: Path, names: Sequence[str], keys: Sequence[str]) -> None:
    """What VOC's layout has beside the labels, as CVAT reads it: colours, a list, and a link to the photographs."""
    colours = np.reshape(images.voc_colours(), (-1, 3)).tolist()
    lines = [f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in zip(("background", *names), colours, strict=False)]
    write(out / "labelmap.txt", "".join(["# label:color_rgb:parts:actions\n", *lines]).encode(), "--out")
    write(out / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{key}\n" for key in keys).encode(), "--out")
    if not (link := out / "JPEGImages").is_symlink():
        link.symlink_to(photographs.absolute(), target_is_directory=True)


def _table(done: Sequence[Labelled], names: Sequence[str]) -> pandas.DataFrame:
    rows, total = [], sum(one.entry.size[0] * one.entry.size[1] for one in done)
    for c, name in enumerate(names, 1):
        areas = [one.entry.pixels.get(c, 0) for one in done]
        summed = sum(area * one.confidence.get(c, np.nan) for area, one in zip(areas, done, strict=True) if area)
        mean = summed / sum(areas) if any(areas) else np.nan
        rows.append((name, sum(map(bool, areas)), round(sum(areas) / total, 4), round(mean, 3)))
    return pandas.DataFrame(rows, columns=["class", "images", "share of area", "mean confidence"])
