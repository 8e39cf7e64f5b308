"""Files that are there whole or not at all."""

import os
from pathlib import Path

from dpnet.errors import DPNetError


def write(file: Path, content: bytes, option: str = "RESULTS=…") -> None:
    """Write a file, and its folder; an existing one with the same bytes is left alone.

    Arguments:
        file: the target.
        content: its bytes.
        option: what the user would set to have it elsewhere.

    Raises:
        DPNetError: it cannot be written; what was there stays.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")  # several processes may write the same folder
    try:
        if file.exists() and file.read_bytes() == content:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        why = f"cannot be written ({error.strerror})"
        raise DPNetError(f"{file}: {why}: choose another folder with {option}") from error
