"""What makers of label PNGs share: the file itself, and several processes."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TypeVar

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dpnet.errors import DPNetError

NOTE = "dpnet"  # keyword of a label's note
END = b"IEND\xaeB`\x82"  # of a PNG that is whole
Task = TypeVar("Task")
Result = TypeVar("Result")


def png(mask: np.ndarray, note: str = "") -> bytes:
    """The palette PNG of a label.

    Arguments:
        mask: uint8 [H, W].
        note: what it was made from; kept in the file.

    Returns:
        its bytes, in VOC's colours.
    """
    coloured, info = Image.fromarray(mask), PngInfo()
    coloured.putpalette(_palette())
    if note:
        info.add_text(NOTE, note)
    coloured.save(packed := io.BytesIO(), "PNG", pnginfo=info)
    return packed.getvalue()


def spread(
    work: Callable[[Task], list[Result]], tasks: Sequence[Task], workers: int | None, root: Path
) -> Iterator[Result]:
    """Do tasks in several processes.

    Arguments:
        work: a function of a module; what it raises comes out here.
        tasks: its arguments.
        workers: processes; one per core if None, none but this one if 1.
        root: the folder that is being filled, for the message.

    Returns:
        the results, one after the other, in the order of the tasks.

    Raises:
        DPNetError: a process died.
    """
    processes = min(workers or os.cpu_count() or 1, len(tasks))
    if processes <= 1:
        yield from (result for task in tasks for result in work(task))
        return
    # spawn, because a fork of a process with threads (torch's, a notebook's) may hang
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), end_with_parent) as pool:
            yield from (result for part in pool.map(work, tasks) for result in part)
    except BrokenProcessPool as error:
        why = "a script needs its `if __name__ == '__main__'`, or memory ran out"
        raise DPNetError(f"{root}: a process that fills it died ({why}): try workers=1") from error


def _palette() -> list[int]:
    # VOC's colours: bit by bit of the id, to red, green and blue in turn, the highest bits first.
    return [
        sum(((c >> (3 * k + channel)) & 1) << (7 - k) for k in range(3)) for c in range(256) for channel in range(3)
    ]


def end_with_parent() -> None:
    """In a worker: or it waits for ever for the next task of a parent that was killed."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()
