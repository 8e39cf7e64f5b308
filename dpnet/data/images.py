"""Photographs and masks as people have them: read exactly, or refused in one line that says what to do."""

import json
import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from dpnet.config import VOID
from dpnet.io import DPNetError

if TYPE_CHECKING:
    from torch import Tensor

Source = Union[str, Path, Image.Image, np.ndarray, "Tensor"]  # a path, a PIL image, an array or a tensor
GREY = "save it as an 8-bit grey PNG of ids"
SOFT = "give --soft (soft=True), which takes what is above one half, or save it in pure black and white"
CORNERS = {"polygon": 3, "rectangle": 2, "circle": 2}  # of LabelMe's shapes, at least
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the error for twice as many stays


def photograph(source: Source, name: str = "image") -> Image.Image:
    """An image as a viewer shows it: RGB, upright, transparent parts white, 16 bits scaled by their range to 8.

    An array or tensor is [H, W], [H, W, 3], [3, H, W] or has 4 channels: whole numbers up to 65535, or floats from
    0 to 1. `name` is what a message calls an image that has no path.

    >>> photograph(np.full((40, 60), 0.5)).getpixel((0, 0))
    (128, 128, 128)
    """
    image, name = opened(source, name), str(source) if isinstance(source, str | Path) else name
    if image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image), name))
    elif image.mode == "F" and isinstance(source, str | Path | Image.Image):
        raise DPNetError(f"{name}: has floating-point numbers: save it with 8 or 16 bits")
    elif image.mode == "F":  # an array's go from 0 to 1
        image = Image.fromarray((np.asarray(image) * VOID).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def mask(
    source: Source, size: tuple[int, int], soft: bool = False, label: str | None = None, name: str = "mask"
) -> Any:
    """What a support mask marks: uint8 [H, W] of 0 background, 1 foreground and 255 void.

    0 is background; 255 beside other numbers is void; all other numbers are foreground; {0, 1}, {0, 255} and booleans
    are binary; of transparency, what is opaque is foreground. With `soft`, shades above one half are. A `source` may
    also be a LabelMe file, and `label` one of its labels. `size` is the support's width and height.

    >>> np.unique(mask(np.eye(30, dtype=bool), (30, 30))).tolist()
    [0, 1]
    """
    name = str(source) if isinstance(source, str | Path) else name
    if isinstance(source, str | Path) and name.lower().endswith(".json"):
        marked = _labelme(Path(name), size, label)
    elif label is not None:
        raise DPNetError(f"{name}: --label {label} chooses from a LabelMe file, .json, and this is none")
    else:
        image = opened(source, name)
        values = _numbers(image, name, soft)
        if values.shape != size[::-1]:
            sizes = f"{values.shape[1]} x {values.shape[0]} pixels, but its support has {size[0]} x {size[1]}"
            raise DPNetError(f"{name}: {sizes}: a mask has the size of its image as a viewer shows it")
        marked = _foreground(values, name, soft, image.format == "JPEG")
    if not (marked == 1).any():
        raise DPNetError(f"{name}: no foreground: mark the object in white, or with ids from 1 to 254")
    return marked


def several(sources: Any, ndim: int) -> list[Any]:
    """One image or many, as a list; an array or tensor of `ndim` dimensions is one image."""
    dims = getattr(sources, "ndim", 4)
    in_colour = ndim == 2 and dims == 3 and sources.shape[2] in (1, 3, 4)  # one mask [H, W, 3], as a reader gives it
    one = isinstance(sources, str | Path | Image.Image) or dims <= ndim or in_colour
    return [sources] if one or sources is None else list(sources)


def opened(source: Source, name: str = "image") -> Image.Image:
    """A decoded image, upright as its EXIF note says; DPNetError if there is none, or not a whole one."""
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(source)
    if not isinstance(source, str | Path):
        return _from_array(source, name)
    try:
        with Image.open(source) as image:
            tile = image.tile[0][3] if getattr(image, "tile", None) else ""
            if tile in ("L;2", "L;4"):
                raise DPNetError(f"{source}: is grey with {tile[-1]} bits, which readers scale differently: {GREY}")
            upright = ImageOps.exif_transpose(image)
            upright.format = image.format
            return upright
    except (FileNotFoundError, Image.DecompressionBombError) as error:
        gone, large = "no such file, or a link that leads nowhere", "more than 178 million pixels: scale it down"
        raise DPNetError(f"{source}: {gone if isinstance(error, OSError) else large}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:  # what a broken file makes PIL raise
        why = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise DPNetError(f"{source}: cannot be decoded ({why}): replace it by an intact copy") from error


def used_palette(image: Image.Image, name: object, classes: int = 0) -> dict[int, tuple[int, ...]]:
    """The colour of each number of a palette image; DPNetError where the colours say that a tool renumbered them."""
    colours = [*map(tuple, np.reshape(image.getpalette() or [], (-1, 3)).tolist()), *[(0, 0, 0)] * 256]
    voc = {tuple(colour): number for number, colour in enumerate(np.reshape(voc_colours(), (-1, 3)).tolist())}
    used = {number: colours[number] for number in np.unique(np.asarray(image)).tolist()}
    for number, colour in used.items():
        grey = colour[0] if len({*colour}) == 1 and (colour[0] <= classes or colour[0] == VOID) else None
        meant = {n for n in (voc.get(colour), grey) if n is not None}
        if (meant and number not in meant) or (number == 0 and any(colour)):
            sense = f"which is the colour of {min(meant)}" if meant else "but 0 is the background, and black"
            raise DPNetError(f"{name}: its palette shows {number} as {colour}, {sense}: a tool renumbered it: {GREY}")
    return used


def voc_colours() -> list[int]:
    """VOC's palette: bit by bit of the id, to red, green and blue in turn, the highest bits first."""
    bits = [(k, 7 - k) for k in range(3)]
    return [sum(((c >> (3 * k + rgb)) & 1) << up for k, up in bits) for c in range(256) for rgb in range(3)]


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def png(image: Image.Image, **more: Any) -> bytes:
    """The bytes of a PNG; `more` is PIL's."""
    image.save(packed := BytesIO(), "PNG", **more)
    return packed.getvalue()


def _from_array(source: Any, name: str) -> Image.Image:
    """An array or tensor as an image: "L", "RGB", "RGBA", "I" for large numbers, "F" for fractions of one channel."""
    tensor = hasattr(source, "detach")
    if tensor:
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source  # numpy has no bfloat16
    array, channels = np.asarray(source), (1, 3, 4)
    if array.dtype.kind not in "buif":
        raise DPNetError(f"{name}: {type(source).__name__}: give a path, a PIL image, an array or a tensor")
    if array.ndim == 3 and array.shape[0] in channels and (tensor or array.shape[2] not in channels):
        array = np.moveaxis(array, 0, 2)
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in channels):
        raise DPNetError(f"{name}: an array of shape {array.shape}: give [H, W], [H, W, 3] or [3, H, W]")
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    fractions, low, high = array.dtype.kind == "f", array.min(), array.max()
    if not 0 <= low <= high <= (1 if fractions else 65535):
        values = f"{array.dtype} values from {low:g} to {high:g}"
        raise DPNetError(f"{name}: {values}: give whole numbers from 0 to 255, or floats from 0 to 1")
    if array.ndim == 2 and (fractions or high > VOID):
        return Image.fromarray(array.astype(np.float32 if fractions else np.int32))
    return Image.fromarray((array * VOID).round().astype(np.uint8) if fractions else _eight_bits(array, name))


def _eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers scaled by the bits that they use: 0…255 stay, 12 bits become 8."""
    high = int(values.max())
    if values.min() < 0 or high > 65535:
        raise DPNetError(f"{name}: values from {values.min()} to {high}: save it with 8 or 16 bits")
    return (values.astype(np.int64) * VOID // (2 ** max(8, high.bit_length()) - 1)).astype(np.uint8)


def _numbers(image: Image.Image, name: str, soft: bool) -> np.ndarray:
    """The numbers of a mask, [H, W]; refuses colours."""
    if image.mode in ("RGBA", "LA", "PA"):
        alpha = image.getchannel("A")
        image = image.convert("RGB") if alpha.getextrema()[0] == VOID else alpha
    values = np.asarray(image)
    colours = np.asarray(image.convert("RGB")) if image.mode == "P" else values
    grey = colours.ndim == 2 or bool((colours == colours[..., :1]).all())
    if image.mode == "P" and not (grey and (soft or np.isin(colours, (0, VOID)).all())):
        used_palette(image, name, VOID if grey else 0)
        return values
    if not grey:
        raise DPNetError(f"{name}: has colours: paint the object white on black, or {GREY}")
    return colours[..., 0] if colours.ndim == 3 else colours


def _foreground(values: np.ndarray, name: str, soft: bool, jpeg: bool) -> np.ndarray:
    full = 1 if values.dtype.kind in "bf" else VOID if values.max() <= VOID else 65535
    if values.dtype.kind == "f" and not 0 <= values.min() <= values.max() <= 1:
        raise DPNetError(f"{name}: has floating-point numbers other than 0 to 1: {GREY}")
    levels = set(np.unique(values).tolist())
    if levels <= {0, 1}:
        return values.astype(np.uint8)
    if soft or levels <= {0, full}:
        return (values > full / 2).astype(np.uint8)
    if full == 1 or jpeg or _shades(values):
        raise DPNetError(f"{name}: has shades, not ids: {SOFT}")
    if full > VOID or VOID not in levels:
        return (values > 0).astype(np.uint8)
    if (largest := max(levels - {VOID})) > 100:
        raise DPNetError(f"{name}: holds 255 beside {largest}: is 255 void, or white? Use ids up to 100, or {SOFT}")
    return np.where(values == VOID, VOID, values > 0).astype(np.uint8)


def _shades(values: np.ndarray) -> bool:
    """Whether a tenth of what is neither black nor the brightest lies between a darker and a brighter neighbour."""
    numbers = values.astype(np.int32)
    between, climbs = (numbers > 0) & (numbers < numbers.max()), np.zeros(numbers.shape, bool)
    for one, flag in ((numbers, climbs), (numbers.T, climbs.T)):
        flag[1:-1] |= np.sign(one[1:-1] - one[:-2]) * np.sign(one[2:] - one[1:-1]) > 0
    return bool(between.any() and climbs[between].mean() > 0.1)


def _labelme(file: Path, size: tuple[int, int], label: str | None) -> np.ndarray:
    """The shapes of a LabelMe file, of one label, drawn at the size of the photograph."""
    try:
        content = json.loads(file.read_text("utf-8-sig"))
        written = (int(content.get("imageWidth") or size[0]), int(content.get("imageHeight") or size[1]))
        shapes = [(str(s.get("label", "")), str(s.get("shape_type") or "polygon")) for s in content["shapes"]]
        points = [np.array(s["points"], float).reshape(-1, 2) * size / written for s in content["shapes"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no LabelMe file ({reason(error)}): draw the mask with LabelMe, or save it as PNG"
        raise DPNetError(f"{file}: {what}") from None
    labels = sorted({name for name, _ in shapes})
    if (label is None and len(labels) > 1) or (label is not None and label not in labels):
        raise DPNetError(f"{file}: has the labels {', '.join(labels) or 'none'}: choose one with --label (label=…)")
    if abs(size[0] * written[1] - size[1] * written[0]) > max(*size, *written):
        sizes = f"{written[0]} x {written[1]} pixels, and its support has {size[0]} x {size[1]}"
        raise DPNetError(f"{file}: was drawn on {sizes}: give the photograph that it was drawn on")
    canvas = Image.new("L", size)
    draw = ImageDraw.Draw(canvas)
    painters = {"polygon": draw.polygon, "rectangle": draw.rectangle, "circle": draw.ellipse}
    for (name, kind), corners in zip(shapes, points, strict=True):
        if label not in (None, name):
            continue
        if len(corners) < CORNERS.get(kind, np.inf) or not (abs(corners) < 1e5).all():
            what = f"has a {kind!r} of {len(corners)} points, or far outside"
            raise DPNetError(f"{file}: {what}: draw polygons of 3 points or more, rectangles and circles of 2")
        if kind == "circle":  # its centre, and a point on it
            radius = np.hypot(*(corners[1] - corners[0]))
            corners = np.array([corners[0] - radius, corners[0] + radius])
        ends = corners if kind == "polygon" else [corners.min(0), corners.max(0)]
        painters[kind]([(float(x), float(y)) for x, y in ends], fill=1)
    return np.array(canvas)
