"""A trained run as a program that needs torch alone."""

from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from dpnet.heads import Trained, load
from dpnet.io import DPNetError, write
from dpnet.modules import resize
from dpnet.predict import BETA, Segmenter


class Program(nn.Module):
    """A network as one function of tensors."""

    def __init__(self, trained: Trained, beta: float) -> None:
        super().__init__()
        self.model, self.size, self.beta = trained.model, trained.size, beta

    def forward(self, supports: Tensor, masks: Tensor, query: Tensor) -> Tensor:
        """uint8 [1, K, 3, S, S], [1, K, S, S] and [1, 3, S, S] -> probability of the foreground, float [1, S, S]."""
        logits = self.model(supports, masks, query, self.beta).logits
        return resize(logits[:, 1:] - logits[:, :1], (self.size, self.size))[:, 0].sigmoid()


def export(checkpoint: str | Path | None, file: Path, shots: int = 1, beta: float = BETA) -> Trained:
    """Write a run's `Program` as a `.pt2` file that torch alone runs: `torch.export.load(file).module()`."""
    if Path(file).suffix != ".pt2":
        raise DPNetError(f"--out {file}: is written as a program of torch: name it {Path(file).stem}.pt2")
    trained = load(checkpoint)
    Segmenter(trained, beta)  # refuses a beta that is none
    S = trained.size
    blank = tuple(torch.zeros(1, *shape, S, S, dtype=torch.uint8) for shape in ((shots, 3), (shots,), (3,)))
    with torch.no_grad():
        program = torch.export.export(Program(trained, beta).eval(), blank)
    torch.export.save(program, packed := BytesIO())
    write(file, packed.getvalue(), "--out")
    return trained
