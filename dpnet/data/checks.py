"""What `dpnet check` shows of a prepared benchmark: counts, what was converted, what is too thin, a contact sheet."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dpnet.config import VOID
from dpnet.data import images
from dpnet.data.index import INDEX, SPLITS, Benchmark, complain, scan, vanishing

MARK = (255, 140, 0)  # colour of the overlay
KNOWN = Path(__file__).with_name("known.csv")
SIZES = (161, 241, 321, 473, 641, 961)  # of the network's square, to choose from where objects are too thin
ENOUGH = 4  # images of a class: two to train on, and two to test


def check(benchmark: Benchmark) -> pandas.DataFrame:
    """Decode every file again; a row per class: fold (in which it is novel), id, class, tested, images by split."""
    listed = [(e.id, e.split, benchmark.path(e.image), benchmark.path(e.label)) for e in benchmark.entries]
    again = scan(benchmark.root, listed, len(benchmark.classes), f"checking {benchmark.name}")
    pairs = zip(benchmark.entries, again, strict=True)
    changed = [benchmark.path(old.label) for old, new in pairs if (old.size, old.pixels) != (new.size, new.pixels)]
    complain([f"{file}: not what {benchmark.root / INDEX} says: delete that and prepare again" for file in changed])
    rows = [
        {"fold": i, "id": c, "class": benchmark.classes[c - 1], "tested": c in benchmark.tested[i]}
        | {split: len(benchmark.images_of(c, split)) for split in SPLITS}
        for i, fold in enumerate(benchmark.folds)
        for c in fold
    ]
    return pandas.DataFrame(rows)


def known(benchmark: Benchmark) -> pandas.DataFrame:
    """What is known of a benchmark beside what is here: list, here, known, deviates (here - known) and source."""
    here: dict[str, int] = {}
    for split in SPLITS:
        images_of = {c: benchmark.images_of(c, split) for c in range(1, len(benchmark.classes) + 1)}
        here[f"{split}: images"] = sum(entry.split == split for entry in benchmark.entries)
        here[f"{split}: images that show enough of a class"] = len(set().union(*images_of.values()))
        here |= {f"{split}: fold {i}": sum(len(images_of[c]) for c in f) for i, f in enumerate(benchmark.folds)}
        here |= {f"{split}: {name}": len(images_of[c]) for c, name in enumerate(benchmark.classes, 1)}
    table = pandas.read_csv(KNOWN, comment="#", keep_default_na=False)
    of_this = table.images.isin(["", benchmark.recipe.get("images", "")]) & (table.benchmark == benchmark.name)
    table = table[of_this].reset_index(drop=True)
    table["here"] = table["list"].map(here).astype(int)
    table["deviates"] = table.here - table.known
    return table[["list", "here", "known", "deviates", "source"]]


def conversions(photographs: Iterable[Path]) -> list[str]:
    """What `images.photograph` changes in some photographs, one line for each kind, with the number of them."""
    counts: Counter[str] = Counter()
    for file in photographs:
        with Image.open(file) as image:
            tile = str(image.tile[0][3]) if getattr(image, "tile", None) else ""
            kinds = {
                "turned upright, as their EXIF notes say": image.getexif().get(0x0112, 1) in range(2, 9),
                "with more than 8 bits: scaled to 8 by the range that they use": image.mode.startswith("I"),
                "in colour with 16 bits: the upper 8 are used": "16" in tile and not image.mode.startswith("I"),
                "with transparent parts: shown on white": image.has_transparency_data,
                "of several pages: the first is used": getattr(image, "n_frames", 1) > 1,
                f"in {image.mode}: converted to RGB": image.mode in ("CMYK", "YCbCr", "LAB", "HSV"),
            }
            counts.update(kind for kind, is_so in kinds.items() if is_so)
    return [f"photographs {what}: {number}" for what, number in sorted(counts.items())]


def too_thin(benchmark: Benchmark, size: int) -> list[str]:
    """A line for each class without a pixel left in some images at the network's size; the worst cases first."""
    scarce, lines = [], []
    for c, name in enumerate(benchmark.classes, 1):
        lost = [benchmark.label(entry) for entry in benchmark.entries if c in entry.thin]
        left = sum(len(benchmark.images_of(c, split)) for split in SPLITS)
        every = len(lost) + left
        line = f"{name}: {len(lost)} of {every} images have no pixel of it left at {size} x {size}: not used"
        if left < ENOUGH <= every:
            regained = {s: sum(c not in vanishing(label, s) for label in lost) for s in SIZES if s > size}
            sides = [s for s, number in regained.items() if left + number >= ENOUGH]
            way = f"a network of {sides[0]} x {sides[0]} would do" if sides else "cut the images to the objects"
            scarce.append(f"{line}; too few are left: {way}")
        elif lost:
            lines.append(line)
    return scarce + lines


def void(benchmark: Benchmark) -> str:
    """How much of the labels is void."""
    amounts = [entry.pixels.get(VOID, 0) for entry in benchmark.entries]
    share = sum(amounts) / sum(entry.size[0] * entry.size[1] for entry in benchmark.entries)
    return f"void: {share:.1%} of all pixels, in {sum(map(bool, amounts))} of {len(amounts)} labels"


def contact_sheet(benchmark: Benchmark, per_class: int = 5, cell: tuple[int, int] = (240, 180)) -> Image.Image:
    """A row for each class: its name above some of its images, evenly chosen, in cells (width, height)."""
    (width, height), head = cell, 30
    sheet = Image.new("RGB", (per_class * width, len(benchmark.classes) * (head + height)), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for row, name in enumerate(benchmark.classes):
        positions = [position for split in SPLITS for position in benchmark.images_of(row + 1, split)]
        top = row * (head + height)
        canvas.text((4, top + 4), f"{row + 1}  {name}: large enough in {len(positions)} images", "black", font)
        chosen = np.linspace(0, len(positions) - 1, min(per_class, len(positions))).round().astype(int)
        for column, i in enumerate(chosen.tolist()):
            entry = benchmark.entries[positions[i]]
            picture = ImageOps.contain(Image.fromarray(benchmark.image(entry)), cell, Image.Resampling.LANCZOS)
            for value, colour, tint in ((VOID, (200, 200, 200), 0.6), (row + 1, MARK, 0.35)):
                share = Image.fromarray(np.where(benchmark.label(entry) == value, 255, 0).astype(np.uint8))
                # A tenth of a pixel of the cell is enough, so that thin objects are seen.
                inside = np.asarray(share.resize(picture.size, Image.Resampling.BOX)) > 25
                picture = _painted(picture, inside, colour, tint)
            sheet.paste(picture, (column * width, top + head))
    return sheet


def overlay(picture: images.Source, marked: np.ndarray) -> Image.Image:
    """An image (RGB) with a mask, uint8 [H, W] of 0 and 1, in colour and with an outline."""
    return _painted(images.photograph(picture), marked.astype(bool), MARK, 0.45)


def _painted(image: Image.Image, inside: np.ndarray, colour: tuple[int, ...], share: float) -> Image.Image:
    pixels, padded = np.asarray(image).astype(np.float32), np.pad(inside, 1, mode="edge")
    outline = inside & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])
    pixels[inside] = (1 - share) * pixels[inside] + share * np.array(colour)
    pixels[outline] = colour
    return Image.fromarray(pixels.round().astype(np.uint8))
