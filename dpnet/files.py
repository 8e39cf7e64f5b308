"""Files that are there whole or not at all, and made by one process at a time."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import SoftFileLease, Timeout

from dpnet.errors import DPNetError
from dpnet.progress import progress

LEASE = 60.0  # seconds after which a silent process on another machine is taken for dead


def write(file: Path, content: bytes, option: str = "RESULTS=…") -> None:
    """Write a file, and its folder; an existing one with the same bytes is left alone.

    Arguments:
        file: the target.
        content: its bytes.
        option: what the user would set to have it elsewhere.

    Raises:
        DPNetError: it cannot be written; what was there stays.
    """
    try:
        if file.exists() and file.read_bytes() == content:
            return
    except OSError as error:
        raise DPNetError(f"{file}: cannot be read ({error.strerror}): choose another folder with {option}") from error
    save(file, lambda part: part.write_bytes(content), option)


def save(file: Path, through: Callable[[Path], object], option: str = "RESULTS=…") -> None:
    """Write a file part by part.

    Arguments:
        file: the target.
        through: writes to the path that it is given.
        option: what the user would set to have it elsewhere.

    Raises:
        DPNetError: it cannot be written; what was there stays.
    """
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
def held(file: Path, what: str, option: str = "RESULTS=…") -> Iterator[None]:
    """Be the only process that does something, among all machines that share the folder; wait while another is.

    Who dies loses it: at once on the same machine, elsewhere after `LEASE` seconds without a sign of life, which
    the one that waits counts by its own clock. Whoever was only suspended and goes on beside its successor does no
    harm, since both write the same bytes.

    Arguments:
        file: the lock; there while it is held.
        what: the other process is doing, for the one that waits.
        option: what the user would set to have it elsewhere.

    Raises:
        DPNetError: the lock cannot be written.
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
    """What is said of a file that cannot be written."""
    return DPNetError(
        f"{file}: cannot be written ({error.strerror or error}): make room, and the same command goes on; "
        f"or choose another folder with {option}"
    )
