"""Segment your own images by a trained head: here, or as a program that needs torch alone."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dpnet.data import images
from dpnet.data.images import Source
from dpnet.heads import Trained, load
from dpnet.io import DPNetError, write
from dpnet.model import FOREGROUND, shared_counts, soft_masks
from dpnet.modules import resize

BETA = 0.2  # as in the paper's tests


class Encoded(NamedTuple):
    """The K supports of a class."""

    raw: Tensor  # backbone features [1, K, C_b, h, w]
    masks: Tensor  # on the grid [1, K, h, w]
    P: Tensor  # prototypes [1, K, C]


class Segmenter:
    """Takes supports once, of one class or several, and finds in many queries what their masks mark.

    Arguments:
        head: as `load` takes it, or what it made; None: the head that comes with the package.
        beta: the discriminator's threshold.
        size: side of the square that the network sees, 8k + 1 pixels; 0: the head's own.
        scales: of the query; probabilities are averaged.

    >>> mask, probability = Segmenter(run).support("a.jpg", "a.png").segment("b.jpg")
    """

    def __init__(
        self,
        head: str | Path | Trained | None = None,
        beta: float = BETA,
        size: int = 0,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        if not isinstance(beta, int | float) or not 0 <= beta <= 1:
            raise DPNetError(f"beta={beta!r}: must lie between 0 (keep all candidates) and 1")
        self.model, own = head if isinstance(head, Trained) else load(head)
        self.beta, self.size, self.scales = beta, size or own, scales
        self.classes: list[Encoded] = []

    @torch.inference_mode()
    def support(
        self,
        supports: Source | Sequence[Source],
        masks: Source | Sequence[Source],
        soft: bool = False,
        label: str | None = None,
    ) -> "Segmenter":
        """Add a class: one image or K of it, and a mask for each, as `images.mask` takes it, with `soft` and `label`.

        Images are paths, PIL images, arrays or tensors (`images.photograph`).
        """
        supports, masks = images.several(supports, 3), images.several(masks, 2)
        if not supports or len(supports) != len(masks):
            numbers = f"{len(supports)} supports and {len(masks)} masks"
            raise DPNetError(f"{numbers}: give at least one, and a mask for each")
        seen, marked = [], []
        for number, (support, mask) in enumerate(zip(supports, masks, strict=True), 1):
            photo = images.photograph(support, f"support {number}")
            whole = Image.fromarray(images.mask(mask, photo.size, soft, label, f"mask {number}"))
            seen.append(square(photo, self.size))
            marked.append(square(whole, self.size, Image.Resampling.NEAREST))
            if not (marked[-1] == FOREGROUND).any():
                why = f"what it marks is less than a pixel at the network's {self.size}x{self.size}"
                raise DPNetError(f"mask {number}: {why}: cut support and mask to where the object is")
        backbone = self.model.backbone
        raw = backbone.encode_exactly(torch.stack(seen))[None]
        on_grid = soft_masks(torch.stack(marked)[None], raw.shape[-2:])
        P = self.model.head.prototypes(backbone.features(raw), on_grid)
        self.classes.append(Encoded(raw, on_grid, P))
        return self

    @torch.inference_mode()
    def probabilities(self, query: Source) -> np.ndarray:
        """Of each class, in the order of `support`, at the query's own size: float32 [n, H, W]."""
        if not self.classes:
            raise DPNetError("no class yet: call support(images, masks) first")
        image, at_scale = images.photograph(query, "query"), []
        for scale in self.scales:
            side = 8 * round(scale * (self.size - 1) / 8) + 1 if scale != 1 else self.size
            raw_q = self.model.backbone.encode_exactly(square(image, side)[None])
            leads = torch.cat([self._lead(one, raw_q) for one in self.classes])
            at_scale.append(resize(leads, (image.height, image.width))[:, 0].sigmoid_())
        return torch.stack(at_scale).mean(0).numpy() if len(at_scale) > 1 else at_scale[0].numpy()

    def _lead(self, one: Encoded, raw_q: Tensor) -> Tensor:
        """Foreground minus background logit of a class, [1, 1, h, w]; the auxiliary branch is left out."""
        head, backbone = self.model.head, self.model.backbone
        counts = shared_counts(backbone, one.raw, raw_q, one.masks, head.variant.pseudo)
        matched = head.match(one.P, backbone.features(raw_q), counts)
        P_q = head.pseudo_prototypes(matched, head.select(matched, self.beta))
        logits = head.decode(*head.fuse(matched.F_q, one.P.mean(1), P_q))
        return logits[:, 1:] - logits[:, :1]

    def segment(self, query: Source, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
        """What a query shows.

        Returns:
            uint8 [H, W], the number (1, 2, …) of the class whose probability is the highest, 0 where that is not over
            the threshold; and that probability, float32 [H, W].
        """
        return answer(self.probabilities(query), threshold)


def answer(probabilities: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The mask and the probability of `Segmenter.segment`, of probabilities [n, H, W]."""
    highest = probabilities.max(0)
    return np.where(highest > threshold, probabilities.argmax(0) + 1, 0).astype(np.uint8), highest


def segment(
    query: Source,
    supports: Source | Sequence[Source],
    masks: Source | Sequence[Source],
    checkpoint: str | Path | Trained | None = None,
    beta: float = BETA,
    soft: bool = False,
    label: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find in a query what the masks mark in the supports; arguments are those of `Segmenter` and its `support`.

    Returns:
        mask uint8 [H, W] with 0 and 1, and probability of the foreground float32 [H, W], at the query's size.

    >>> mask, probability = segment("b.jpg", "a.jpg", "a.png", run)
    >>> mask, _ = segment(Image.open("b.jpg"), [Image.open("a.jpg")] * 2, ["a.json"] * 2, run, label="cup")
    >>> mask, _ = segment(np.zeros((90, 120, 3), "uint8"), np.ones((80, 80, 3)), np.eye(80, dtype=bool), run)
    >>> segment(torch.zeros(3, 90, 120), [torch.ones(3, 80, 80)], torch.eye(80), run)[1].shape
    (90, 120)
    """
    return Segmenter(checkpoint, beta).support(supports, masks, soft, label).segment(query)


def square(image: Image.Image, size: int, how: Image.Resampling = Image.Resampling.BILINEAR) -> Tensor:
    """An image squashed to a square, as in training: uint8 [3, size, size], or [size, size] of one channel."""
    pixels = torch.from_numpy(np.array(image.resize((size, size), how)))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels


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
