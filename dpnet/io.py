"""Files, locks, progress and places: what every layer needs, and nothing that knows what a run is."""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

from filelock import SoftFileLease, Timeout
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
DEVICES = ("auto", "cpu", "cuda")
LEASE = 60.0  # seconds after which a silent process on another machine is taken for dead
RELAY = "DPNET_PROGRESS"  # environment: a file that takes a kernel's progress; its parent draws the bar
CHECKPOINT = "checkpoint.safetensors"
T = TypeVar("T")


class DPNetError(Exception):
    """A problem that the user can mend: the message names the file or value and the way out."""


@dataclass(frozen=True)
class Places:
    """The folders of all data and of all results, and the device to compute on; no result depends on them."""

    data: Path
    results: Path
    device: str

    @property
    def environment(self) -> dict[str, str]:
        """What another process needs in its environment, so that `places()` gives the same there."""
        return {f"DPNET_{name.upper()}": str(value) for name, value in vars(self).items()}


def places(data: Path | None = None, results: Path | None = None, device: str | None = None) -> Places:
    """What is not given is DPNET_DATA, DPNET_RESULTS, DPNET_DEVICE; else `data` and `results` here, and the CPU."""
    device = device or os.environ.get("DPNET_DEVICE") or "cpu"
    if device not in DEVICES:
        raise DPNetError(f"unknown device {device!r}: choose from {', '.join(DEVICES)}")
    if device != "cpu":
        import torch  # here, since it takes seconds

        if device == "cuda" and not torch.cuda.is_available():
            raise DPNetError("no CUDA device is available here: DEVICE=cpu")
        device = "cuda" if torch.cuda.is_available() else "cpu"

    def folder(name: str, given: Path | None) -> Path:
        return Path(given or os.environ.get(f"DPNET_{name.upper()}") or ROOT / name).expanduser().absolute()

    return Places(folder("data", data), folder("results", results), device)


def write(file: Path, content: bytes, option: str = "RESULTS=…") -> None:
    """Write a file, and its folder; the same bytes are not written again, and on an error what was there stays."""
    try:
        if file.exists() and file.read_bytes() == content:
            return
    except OSError as error:
        raise DPNetError(f"{file}: cannot be read ({error.strerror}): choose another folder with {option}") from error
    save(file, lambda part: part.write_bytes(content), option)


def save(file: Path, through: Callable[[Path], object], option: str = "RESULTS=…") -> None:
    """Like `write`, by a function that writes to the path that it is given."""
    # Several processes, of several machines, may write the same folder.
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            through(part)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(file, error, option) from error


@contextmanager
def file_lock(file: Path, what: str, option: str = "RESULTS=…") -> Iterator[None]:
    """Be the only process that does `what`, among all machines that share the folder; wait while another is.

    A process that dies loses the lock: at once on the same machine, elsewhere after `LEASE` seconds without a sign
    of life, by the clock of the one that waits. One that was only suspended does no harm beside its successor:
    both write the same bytes.
    """
    lease = SoftFileLease(file, lease_duration=LEASE)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lease.acquire(timeout=0)
        except Timeout:
            for _ in progress(count(), f"waiting for another process: {what}", "look"):
                with suppress(Timeout):
                    lease.acquire(timeout=2)
                    break
    except OSError as error:
        raise unwritable(file, error, option) from error
    try:
        yield
    finally:
        lease.release()


def unwritable(file: Path, error: OSError, option: str) -> DPNetError:
    """The error for a file that cannot be written; `option` is what the user would set to have it elsewhere."""
    return DPNetError(
        f"{file}: cannot be written ({error.strerror or error}): make room, and the same command goes on; "
        f"or choose another folder with {option}"
    )


def progress(items: Iterable[T], what: str, unit: str = "it", total: int | None = None) -> Iterator[T]:
    """The same items, while the terminal shows how many are done and how long the rest takes."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    relay = os.environ.get(RELAY)
    if relay is None:
        quiet = not sys.stderr.isatty()
        yield from tqdm(items, desc=what, unit=unit, total=total, disable=quiet, leave=False, dynamic_ncols=True)
        return
    last = 0.0
    for done, item in enumerate(items):
        if time.monotonic() - last > 0.5:
            last = time.monotonic()
            with open(relay, "a") as file:
                file.write(json.dumps({"what": what, "unit": unit, "done": done, "total": total}) + "\n")
        yield item


def to_json(content: Any) -> bytes:
    """Readable JSON with sorted keys: the same content gives the same bytes."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def read_json(file: Path) -> Any:
    """Parse a JSON file; a corrupt one is an error that names it and the way out."""
    try:
        return json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise corrupt(file, str(error)) from error


def corrupt(file: Path, why: str) -> DPNetError:
    """The error for a file whose content is not what was written."""
    return DPNetError(f"{file}: corrupt ({why}): remove the folder {file.parent} and run again")


def save_every() -> float:
    """Seconds between two states of a training."""
    return float(os.environ.get("DPNET_SAVE_EVERY", "120"))


def states(folder: Path) -> list[Path]:
    """The states that a killed training left, oldest first."""
    return sorted(folder.glob("state-*.pt"))


def save_state(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Store everything that the next step of a training depends on."""
    import torch

    torch.save(state, buffer := BytesIO())
    write(folder / f"state-{step:08}.pt", buffer.getvalue())
    for old in states(folder)[:-2]:  # a state that a full disk or a power cut tore leaves the one before
        old.unlink(missing_ok=True)


def load_state(folder: Path, device: str) -> dict[str, Any] | None:
    """The newest whole state; torn ones go, since the one before, or the start, leads to the same end."""
    for file in reversed(states(folder)):
        if (state := _read_state(file, map_location=device)) is not None:
            return state
        file.unlink(missing_ok=True)
    return None


def _read_state(file: Path, **how: Any) -> dict[str, Any] | None:
    """A state, or None if it is torn."""
    import torch

    try:
        state: dict[str, Any] = torch.load(file, weights_only=True, **how)
        return state
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, UnpicklingError):
        return None


def save_checkpoint(folder: Path, parameters: dict[str, Any], data: str) -> None:
    """Write a trained head, with the mark of its data; whole or not at all: the file says that training is done."""
    from safetensors.torch import save as to_bytes

    write(folder / CHECKPOINT, to_bytes(parameters, {"data": data}))
    for state in states(folder):
        state.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """The parameters of a trained head.

    Raises:
        DPNetError: no checkpoint, or a corrupt one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / CHECKPOINT
    try:
        return load_file(file)
    except FileNotFoundError:
        raise DPNetError(f"{file}: missing: train it with `python -m dpnet train`") from None
    except (SafetensorError, OSError) as error:
        raise corrupt(file, str(error).splitlines()[0]) from error


def trained_on(folder: Path) -> set[str]:
    """The marks of the data that a run's checkpoint and states are of; torn files, and older ones, have none."""
    from safetensors import SafetensorError, safe_open

    contents = [_read_state(state, map_location="cpu", mmap=True) for state in states(folder)]
    with suppress(SafetensorError, OSError), safe_open(folder / CHECKPOINT, "pt") as checkpoint:
        contents.append(checkpoint.metadata())
    return {content["data"] for content in contents if content and "data" in content}
