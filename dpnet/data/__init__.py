"""Benchmarks: what fills the common layout, and the way to a prepared one by its name."""

import hashlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dpnet import io
from dpnet.config import Recipe
from dpnet.data import coco, index, pascal, shapes
from dpnet.data.custom import prepare_folder
from dpnet.data.index import INDEX, Benchmark, Entry, in_processes, png
from dpnet.data.pairing import voc_parts
from dpnet.io import DPNetError, progress

if TYPE_CHECKING:
    import pandas

__all__ = [
    "NAMES",
    "Benchmark",
    "Entry",
    "Recipe",
    "check",
    "known",
    "load",
    "prepare",
    "prepare_folder",
    "voc_parts",
]

NAMES = ("shapes", "pascal", "pascal-mini", "coco", "folder")
DEFAULT = Recipe()
OWN = "python -m dpnet prepare folder --voc DIR (or --images DIR --labels DIR --classes FILE)"
CHUNK = 20  # images per task: a second of rendering
SPLITS = ("train", "val")
KNOWN = Path(__file__).with_name("known.csv")
FOLDS = index.split_folds(len(shapes.CLASSES))  # of shapes


def _noted(name: str, recipe: Recipe) -> dict[str, Any] | None:
    # The part of the recipe that makes this benchmark what it is; None: whatever was prepared.
    if name not in NAMES:
        raise DPNetError(f"unknown benchmark {name!r}: known are {', '.join(NAMES)}")
    if name == "shapes":
        keys = ("size", "train", "val", "seed")
        drawn = {key: getattr(recipe, key) for key in keys} | {"diversity": float(recipe.diversity)}
        return {"version": shapes.RECIPE_VERSION, **drawn}
    if name == "coco":
        return {"version": coco.VERSION}
    return {"pascal": {"images": recipe.images}, "pascal-mini": {}, "folder": None}[name]


def _home() -> Path:
    project = Path(__file__).parents[2]
    return project if (project / "pyproject.toml").is_file() else Path.cwd()


def _places(name: str, data: Path, recipe: Recipe) -> list[Path]:
    # Where the index may be, best first.
    if name == "shapes":
        what = f"{recipe.size}px-d{recipe.diversity:g}-{recipe.train}+{recipe.val}-s{recipe.seed}"
        return [data / name / f"v{shapes.RECIPE_VERSION}-{what}"]
    if name == "folder":
        return [data / name]
    # The second is for a copy of VOC or COCO that is read-only, or somebody else's.
    mark = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]
    return [data / name, _home() / "data" / f"{name}-{mark}"]


def _found(places: list[Path], noted: dict[str, Any] | None) -> Benchmark | None:
    present = (index.read(place) for place in places if (place / INDEX).exists())
    return next((found for found in present if noted is None or found.recipe == noted), None)


def prepare(
    name: str, data: Path, recipe: Recipe = DEFAULT, workers: int | None = None, fetch: bool | None = None
) -> Benchmark:
    """Make a benchmark ready; returns at once if it is.

    Arguments:
        name: one of `NAMES`.
        data: the data folder; for "pascal" and "pascal-mini" the user's copy of VOC 2012, for "coco" that of
            COCO 2014. The index of a copy that cannot be written is kept in the project's own data folder.
        recipe: what the benchmark consists of.
        workers: processes that render "shapes" or make masks; one per core if None. The result does not
            depend on it.
        fetch: what to do where parts of VOC or COCO are absent: True fetches them, gigabytes; False unpacks
            archives that lie in `data` and never uses the network; None takes the copy as it is.

    Returns:
        the benchmark.

    Raises:
        DPNetError: the name is unknown, data is missing or bad, or nothing can be written.
    """
    data = Path(data).expanduser()
    noted, places = _noted(name, recipe), _places(name, data, recipe)
    found = _found(places, noted)
    if found is not None:
        return found
    if noted is None:
        raise DPNetError(f"{places[0] / INDEX}: missing: your own images need {OWN} --root {data}")
    if name != "shapes":
        if fetch is not None:
            _complete(name, data, recipe, offline=not fetch, workers=workers)
        (coco if name == "coco" else pascal).source(data)
    root = next((place for place in places if index.writable(place)), places[-1])
    index.need_writable(root)
    try:
        with io.file_lock(root / ".held", f"preparing {name}", index.WHERE):
            found = _found(places, noted)  # by another process, meanwhile?
            if found is not None:
                return found
            if name == "shapes":
                return _prepare_shapes(root, recipe, noted, workers)
            if name == "coco":
                return coco.prepare(data, root, noted, workers)
            return pascal.prepare(name, data, root, recipe.images, noted)
    finally:
        with suppress(OSError):  # of a folder that is not empty
            root.rmdir()


def _complete(name: str, data: Path, recipe: Recipe, offline: bool, workers: int | None) -> None:
    from dpnet.data import download

    if name == "coco":
        download.complete_coco(data, offline)
    else:
        # The ids of pascal-mini come with this package.
        download.complete_voc(data, recipe.images if name == "pascal" else None, offline, workers)


def load(name: str, data: Path, recipe: Recipe = DEFAULT) -> Benchmark:
    """Read a benchmark that is ready.

    Arguments:
        name: one of `NAMES`.
        data: the data folder that was given to `prepare`.
        recipe: the recipe that was given to `prepare`.

    Returns:
        the benchmark.

    Raises:
        DPNetError: it is not prepared, or from another recipe.
    """
    data = Path(data).expanduser()
    noted, places = _noted(name, recipe), _places(name, data, recipe)
    found = _found(places, noted)
    if found is None:
        there = any((place / INDEX).exists() for place in places)
        why = f"prepared from another recipe than {noted}" if there else "missing"
        usage = OWN if noted is None else f"python -m dpnet prepare {name}"
        raise DPNetError(f"{places[0] / INDEX}: {why}: prepare it: {usage} --root {data}")
    return found


def check(benchmark: Benchmark) -> "pandas.DataFrame":
    """Decode every file again and compare it with the index.

    Arguments:
        benchmark: the benchmark.

    Returns:
        one row per class: fold (in which it is novel), id, class, tested, and its images in train and val.

    Raises:
        DPNetError: a file is bad or no longer what the index says; names the first.
    """
    import pandas

    listed = [(e.id, e.split, benchmark.path(e.image), benchmark.path(e.label)) for e in benchmark.entries]
    again = index.scan(benchmark.root, listed, len(benchmark.classes), f"checking {benchmark.name}")
    changed = [
        f"{benchmark.path(old.label)}: not what {benchmark.root / INDEX} says: delete that and prepare again"
        for old, new in zip(benchmark.entries, again, strict=True)
        if (old.size, old.pixels) != (new.size, new.pixels)
    ]
    index.complain(changed)
    rows = [
        {"fold": i, "id": c, "class": benchmark.classes[c - 1], "tested": c in benchmark.tested[i]}
        | {split: len(benchmark.images_of(c, split)) for split in SPLITS}
        for i, fold in enumerate(benchmark.folds)
        for c in fold
    ]
    return pandas.DataFrame(rows)


def known(benchmark: Benchmark) -> "pandas.DataFrame":
    """Put what is known of a benchmark beside what is here.

    Arguments:
        benchmark: the benchmark.

    Returns:
        one row per known count: list, here, known, deviates (here - known) and source; none if nothing is known.
    """
    import pandas

    here = {}
    ids = range(1, len(benchmark.classes) + 1)
    shown = {(c, split): benchmark.images_of(c, split) for c in ids for split in SPLITS}
    for split in SPLITS:
        here[f"{split}: images"] = sum(entry.split == split for entry in benchmark.entries)
        enough = {position for c in ids for position in shown[c, split]}
        here[f"{split}: images that show enough of a class"] = len(enough)
        for i, fold in enumerate(benchmark.folds):
            here[f"{split}: fold {i}"] = sum(len(shown[c, split]) for c in fold)
        for c, name in enumerate(benchmark.classes, 1):
            here[f"{split}: {name}"] = len(shown[c, split])
            here[name] = here.get(name, 0) + len(shown[c, split])
    table = pandas.read_csv(KNOWN, comment="#", keep_default_na=False)
    mine = table.images.isin(["", benchmark.recipe.get("images", "")]) & (table.benchmark == benchmark.name)
    table = table[mine].reset_index(drop=True)
    table["here"] = table["list"].map(here).astype(int)
    table["deviates"] = table.here - table.known
    return table[["list", "here", "known", "deviates", "source"]]


def _render(task: tuple[Path, Recipe, str, range]) -> list[Entry]:
    root, recipe, split, numbers = task
    entries = []
    for number in numbers:
        seed = [recipe.seed, SPLITS.index(split), number]
        # A test scene shows the classes of one fold only, so that nothing in it was seen in training.
        classes = FOLDS[number % len(FOLDS)] if split == "val" else range(1, len(shapes.CLASSES) + 1)
        picture, mask = shapes.render(seed, classes, recipe.size, recipe.diversity)
        name = f"{split}-{number:05d}"
        image, label = f"images/{name}.jpg", f"labels/{name}.png"
        Image.fromarray(picture).save(packed := BytesIO(), "JPEG", quality=95)
        for file, content in ((image, packed.getvalue()), (label, png(mask))):
            io.write(root / file, content, index.WHERE)
        height, width = np.shape(mask)
        entries.append(Entry(name, split, image, label, (height, width), index.count(mask)))
    return entries


def _prepare_shapes(root: Path, recipe: Recipe, noted: dict[str, Any], workers: int | None) -> Benchmark:
    index.need_writable(root)
    amounts = {"train": recipe.train, "val": recipe.val}
    tasks = [
        (root, recipe, split, range(first, min(first + CHUNK, amount + 1)))
        for split, amount in amounts.items()
        for first in range(1, amount + 1, CHUNK)
    ]
    rendered = in_processes(_render, tasks, workers, root)
    entries = list(progress(rendered, "rendering shapes", "image", sum(amounts.values())))
    return index.write(root, "shapes", shapes.CLASSES, FOLDS, FOLDS, entries, noted)
