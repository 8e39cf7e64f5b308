"""Segment your own image: a query, some supports with masks, and a trained run."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dpnet.config import Training, Variant
from dpnet.data import images
from dpnet.data.images import Source
from dpnet.io import CHECKPOINT, DPNetError, load_checkpoint, read_json, write
from dpnet.model import FOREGROUND, DPNet
from dpnet.modules import resize

BETA = 0.2  # as in the paper's tests


class Trained(NamedTuple):
    """A network that is ready to segment."""

    model: DPNet  # in evaluation mode, on the CPU
    size: int  # side in pixels of the square that it sees


def load(checkpoint: str | Path) -> Trained:
    """The network of a trained run, given its folder or the file in it; DPNetError if there is none."""
    folder = Path(checkpoint)
    folder = folder.parent if folder.is_file() else folder
    about = read_json(folder / "run.json") if (folder / "run.json").exists() else None
    if not isinstance(about, dict) or about.get("kind") != "Run":
        raise DPNetError(f"{folder / 'run.json'}: missing, or not a training's: give a folder of results/*/runs/")
    if not (folder / CHECKPOINT).exists():
        raise DPNetError(
            f"{folder}: no {CHECKPOINT} in it: published results come without; train it here, "
            f"`make reproduce-table3 BENCHMARK={about.get('benchmark')}`, or give another run"
        )
    try:
        t = Training(**{**about["training"], "dilations": tuple(about["training"]["dilations"])})
        if not all(type(number) is int and number > 0 for number in (t.size, t.width, *t.dilations)):
            raise ValueError("its size, width and dilations are not whole numbers from 1")
        readings = vars(Variant(**about["variant"]))
        model = DPNet(t.backbone, width=t.width, dilations=t.dilations, dropout=t.dropout, **readings)
        model.head.load_state_dict(load_checkpoint(folder))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # the last: of other shapes
        why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise DPNetError(
            f"{folder / 'run.json'}: does not describe the network beside it ({why}): give another run, or train it "
            "again"
        ) from error
    return Trained(model.eval().requires_grad_(False), t.size)


@torch.inference_mode()
def segment(
    query: Source,
    supports: Source | Sequence[Source],
    masks: Source | Sequence[Source],
    checkpoint: str | Path | Trained,
    beta: float = BETA,
    soft: bool = False,
    label: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find in a query what the masks mark in the supports.

    Arguments:
        query, supports: one image, and one or K: paths, PIL images, arrays or tensors (`images.photograph`).
        masks: one for each support, as `images.mask` takes it, with `soft` and `label`.
        checkpoint: the folder of a trained run; or what `load` made of it, for many queries.
        beta: the discriminator's threshold.

    Returns:
        mask uint8 [H, W] with 0 and 1, and probability of the foreground float32 [H, W], at the query's size.

    >>> mask, probability = segment("b.jpg", "a.jpg", "a.png", run)
    >>> mask, _ = segment(Image.open("b.jpg"), [Image.open("a.jpg")] * 2, ["a.json"] * 2, run, label="cup")
    >>> mask, _ = segment(np.zeros((90, 120, 3), "uint8"), np.ones((80, 80, 3)), np.eye(80, dtype=bool), run)
    >>> segment(torch.zeros(3, 90, 120), [torch.ones(3, 80, 80)], torch.eye(80), run)[1].shape
    (90, 120)
    """
    _need_beta(beta)
    image, pairs = images.photograph(query, "query"), _pairs(supports, masks, soft, label)
    model, size = checkpoint if isinstance(checkpoint, Trained) else load(checkpoint)
    # Squash to the network's square.
    small = [square(Image.fromarray(mask), size, Image.Resampling.NEAREST) for _, mask in pairs]
    for number, mask in enumerate(small, 1):
        if not (mask == FOREGROUND).any():
            why = f"what it marks is less than a pixel at the network's {size}x{size}"
            raise DPNetError(f"mask {number}: {why}: cut support and mask to where the object is")
    inputs = torch.stack([square(photo, size) for photo, _ in pairs]), torch.stack(small), square(image, size)
    # Segment, at the query's own size.
    logits = model(*(tensor[None] for tensor in inputs), beta).logits
    difference = resize(logits[:, 1:] - logits[:, :1], (image.height, image.width))[0, 0]
    return (difference > 0).to(torch.uint8).numpy(), difference.sigmoid().numpy()


def _pairs(supports: Any, masks: Any, soft: bool, label: str | None) -> list[tuple[Image.Image, np.ndarray]]:
    """The photographs of the supports, each with its mask, uint8 [H, W]."""
    supports, masks = images.several(supports, 3), images.several(masks, 2)
    if not supports or len(supports) != len(masks):
        raise DPNetError(f"{len(supports)} supports and {len(masks)} masks: give at least one, and a mask for each")
    photos = [images.photograph(support, f"support {i}") for i, support in enumerate(supports, 1)]
    numbered = enumerate(zip(photos, masks, strict=True), 1)
    return [(photo, images.mask(mask, photo.size, soft, label, f"mask {i}")) for i, (photo, mask) in numbered]


def square(image: Image.Image, size: int, how: Image.Resampling = Image.Resampling.BILINEAR) -> Tensor:
    """An image squashed to a square, as in training: uint8 [3, size, size], or [size, size] of one channel."""
    pixels = torch.from_numpy(np.array(image.resize((size, size), how)))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels


def _need_beta(beta: float) -> None:
    if not isinstance(beta, int | float) or not 0 <= beta <= 1:
        raise DPNetError(f"beta={beta!r}: must lie between 0 (keep all candidates) and 1")


class Program(nn.Module):
    """A network as one function of tensors."""

    def __init__(self, trained: Trained, beta: float) -> None:
        super().__init__()
        self.model, self.size, self.beta = trained.model, trained.size, beta

    def forward(self, supports: Tensor, masks: Tensor, query: Tensor) -> Tensor:
        """uint8 [1, K, 3, S, S], [1, K, S, S] and [1, 3, S, S] -> probability of the foreground, float [1, S, S]."""
        logits = self.model(supports, masks, query, self.beta).logits
        return resize(logits[:, 1:] - logits[:, :1], (self.size, self.size))[:, 0].sigmoid()


def export(checkpoint: str | Path, file: Path, shots: int = 1, beta: float = BETA) -> Trained:
    """Write a run's `Program` as a `.pt2` file that torch alone runs: `torch.export.load(file).module()`."""
    _need_beta(beta)
    if Path(file).suffix != ".pt2":
        raise DPNetError(f"--out {file}: is written as a program of torch: name it {Path(file).stem}.pt2")
    trained = load(checkpoint)
    S = trained.size
    blank = tuple(torch.zeros(1, *shape, S, S, dtype=torch.uint8) for shape in ((shots, 3), (shots,), (3,)))
    with torch.no_grad():
        program = torch.export.export(Program(trained, beta).eval(), blank)
    torch.export.save(program, packed := BytesIO())
    write(file, packed.getvalue(), "--out")
    return trained
