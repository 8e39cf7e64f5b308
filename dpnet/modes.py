"""What the modes of image files mean: colours for photographs, and grey palettes for masks."""

import numpy as np
from PIL import Image

from dpnet.errors import DPNetError


def rgb(image: Image.Image, name: object = "an image") -> Image.Image:
    """An image of any mode as RGB: 16 bits are scaled to 8, and what is transparent becomes white.

    Arguments:
        image: decoded or not.
        name: what a message calls it.

    Returns:
        the image, RGB.

    Raises:
        DPNetError: it has floating-point numbers, whose range nobody knows.
    """
    if image.mode.startswith("I"):  # I;16 in all its byte orders, and I, which older readers make of it
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise DPNetError(f"{name}: is of floating-point numbers: save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def greys(image: Image.Image) -> np.ndarray | None:
    """The grey that each index of a palette image shows, where indices may be an encoder's and mean nothing.

    Arguments:
        image: of any mode.

    Returns:
        uint8 [256]; None if it has no palette, or one that shows the indices themselves, colours, two indices as the
        same grey, or more greys than are there, ascending.
    """
    if image.mode != "P":
        return None
    used = np.unique(np.asarray(image))
    colours = np.zeros((256, 3), np.uint8)
    listed = np.reshape(image.getpalette() or [], (-1, 3))
    colours[: len(listed)] = listed
    shown = colours[used, 0].astype(int)
    if (colours[used] != shown[:, None]).any() or len(set(shown.tolist())) < len(used) or (shown == used).all():
        return None
    if used[0] == shown[0] == 0 and (np.diff(shown) > 0).all() and np.delete(colours, used, 0).any():
        return None  # from black to white by index, also what is not there: ids, made visible
    return colours[:, 0]
