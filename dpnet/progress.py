"""Progress bars: on the terminal, or relayed to it from a notebook's kernel through a file."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

RELAY = "DPNET_PROGRESS"  # environment: a file that takes a kernel's progress; its parent draws the bar
T = TypeVar("T")


def progress(items: Iterable[T], what: str, unit: str = "it", total: int | None = None) -> Iterator[T]:
    """Iterate over `items` while the terminal shows what is done, what is left and for how long.

    Arguments:
        items: anything iterable.
        what: what is being done, in a few words.
        unit: what one item is called.
        total: number of items, where `items` has no length.

    Returns:
        the same items, in order.
    """
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
