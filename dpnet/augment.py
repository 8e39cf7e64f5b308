"""Geometric augmentation, batched on the training device; its draws come from the step, not from the device."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dpnet.config import VOID

SCALE = (0.75, 1.15)
DEGREES = 10.0  # PFENet's rotation, with probability 1/2


def motions(rng: np.random.Generator, N: int) -> np.ndarray:
    """How each of N images is mirrored, scaled, rotated and shifted: float [N, 2, 3], from output to input."""
    zoom = rng.uniform(*SCALE, N)
    angle = np.deg2rad(rng.uniform(-DEGREES, DEGREES, N)) * (rng.random(N) < 0.5)
    mirror = np.where(rng.random(N) < 0.5, -1.0, 1.0)
    shift = rng.uniform(-1, 1, (2, N)) * np.abs(1 - 1 / zoom)  # a crop of what is larger, a place for what is not
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    return np.stack([np.stack([cos * mirror, -sin, shift[0]], 1), np.stack([sin * mirror, cos, shift[1]], 1)], 1)


def geometric(images: Tensor, labels: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Move each image on its own, in one resampling, as `theta` (from `motions`, float32) says.

    uint8 [N, 3, S, S] -> float in 0..1, grey where nothing was; labels uint8 [N, S, S], void (255) there.
    """
    grid = F.affine_grid(theta, list(images.shape), align_corners=True)
    # What comes from outside is zero: values are shifted so that zero is grey, and void.
    moved = F.grid_sample(images.float() / 255 - 0.5, grid, align_corners=True) + 0.5
    inverted = VOID - labels[:, None].float()
    ids = VOID - F.grid_sample(inverted, grid, mode="nearest", align_corners=True)
    return moved, ids[:, 0].round().to(torch.uint8)
