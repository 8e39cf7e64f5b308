"""Benchmarks: from a name to the module that makes it, and to a prepared one."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpnet.config import BENCHMARKS, Recipe
from dpnet.data import coco, custom, index, pascal, shapes
from dpnet.data.checks import check, known
from dpnet.data.index import INDEX, SPLITS, Benchmark, Entry
from dpnet.data.shapes import FOLDS
from dpnet.io import ROOT, DPNetError, file_lock

__all__ = ["FOLDS", "SPLITS", "Benchmark", "Entry", "Recipe", "check", "known", "load", "prepare"]

DEFAULT = Recipe()


def prepare(
    name: str, data: Path, recipe: Recipe = DEFAULT, workers: int | None = None, fetch: bool | None = None
) -> Benchmark:
    """Make a benchmark of the data folder (or of the copy of VOC or COCO in it) ready; returns at once if it is.

    `workers` processes render or paint (None: one per free core); the result does not depend on them. What is absent
    of VOC or COCO: `fetch` True fetches it, gigabytes; False unpacks archives in `data`; None takes it as it is.
    """
    data = Path(data).expanduser()
    noted, places = _look_up(name, data, recipe)
    if ready := _ready(places, noted):
        return ready
    if name == "folder":
        return load(name, data)
    if name != "shapes":
        if fetch is not None:
            from dpnet.data import download

            download.complete(name, data, recipe, offline=not fetch, workers=workers)
        tree = (coco if name == "coco" else pascal).COPY.need(data, name.removesuffix("-part"))
    root = next((place for place in places if index.writable(place)), places[-1])
    index.need_writable(root)
    try:
        with file_lock(root / ".held", f"preparing {name}", index.WHERE):
            if ready := _ready(places, noted):  # by another process, meanwhile
                return ready
            if name == "shapes":
                return shapes.prepare(root, recipe, noted, workers)
            if name == "coco":
                return coco.prepare(tree, root, noted, workers)
            return pascal.prepare(name, tree, root, recipe.images, noted)
    finally:
        with suppress(OSError):  # of a folder that is not empty
            root.rmdir()


def load(name: str, data: Path, recipe: Recipe = DEFAULT) -> Benchmark:
    """A benchmark that is ready, of the data folder and the recipe that `prepare` had; DPNetError if it is not."""
    data = Path(data).expanduser()
    noted, places = _look_up(name, data, recipe)
    if ready := _ready(places, noted):
        return ready
    another = any((place / INDEX).exists() for place in places)
    why = f"prepared from another recipe than {noted}" if another else "missing"
    usage = custom.USAGE if name == "folder" else f"dpnet prepare {name}"
    raise DPNetError(f"{places[0] / INDEX}: {why}: prepare it: {usage} --root {data}")


def _look_up(name: str, data: Path, recipe: Recipe) -> tuple[dict[str, Any], list[Path]]:
    """The part of the recipe that makes a benchmark what it is, and where its index may be, best first."""
    if name not in BENCHMARKS:
        raise DPNetError(f"unknown benchmark {name!r}: known are {', '.join(BENCHMARKS)}")
    if name == "folder":
        return {}, [data / name]
    if name == "shapes":
        drawn = {key: getattr(recipe, key) for key in ("size", "train", "val", "seed")}
        what = f"{recipe.size}px-d{recipe.diversity:g}-{recipe.train}+{recipe.val}-s{recipe.seed}"
        noted = {"version": shapes.RECIPE_VERSION, **drawn, "diversity": float(recipe.diversity)}
        return noted, [data / name / f"v{shapes.RECIPE_VERSION}-{what}"]
    # The second, in the project's own data folder, is for a copy of VOC or COCO that may not be written.
    mark = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]
    noted = {"images": recipe.images} if name == "pascal" else {"version": coco.VERSION} if name == "coco" else {}
    return noted, [data / name, ROOT / "data" / f"{name}-{mark}"]


def _ready(places: list[Path], noted: dict[str, Any]) -> Benchmark | None:
    present = (index.read(place) for place in places if (place / INDEX).exists())
    return next((one for one in present if one.name == "folder" or one.recipe == noted), None)
