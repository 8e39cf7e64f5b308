"""Pictures as people have them: any size and mode, rotated by their EXIF note, masks painted or as polygons."""

import json
import math
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from dpnet.config import VOID
from dpnet.io import DPNetError

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
    return rgb(_opened(picture), picture if isinstance(picture, str | Path) else "an image")


def marked(mask: Picture, size: tuple[int, int]) -> np.ndarray:
    """What a mask marks.

    Arguments:
        mask: an image of one channel, or of three equal ones: 0 background, 255 void, anything else foreground;
            in one that has only 0 and 255, 255 is foreground, and in one with shades of grey (a JPEG, soft edges)
            whatever is bright. A grey palette means its greys. Or a cut-out: what is not transparent is foreground.
            Or a .json file with polygons in pixels, [[[x, y], …], …], or as LabelMe writes them.
        size: width and height of its image.

    Returns:
        uint8 [H, W] with 0, 1 and 255 (void).

    Raises:
        DPNetError: it cannot be read or understood, is of another size than its image, or marks nothing.
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
    ids, shown = np.asarray(image), grey_palette(image)
    ramp = False
    if shown is not None:
        greys = shown[np.unique(ids)].astype(int)
        ramp = greys[0] == 0 and bool((np.diff(greys) > 0).all())  # an encoder's, or ids made visible
        ids = shown[ids]
    elif image.mode == "P" and _upside_down(image):
        ids = np.asarray(image.convert("RGB"))
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
    elif image.format == "JPEG" and ids.max() > 127:
        ids = np.where(ids > 127, 255, 0)
    elif (ids == VOID).any() and not np.isin(ids, (0, VOID)).all():
        soft = _soft(ids)
        if soft is None or (ramp and not soft):
            other = next(value for value in np.unique(ids).tolist() if value not in (0, VOID))
            raise DPNetError(
                f"{name}: holds 255 beside {other}: shades of white, or ids and void? Save pure white on black, or "
                "ids from 1 to 254 on 0"
            )
        ids = np.where(ids > 127, 255, 0) if soft else ids
    found = np.where((ids == VOID) & ~np.isin(ids, (0, VOID)).all(), VOID, ids > 0).astype(np.uint8)
    if not (found == 1).any():
        raise DPNetError(f"{name}: no foreground: mark what is to be found, with ids from 1 to 254 or in white")
    return found


def _soft(ids: np.ndarray) -> bool | None:
    """Whether what is neither 0 nor 255 is white's soft edge (True), or ids beside void (False); None: unclear."""
    padded = np.pad(ids, 1, mode="edge")
    same, black = np.ones(ids.shape, bool), np.zeros(ids.shape, bool)
    for y, x in np.ndindex(3, 3):
        near = padded[y : y + ids.shape[0], x : x + ids.shape[1]]
        same &= near == ids
        black |= near == 0
    between = (ids != 0) & (ids != VOID)
    flat = same[between].mean()  # ids fill areas, and edges do not
    beside_black = black[between].mean()  # void that surrounds ids keeps them from the background
    white, grey = (ids == VOID).sum(), between.sum()
    if beside_black < 0.05 or (flat >= 0.5 and grey >= white):
        return False
    return True if flat < 0.5 and white > grey else None


def _upside_down(image: Image.Image) -> bool:
    # Colours whose black has another index than 0: then indices do not say what is background.
    colours = np.reshape(image.getpalette() or [], (-1, 3))
    black = [i for i in np.unique(np.asarray(image)).tolist() if i < len(colours) and not colours[i].any()]
    return len(black) == 1 and black != [0]


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
    image.save(packed := BytesIO(), "PNG")
    return packed.getvalue()


def _opened(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return _upright(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype not in (np.uint8, np.uint16, np.bool_):
            raise DPNetError(f"an array of {picture.dtype}: give uint8, or uint16")
        if (
            picture.ndim not in (2, 3)
            or 0 in picture.shape
            or (picture.ndim == 3 and picture.shape[2] not in (1, 3, 4))
        ):
            raise DPNetError(f"an array of shape {picture.shape}: give [H, W], [H, W, 3] or [H, W, 4]")
        if picture.ndim == 3 and picture.shape[2] == 1:
            picture = picture[..., 0]
        if picture.ndim == 3 and picture.dtype == np.uint16:
            picture = (picture // 257).astype(np.uint8)  # PIL has no such mode
        return Image.fromarray(picture if picture.dtype == np.uint16 else picture.astype(np.uint8))
    try:
        with Image.open(picture) as image:
            return _upright(image)
    except FileNotFoundError:
        raise DPNetError(f"{picture}: no such file") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        why = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise DPNetError(f"{picture}: cannot be decoded ({why}): replace it by an intact copy") from error


def _upright(image: Image.Image) -> Image.Image:
    turned = ImageOps.exif_transpose(image)  # decodes it, or says what is wrong
    turned.format = image.format
    return turned


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


def grey_palette(image: Image.Image) -> np.ndarray | None:
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
