"""One training over several processes, as torchrun starts them; the global batch stays the same."""

import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

from dpnet.io import RELAY, DPNetError

PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Team:
    """The processes that train together; each takes its rows of every batch."""

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> slice:
        """This process's rows of `count` that all of them have.

        Raises:
            DPNetError: they cannot be shared out evenly.
        """
        if count % self.size:
            raise DPNetError(f"a batch of {count} episodes cannot be shared by {self.size} processes evenly")
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value over the processes; no gradient flows through it."""
        if self.size > 1:
            value = value.detach().clone()
            torch.distributed.all_reduce(value)
        return value

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum gradients over the processes, all in one message."""
        if self.size > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            summed = self.total(torch.cat([g.flatten() for g in gradients]))
            for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))


ALONE = Team()


@contextmanager
def team(device: str) -> Iterator[Team]:
    """The processes that torchrun started, this one among them; without torchrun, this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # An optimiser's first use imports this, and defaults of its arguments would then hold the group for ever: its
    # threads would outlive `destroy_process_group`, and now and then abort the interpreter as it ends.
    importlib.import_module("torch._dynamo")
    # The others may wait long for the first one, which scores alone; torchrun itself ends all if one dies.
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        rank = torch.distributed.get_rank()
        if rank:
            os.environ[RELAY] = os.devnull  # one bar for all
        yield Team(rank, size)
    finally:
        torch.distributed.destroy_process_group()
