"""Pictures as people have them: any size and mode, rotated by their EXIF note, masks painted or as polygons."""

import io
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from dpnet.benchmarks.layout import VOID
from dpnet.errors import DPNetError

Picture = str | Path | Image.Image | np.ndarray
IDS = 16  # different values in a mask: more are shades, of a soft edge or of JPEG
MARK = (255, 140, 0)  # colour of what was found: told apart from green and from grey by everybody


def photograph(picture: Picture) -> Image.Image:
    """An image as it is meant to be seen.

    Arguments:
        picture: a path, a PIL image, or an array [H, W], [H, W, 3] or [H, W, 4] of uint8 or uint16. 16 bits are
            scaled to 8; what is transparent becomes white; a rotation that EXIF notes is done.

    Returns:
        the image, RGB.

    Raises:
        DPNetError: it cannot be read.
    """
    image = _opened(picture)
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise DPNetError("an image of floating-point numbers: save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def marked(mask: Picture, size: tuple[int, int]) -> np.ndarray:
    """What a mask marks.

    Arguments:
        mask: an image of one channel, or of three equal ones: 0 background, 255 void, anything else foreground;
            in one that has only 0 and 255, 255 is foreground, and in one with shades of grey whatever is bright. Or a
            cut-out: what is not transparent is foreground. Or a .json file with polygons in pixels, [[[x, y], …], …],
            or as LabelMe writes them.
        size: width and height of its image.

    Returns:
        uint8 [H, W] with 0, 1 and 255 (void).

    Raises:
        DPNetError: it cannot be read, is of another size than its image, or marks nothing.
    """
    name = mask if isinstance(mask, str | Path) else "a mask"
    if isinstance(mask, str | Path) and Path(mask).suffix.lower() == ".json":
        return _drawn(Path(mask), size)
    image = _opened(mask)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        opaque = np.asarray(image.convert("RGBA"))[..., 3]
        image = (
            image.convert("RGB") if opaque.min() == 255 else Image.fromarray(255 * (opaque > 127).astype(np.uint8))
        )
    ids = np.asarray(image)
    if ids.ndim == 3:
        colours = ids[..., :3]
        if (colours != colours[..., :1]).any():
            raise DPNetError(
                f"{name}: has colours: paint what is to be found white on black, or save ids from 1 to 254"
            )
        ids = colours[..., 0]
    if ids.shape != size[::-1]:
        raise DPNetError(
            f"{name}: {ids.shape[1]} x {ids.shape[0]} pixels, but its support has {size[0]} x {size[1]}: "
            "a mask has the size of its image, as it is seen (EXIF rotations done)"
        )
    ids = ids.astype(np.int64)
    if len(np.unique(ids)) > IDS:
        ids = np.where(ids > ids.max() // 2, 255, 0)
    found = np.where((ids == VOID) & ~np.isin(ids, (0, VOID)).all(), VOID, ids > 0).astype(np.uint8)
    if not (found == 1).any():
        raise DPNetError(f"{name}: no foreground: mark what is to be found, with ids from 1 to 254 or in white")
    return found


def overlay(picture: Picture, mask: np.ndarray) -> Image.Image:
    """An image with what was found in colour, and an outline.

    Arguments:
        picture: as `photograph` takes it.
        mask: uint8 [H, W] with 0 and 1, of its size.

    Returns:
        the image, RGB.
    """
    pixels = np.asarray(photograph(picture)).astype(np.float32)
    inside = mask.astype(bool)
    padded = np.pad(inside, 1, mode="edge")
    kept = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    pixels[inside] = 0.55 * pixels[inside] + 0.45 * np.array(MARK)
    pixels[inside & ~kept] = MARK
    return Image.fromarray(pixels.round().astype(np.uint8))


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG."""
    image.save(packed := io.BytesIO(), "PNG")
    return packed.getvalue()


def _opened(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype not in (np.uint8, np.uint16, np.bool_):
            raise DPNetError(f"an array of {picture.dtype}: give uint8, or uint16")
        return Image.fromarray(picture.astype(np.uint8) if picture.dtype == np.bool_ else picture)
    try:
        with Image.open(picture) as image:
            return ImageOps.exif_transpose(image)  # decodes it, or says what is wrong
    except FileNotFoundError:
        raise DPNetError(f"{picture}: no such file") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        why = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise DPNetError(f"{picture}: cannot be decoded ({why}): replace it by an intact copy") from error


def _drawn(file: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise DPNetError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:
        raise DPNetError(f"{file}: not JSON ({error}): it holds polygons, [[[x, y], …], …]") from None
    try:
        shapes = [s["points"] for s in content["shapes"]] if isinstance(content, dict) else content
        polygons = [[(float(x), float(y)) for x, y in shape] for shape in shapes]
    except (KeyError, TypeError, ValueError):
        raise DPNetError(f"{file}: holds no polygons: write [[[x, y], …], …], or save it with LabelMe") from None
    drawn = Image.new("L", size)
    for polygon in polygons:
        if len(polygon) < 3 or not all(map(math.isfinite, sum(polygon, ()))):
            raise DPNetError(f"{file}: a polygon has fewer than three corners, or one that is no number")
        ImageDraw.Draw(drawn).polygon(polygon, fill=1)
    found = np.asarray(drawn).copy()
    if not found.any():
        raise DPNetError(
            f"{file}: no polygon lies inside the image, {size[0]} x {size[1]} pixels: x first, in pixels"
        )
    return found
