"""Files, locks, progress and places: what every layer needs, and nothing that knows what a run is."""

import gzip
import json
import os
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, repeat
from pathlib import Path
from pickle import UnpicklingError
from threading import Event, Thread
from typing import Any, TypeVar

import psutil
from filelock import SoftFileLease, Timeout
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
DEVICES = ("auto", "cpu", "cuda")
LEASE = 60.0  # seconds after which a silent process on another machine is taken for dead
RELAY = "DPNET_PROGRESS"  # environment: the terminal on which a kernel or worker shows its progress; empty: in lines
ROW = "DPNET_ROW"  # environment: the row below it, where several processes show theirs
LINE = "dpnet: "  # how such a line begins
EVERY = 25.0  # seconds between two of them
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of this container: microseconds of each period
CHECKPOINT = "checkpoint.safetensors"
T = TypeVar("T")


class DPNetError(Exception):
    """A problem that the user can mend: the message names the file or value and the way out."""


@dataclass(frozen=True)
class Places:
    """The folders that a command works in, and the device to compute on; no result depends on them."""

    data: Path
    results: Path  # what is read and written: one's own, or, for who publishes, the published ones
    device: str
    published: Path = ROOT / "results"  # what one's own are compared with; git has them


def places(data: Path | None = None, results: Path | None = None, device: str | None = None) -> Places:
    """What is not given is DPNET_DATA, DPNET_RESULTS, …; else `data` and `results/local` here, and the CPU."""
    device = device or os.environ.get("DPNET_DEVICE") or "cpu"
    if device not in DEVICES:
        raise DPNetError(f"unknown device {device!r}: choose from {', '.join(DEVICES)}")
    if device != "cpu":
        import torch  # here, since it takes seconds

        if device == "cuda" and not torch.cuda.is_available():
            raise DPNetError("no CUDA device is available here: DEVICE=cpu")
        device = "cuda" if torch.cuda.is_available() else "cpu"

    def folder(name: str, given: Path | None, usual: Path) -> Path:
        return Path(given or os.environ.get(f"DPNET_{name.upper()}") or usual).expanduser().absolute()

    published = folder("published", None, Places.published)
    own = folder("results", results, published / "local")
    return Places(folder("data", data, ROOT / "data"), own, device, published)


def write(file: Path, content: bytes, option: str = "RESULTS=…") -> None:
    """Write a file, and its folder; the same bytes are not written again, and on an error what was there stays."""
    with _writable(file, option):
        if file.exists() and file.read_bytes() == content:
            return
    save(file, lambda part: part.write_bytes(content), option)


def save(file: Path, through: Callable[[Path], object], option: str = "RESULTS=…") -> None:
    """Like `write`, by a function that writes to the path that it is given."""
    # Several processes, of several machines, may write the same folder.
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    with _writable(file, option):
        try:
            through(part)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _writable(file: Path, option: str) -> Iterator[None]:
    """Make its folder; an error says what the user would set to have the file elsewhere."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        way = f"make room, and the same command goes on; or choose another folder with {option}"
        raise DPNetError(f"{file}: cannot be written ({error.strerror or error}): {way}") from error


@contextmanager
def file_lock(file: Path, what: str, option: str = "RESULTS=…") -> Iterator[None]:
    """Be the only process that does `what`, among all machines that share the folder; wait while another is."""
    # A process that dies loses the lock: at once on the same machine, elsewhere after `LEASE` seconds without a sign
    # of life. One that was only suspended does no harm beside its successor: both write the same bytes.
    lease = SoftFileLease(file, lease_duration=LEASE)
    with _writable(file, option):
        for seconds in chain([0], progress(repeat(2), f"waiting for another process: {what}", "check")):
            with suppress(Timeout):
                lease.acquire(timeout=seconds)
                break
    try:
        yield
    finally:
        lease.release()


def terminal() -> str:
    """The path of the terminal that shows progress, in a kernel too; empty if there is none."""
    shows = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    screen = os.environ.get(RELAY)
    with suppress(OSError):  # of a container that has another's terminal
        screen = os.ttyname(sys.stderr.fileno()) if screen is None and shows else screen
    return screen if screen and os.access(screen, os.W_OK) else ""  # it may be closed while the work goes on


def progress(items: Iterable[T], what: str, unit: str = "it", total: int | None = None) -> Iterator[T]:
    """The same items, while a bar, or lines without a terminal, say how many are done and how long the rest takes."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    if not (screen := terminal()):
        yield from _in_lines(items, what, unit, total)
        return
    row = int(os.environ.get(ROW, 1)) if RELAY in os.environ else None  # below the bar of who started this process
    style: dict[str, Any] = {"unit": unit, "leave": False, "dynamic_ncols": True, "position": row, "mininterval": 0.5}
    with open(screen, "w") as file:
        yield from tqdm(items, what, total, file=file, disable=not file.isatty(), **style)


def _in_lines(items: Iterable[T], what: str, unit: str, total: int | None) -> Iterator[T]:
    """A line when it has taken a second, then every `EVERY` seconds, however long an item takes, and at the end."""
    start, done, reached, ended = time.monotonic(), 0, 0.0, Event()
    of, units = "" if total is None else f" of {total}", f"{unit}es" if unit.endswith("ch") else f"{unit}s"

    def say(text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):  # nobody listens any more
            sys.stderr.write(f"{LINE}{what}: {text}\n")
            sys.stderr.flush()

    def speak() -> None:
        pause = 1.0
        while not ended.wait(pause):
            pause, taken = EVERY, time.monotonic() - start
            rest = reached * total / done - taken if total and done else 0  # as fast as up to the last that was done
            left = f", about {tqdm.format_interval(rest)} left" if rest > 0 else ""
            say(f"{done}{of} {units}, {tqdm.format_interval(taken)} so far{left}")

    speaker = Thread(target=speak, daemon=True)
    speaker.start()
    try:
        for item in items:
            yield item
            done, reached = done + 1, time.monotonic() - start
    finally:
        ended.set()
        speaker.join()
    if (taken := time.monotonic() - start) > 1:
        say(f"done, {done}{of} {units} in {tqdm.format_interval(taken)}")


def threads() -> int:
    """Threads of each process that trains; no result depends on more than this: DPNET_THREADS, or one."""
    asked = os.environ.get("DPNET_THREADS") or "1"
    if not asked.isdecimal() or not int(asked):
        raise DPNetError(f"DPNET_THREADS={asked}: is not a whole number from 1")
    return int(asked)


def free_cores() -> int:
    """Cores that this process may use (affinity, a container's quota) and that other processes leave idle now."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with suppress(OSError, ValueError):  # not Linux, or no quota ("max")
        quota, period = QUOTA.read_text().split()
        allowed = min(allowed, int(quota) / int(period))
    idle = psutil.cpu_times_percent(1.0).idle / 100 * (psutil.cpu_count() or 1)
    return max(1, round(min(allowed, idle)))


def to_json(content: Any) -> bytes:
    """Readable JSON with sorted keys: the same content gives the same bytes."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def read_json(file: Path) -> Any:
    """Parse a JSON file, compressed where its name ends in .gz; a corrupt one is an error that says the way out."""
    try:
        return json.loads((gzip.decompress if file.suffix == ".gz" else bytes)(file.read_bytes()))
    except (ValueError, FileNotFoundError, gzip.BadGzipFile, EOFError, zlib.error) as error:
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
        if state := _read_state(file, map_location=device):
            return state
        file.unlink(missing_ok=True)
    return None


def _read_state(file: Path, **how: Any) -> dict[str, Any]:
    """A state; empty if it is torn."""
    import torch

    with suppress(RuntimeError, EOFError, KeyError, ValueError, OSError, UnpicklingError):
        return dict(torch.load(file, weights_only=True, **how))
    return {}


def save_checkpoint(folder: Path, parameters: dict[str, Any], data: str) -> None:
    """Write a trained head, with the mark of its data; whole or not at all: the file says that training is done."""
    from safetensors.torch import save as to_bytes

    write(folder / CHECKPOINT, to_bytes(parameters, {"data": data}))
    for state in states(folder):
        state.unlink(missing_ok=True)


def load_checkpoint(folder: Path, name: str = CHECKPOINT) -> dict[str, Any]:
    """The parameters of a trained head."""
    from safetensors.torch import load_file

    file = folder / name
    try:
        parameters = load_file(file)
    except FileNotFoundError:
        raise DPNetError(f"{file}: missing: train it with `dpnet train`") from None
    except (SafetensorError, OSError) as error:
        raise corrupt(file, str(error).splitlines()[0]) from error
    if not all(tensor.isfinite().all() for tensor in parameters.values()):
        raise corrupt(file, "not all of its weights are finite numbers")
    return parameters


def trained_on(folder: Path) -> set[str]:
    """The marks of the data that a run's checkpoint and states are of; torn files, and older ones, have none."""
    contents = [_read_state(state, map_location="cpu", mmap=True) for state in states(folder)]
    with suppress(SafetensorError, OSError), safe_open(folder / CHECKPOINT, "pt") as checkpoint:
        contents.append(checkpoint.metadata() or {})
    return {content["data"] for content in contents if "data" in content}
