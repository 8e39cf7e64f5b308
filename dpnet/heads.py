"""Trained heads as files: those of runs, and the one that comes with the package."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from dpnet.io import CHECKPOINT, DPNetError, load_checkpoint, read_json, write
from dpnet.model import DPNet, Head

HEAD = Path(__file__).with_name("head.safetensors")  # docs/head.md describes it


class Trained(NamedTuple):
    """A network that is ready to segment."""

    model: DPNet  # in evaluation mode, on the CPU
    size: int  # side in pixels of the square that it sees


def load(checkpoint: str | Path | None = None) -> Trained:
    """The network of a trained run (its folder, or the file in it), or of a head's file; None: the package's head."""
    file = Path(checkpoint or HEAD)
    if not file.exists():
        raise DPNetError(f"{file}: missing: give a folder of results/*/runs/")
    file = file / CHECKPOINT if file.is_dir() or not file.suffix else file
    about, source = _about(file), file if file == HEAD else file.parent / "run.json"
    if not isinstance(about, dict) or about.get("kind") != "Run":
        raise DPNetError(f"{source}: missing, or not a training's: give a folder of results/*/runs/")
    if not file.exists():
        way = f"train it here, `make reproduce-table3 BENCHMARK={about.get('benchmark')}`, or give another run"
        raise DPNetError(f"{file.parent}: no {CHECKPOINT} in it: published results come without: {way}")
    try:
        t = about["training"]
        size, width, dilations = about.get("size", t["size"]), t["width"], tuple(t["dilations"])
        if not all(type(number) is int and number > 0 for number in (size, width, *dilations)):
            raise ValueError("its size, width and dilations are not whole numbers from 1")
        how = {"width": width, "dilations": dilations, "dropout": t["dropout"]}
        model = DPNet(t["backbone"], **how, **about["variant"])
        model.head.load_state_dict(load_checkpoint(file.parent, file.name))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # the last: of other shapes
        why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        what = f"does not describe the network beside it ({why})"
        raise DPNetError(f"{source}: {what}: give another run, or train it again") from error
    return Trained(model.eval().requires_grad_(False), size)


def _about(file: Path) -> Any:
    """What describes a head: in its file, else in the run.json beside it."""
    with suppress(SafetensorError, OSError), safe_open(file, "pt") as stored:
        if "run" in (noted := stored.metadata() or {}):
            return json.loads(noted["run"])
    beside = file.parent / "run.json"
    return read_json(beside) if beside.exists() else None


def save(file: Path, head: Head, about: dict[str, Any]) -> None:
    """Write a head in half precision, with what `run.json` says of it; `size`: of the square that it is used at."""
    parameters = {name: value.half().contiguous() for name, value in head.state_dict().items()}
    write(file, to_bytes(parameters, {"run": json.dumps(about, sort_keys=True)}))
