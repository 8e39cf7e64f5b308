"""The instruments of `speed.py`: a stopwatch, the largest tensor, and ratios of what was measured in turns."""

import ctypes
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Stopwatch:
    """Seconds on a device; each measurement is taken `repeats` times."""

    def __init__(self, device: str, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, works: Mapping[str, Callable[[], Any]], repeats: int | None = None) -> dict[str, np.ndarray]:
        """Seconds of some works, each in turn, as often as `repeats`; a first turn does not count."""
        taken: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(1 + (repeats or self.repeats)):
            for name, work in works.items():
                self.wait()
                begun = time.perf_counter()
                work()
                self.wait()
                if turn:
                    taken[name].append(time.perf_counter() - begun)
        return {name: np.array(values) for name, values in taken.items()}

    @contextmanager
    def shares(self, functions: Mapping[str, list[tuple[Any, str]]], rest: str) -> Iterator[dict[str, float]]:
        """Seconds inside some functions, each second counted once, for the innermost; and the rest."""
        spent = dict.fromkeys([*functions, rest], 0.0)
        stack, last = [rest], time.perf_counter()

        def switch() -> None:
            nonlocal last
            self.wait()
            now = time.perf_counter()
            spent[stack[-1]] += now - last
            last = now

        def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                switch()
                stack.append(part)
                try:
                    return function(*args, **kwargs)
                finally:
                    switch()
                    stack.pop()

            return call

        with ExitStack() as patches:
            for part, owners in functions.items():
                for owner, name in owners:
                    patches.enter_context(patch.object(owner, name, timed(getattr(owner, name), part)))
            yield spent
            switch()


# Operations of a CPU (with the shapes of their inputs) and kernels of a GPU, by their names; the first that fits.
KINDS = {
    "3×3 convolutions": r"conv.*, 3, 3\]",
    "1×1 convolutions": r"conv.*, 1, 1\]",
    "convolutions": r"conv(?!ert)|cudnn|xmma_[fdw]|fprop|dgrad|wgrad|nchw|nhwc",
    "matrix products": r"gemm|nvjet|cutlass|mm ",
    "optimiser": r"fused_(sgd|adam)|multi_tensor|_foreach|FusedSgd|FusedAdam|FusedOptimizer",
    "copies": r"copy|cat |CatArray|Memcpy|Memset|fill|zero|_to |clone|contiguous",
    "sums, activations and the rest": "",
}


def by_kind(work: Callable[[], Any], device: str) -> dict[str, float]:
    """Seconds of a work in each of `KINDS`, as the profiler tells them, and those in which a GPU is idle."""
    on_gpu = device == "cuda"
    spent = dict.fromkeys(KINDS, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        with profile(activities=[activity], record_shapes=not on_gpu) as profiler:
            begun = time.perf_counter()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            whole = time.perf_counter() - begun
        events = profiler.key_averages(group_by_input_shape=not on_gpu)
    for event in events:
        name = f"{event.key} {event.input_shapes}"
        kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))
        spent[kind] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
    if on_gpu:
        spent["idle"] = max(0.0, whole - sum(spent.values()))
        for event in sorted(events, key=lambda e: -e.self_device_time_total)[:25]:
            print(f"{event.self_device_time_total / 1e3:8.2f} ms, {event.count:5d} x {event.key[:120]}", flush=True)
    return {kind: seconds for kind, seconds in spent.items() if seconds}


def arithmetic(work: Callable[[], Any], device: str) -> dict[str, float]:
    """The products of a work, in GFLOP, and the speed of one large product in bf16, in GFLOP/s."""
    with FlopCounterMode(display=False) as counter:
        work()
    side = 16384 if device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    taken = Stopwatch(device, 5).seconds({"": partial(torch.matmul, a, b)})[""]
    return {"GFLOP": counter.get_total_flops() / 1e9, "GFLOP/s": 2e-9 * side**3 / float(np.median(taken))}


def peak(work: Callable[[], Any], device: str) -> float:
    """The most memory (MiB) while a work is done: of this process with the files that it maps, or of the GPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux: the most so far
        work()
        return psutil.Process().memory_info().rss / 2**20
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # what earlier works have left
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    work()
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


class Largest(TorchDispatchMode):
    """Notes the largest tensor that comes into being, but for those of a known shape."""

    def __init__(self, known: torch.Size) -> None:
        super().__init__()
        self.known, self.bytes = known, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and look at what it gives."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.numel() != self.known.numel():
                self.bytes = max(self.bytes, leaf.numel() * leaf.element_size())
        return result


def ratio(
    what: str, unit: str, ours: np.ndarray, reference: str, against: np.ndarray, budget: float | None = None
) -> dict[str, Any]:
    """A line of the table: what was measured in the same turn is divided, then the median is taken."""
    numbers = {"ours": spread(ours), "against": spread(against), "ratio": spread(ours / against)}
    about = {"what": what, "unit": unit, "reference": reference, "budget": budget}
    return numbers | about | {"more is better": unit.endswith("/s")}


def spread(values: np.ndarray) -> list[float]:
    """Median, least and most, with four digits."""
    return [float(f"{v:.4g}") for v in (np.median(values), values.min(), values.max())]
