"""Segment your own image: a query, some supports with masks, and a trained run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dpnet import backbones
from dpnet.benchmarks.layout import decode
from dpnet.config import Training, Variant
from dpnet.errors import DPNetError
from dpnet.metrics import VOID
from dpnet.model import FOREGROUND, Head, shared_counts, soft_masks
from dpnet.modules import resize
from dpnet.store import read_json
from dpnet.train import load_checkpoint

Picture = str | Path | Image.Image | np.ndarray


@torch.inference_mode()
def segment(
    query: Picture,
    supports: Sequence[Picture],
    masks: Sequence[Picture],
    checkpoint: str | Path,
    beta: float = 0.2,
) -> tuple[np.ndarray, np.ndarray]:
    """Find in a query what the masks mark in the supports.

    Arguments:
        query: a path, a PIL image, or uint8 [H, W, 3].
        supports: K images, of any sizes.
        masks: one per support, of its size: 0 background, 255 void, anything else foreground.
        checkpoint: the folder of a trained run.
        beta: the discriminator's threshold.

    Returns:
        mask uint8 [H, W] with 0 and 1, and probability of the foreground float32 [H, W], at the query's size.

    Raises:
        DPNetError: a file that cannot be read, a mask of another size than its support or without foreground.
    """
    if not supports or len(supports) != len(masks):
        raise DPNetError(f"{len(supports)} supports and {len(masks)} masks: give at least one, and a mask for each")
    folder = Path(checkpoint)
    if not (folder / "run.json").exists() or read_json(folder / "run.json").get("kind") != "Run":
        raise DPNetError(f"{folder / 'run.json'}: missing, or not a training's: give a folder of results/*/runs/")
    about = read_json(folder / "run.json")
    training = Training(**{**about["training"], "dilations": tuple(about["training"]["dilations"])})
    backbone = backbones.build(training.backbone)
    head = Head(backbone.channels, Variant(**about["variant"]), training.width, training.dilations, training.dropout)
    head.load_state_dict(load_checkpoint(folder / "checkpoint.safetensors"))
    head.eval()

    picture = _image(query)
    raw_q = backbone(_square(picture, training.size)[None])
    raw_s = backbone(torch.stack([_square(_image(s), training.size) for s in supports]))[None]
    marked = [_mask(m, s, training.size) for m, s in zip(masks, supports, strict=True)]
    soft = soft_masks(torch.stack(marked)[None], raw_s.shape[-2:])
    counts = shared_counts(backbone, raw_s, raw_q, soft, head.variant.pseudo)
    logits = head(backbone.features(raw_s), soft, backbone.features(raw_q), counts, beta).logits
    difference = resize(logits[:, 1:] - logits[:, :1], (picture.height, picture.width))[0, 0]
    return (difference > 0).to(torch.uint8).numpy(), difference.sigmoid().numpy()


def _image(picture: Picture) -> Image.Image:
    if isinstance(picture, str | Path):
        picture = decode(Path(picture))
    return Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.convert("RGB")


def _square(image: Image.Image, size: int) -> Tensor:
    return torch.from_numpy(np.array(image.resize((size, size), Image.Resampling.BILINEAR))).permute(2, 0, 1)


def _mask(mask: Picture, support: Picture, size: int) -> Tensor:
    """uint8 [size, size] with 0, 1, 255."""
    named = mask if isinstance(mask, str | Path) else "a mask"
    if isinstance(mask, str | Path):
        mask = decode(Path(mask), mask=True)
    ids = np.array(mask)
    image = _image(support)
    if ids.shape != (image.height, image.width):
        raise DPNetError(
            f"{named}: {list(ids.shape)} is not its support's size, [{image.height}, {image.width}]: one id a pixel"
        )
    marked = np.where(ids == VOID, VOID, (ids > 0).astype(np.uint8)).astype(np.uint8)
    if not (marked == FOREGROUND).any():
        raise DPNetError(f"{named}: no foreground: mark what is to be found with an id from 1 to 254")
    return torch.from_numpy(np.array(Image.fromarray(marked).resize((size, size), Image.Resampling.NEAREST)))
