"""CUDA graphs: what a GPU is asked to do, operation by operation, is recorded once and then started at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Graphed:
    """A function of tensors, called as it is on a CPU, and on a GPU once; from then on it is a CUDA graph.

    It has inputs of fixed shapes, never waits for the device, and draws from `generators` only. What it returns
    is overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Any], *generators: torch.Generator) -> None:
        self.function, self.generators, self.called = function, generators, False
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """What the function returns."""
        if not (self.called and inputs[0].is_cuda):
            self.called = True
            return self.function(*inputs)
        if self.graph is None:
            self._record(inputs)
        for fixed, given in zip(self.inputs, inputs, strict=True):
            fixed.copy_(given)
        assert self.graph is not None
        self.graph.replay()
        return self.outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self.inputs, self.graph = [tensor.clone() for tensor in inputs], torch.cuda.CUDAGraph()
        for generator in self.generators:
            self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.outputs = self.function(*self.inputs)


def let_record(optimizer: Optimizer) -> None:
    """Let a graph read the learning rate from the GPU; the step before it is recorded is no fault to warn of."""
    vars(optimizer)["_warned_capturable_if_run_uncaptured"] = True
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group.update(lr=torch.as_tensor(group["lr"], device=device), capturable=True)
