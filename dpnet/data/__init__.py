"""Benchmarks: from a name to the module that makes it, and to a prepared one."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpnet.config import Recipe
from dpnet.data import coco, custom, index, pascal, shapes
from dpnet.data.checks import check, known
from dpnet.data.custom import prepare_folder
from dpnet.data.index import INDEX, SPLITS, Benchmark, Entry
from dpnet.data.shapes import FOLDS
from dpnet.io import ROOT, DPNetError, file_lock

__all__ = ["FOLDS", "NAMES", "SPLITS", "Benchmark", "Entry", "Recipe"]
__all__ += ["check", "known", "load", "prepare", "prepare_folder"]

NAMES = ("shapes", "pascal", "pascal-mini", "coco", "folder")
DEFAULT = Recipe()


def prepare(
    name: str, data: Path, recipe: Recipe = DEFAULT, workers: int | None = None, fetch: bool | None = None
) -> Benchmark:
    """Make a benchmark of the data folder ready; returns at once if it is.

    Arguments:
        name, data, recipe: which benchmark, in which folder (or whose copy of VOC or COCO), made of what.
        workers: processes that render or paint; one per core if None. The result does not depend on it.
        fetch: what is absent of VOC or COCO: True fetches it, gigabytes; False unpacks archives that lie in `data`
            and never uses the network; None takes the copy as it is.
    """
    data = Path(data).expanduser()
    noted, places = _noted(name, recipe), _places(name, data, recipe)
    if ready := _ready(places, noted):
        return ready
    if noted is None:
        raise DPNetError(f"{places[0] / INDEX}: missing: your own images need {custom.USAGE} --root {data}")
    if name != "shapes":
        if fetch is not None:
            from dpnet.data import download

            download.complete(name, data, recipe, offline=not fetch, workers=workers)
        (coco if name == "coco" else pascal).source(data)
    # An index of a copy that cannot be written is kept in the project's own data folder.
    root = next((place for place in places if index.writable(place)), places[-1])
    index.need_writable(root)
    try:
        with file_lock(root / ".held", f"preparing {name}", index.WHERE):
            if ready := _ready(places, noted):  # by another process, meanwhile
                return ready
            if name == "shapes":
                return shapes.prepare(root, recipe, noted, workers)
            if name == "coco":
                return coco.prepare(data, root, noted, workers)
            return pascal.prepare(name, data, root, recipe.images, noted)
    finally:
        with suppress(OSError):  # of a folder that is not empty
            root.rmdir()


def load(name: str, data: Path, recipe: Recipe = DEFAULT) -> Benchmark:
    """A benchmark that is ready, of the data folder and the recipe that `prepare` had; DPNetError if it is not."""
    data = Path(data).expanduser()
    noted, places = _noted(name, recipe), _places(name, data, recipe)
    if ready := _ready(places, noted):
        return ready
    another = any((place / INDEX).exists() for place in places)
    why = f"prepared from another recipe than {noted}" if another else "missing"
    usage = custom.USAGE if noted is None else f"python -m dpnet prepare {name}"
    raise DPNetError(f"{places[0] / INDEX}: {why}: prepare it: {usage} --root {data}")


def _noted(name: str, recipe: Recipe) -> dict[str, Any] | None:
    # The part of the recipe that makes this benchmark what it is; None: whatever was prepared.
    if name not in NAMES:
        raise DPNetError(f"unknown benchmark {name!r}: known are {', '.join(NAMES)}")
    drawn = {key: getattr(recipe, key) for key in ("size", "train", "val", "seed")}
    return {
        "shapes": {"version": shapes.RECIPE_VERSION, **drawn, "diversity": float(recipe.diversity)},
        "pascal": {"images": recipe.images},
        "pascal-mini": {},
        "coco": {"version": coco.VERSION},
        "folder": None,
    }[name]


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


def _home() -> Path:
    return ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()


def _ready(places: list[Path], noted: dict[str, Any] | None) -> Benchmark | None:
    present = (index.read(place) for place in places if (place / INDEX).exists())
    return next((benchmark for benchmark in present if noted is None or benchmark.recipe == noted), None)
