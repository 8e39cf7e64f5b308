"""What label images mean: the names of the classes, and their colours where labels are painted in colours."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from dpnet.config import VOID
from dpnet.data import images
from dpnet.io import DPNetError

RGB = tuple[int, int, int]
# CVAT's labelmap.txt has "cup:128,0,0::", Supervisely's colors.txt "cup 128 0 0".
COLOURED = re.compile(r"(?P<name>.*[^\s:;,])\s*[:;,\s]\s*(?P<rgb>\d{1,3}(?:\s*[,\s]\s*\d{1,3}){2})\s*(?::.*)?")
HEADER = re.compile(r"(name|label|class|category)\w*\W.*\b(r|red|rgb|colou?r\w*)\b.*", re.IGNORECASE)  # of a table
NUMBERED = re.compile(r"\d+\s*[\s:;,.=]\s*\S")
NOTHING = ("background", "_background_", "__background__", "bg")  # id 0, as tools list it
NOBODY_KNOWS = ("void", "__ignore__", "_ignore_", "ignore", "ignored", "neutral", "unlabeled", "unlabelled")  # 255
SHOWN = 4  # colours in a message


@dataclass(frozen=True)
class Legend:
    """The classes of a benchmark: `names` in the order of their ids, and what each colour means, if there are any."""

    file: Path
    names: tuple[str, ...]
    colours: dict[RGB, int]

    @property
    def expected(self) -> str:
        """What a label holds, in words."""
        return f"ids from 0 (background) to {len(self.names)}, and 255 for void"

    @cached_property
    def has_greys(self) -> bool:
        """Whether some grey is the colour of something else than its own value: then grey labels are of colours."""
        return any(red == green == blue != value for (red, green, blue), value in self.colours.items())

    def plain(self, picture: Image.Image) -> bool:
        """Whether the pixels of a label are ids as they stand."""
        if picture.mode == "P":
            return not self.colours and self._shown(picture) is None
        return picture.mode == "1" or (picture.mode == "L" and not self.has_greys)

    def _shown(self, picture: Image.Image) -> np.ndarray | None:
        # The id of each palette index, where an encoder numbered greys that are ids.
        greys = images.grey_palette(picture)
        if greys is None:
            return None
        used = set(greys[np.asarray(picture)].ravel().tolist())
        if used == {0, VOID} and greys[0] == 0:
            return None  # one class, made visible
        return greys if used <= {*range(len(self.names) + 1), VOID} else None

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(1 << 24, -1, np.int16)
        for (red, green, blue), value in self.colours.items():
            table[red << 16 | green << 8 | blue] = value
        return table

    def ids(self, label: Path) -> np.ndarray:
        """Read a label of any kind.

        Arguments:
            label: an image of ids (8 or 16 bits, grey, palette, or grey as RGB), or of this legend's colours.

        Returns:
            uint8 [H, W].

        Raises:
            DPNetError: colours that mean nothing, or ids that cannot be.
            OSError, and what else PIL raises: it cannot be decoded.
        """
        with Image.open(label) as picture:
            shown = None if self.colours else self._shown(picture)
            if picture.mode in ("L", "1", "I", "F", "LA") or picture.mode.startswith("I;16") or shown is not None:
                values = np.asarray(picture.getchannel(0) if picture.mode == "LA" else picture)
                values = values if shown is None else shown[values]
                if not self.has_greys or picture.mode not in ("L", "LA"):
                    return self._checked(label, values, picture.mode)
                pixels = np.repeat(values[..., None], 3, 2)
            else:
                pixels = np.asarray(picture.convert("RGB"))
        grey = (pixels == pixels[..., :1]).all()
        if not self.colours:
            if not grey:
                raise DPNetError(
                    f"{label}: is {picture.mode} with {_listed(pixels)}: save labels as grey or palette PNGs of ids, "
                    f"or write what each colour means into {self.file}, one line each: {self.names[0]}:255,0,0"
                )
            return self._checked(label, pixels[..., 0], picture.mode)
        found = self._table[pixels.astype(np.int32) @ (1 << 16, 1 << 8, 1)]
        if (found < 0).any():
            known = ", ".join(f"{self._means(v)} {_written(c)}" for c, v in self.colours.items())
            raise DPNetError(f"{label}: has {_listed(pixels[found < 0])}, which {self.file} lacks: it has {known}")
        return found.astype(np.uint8)

    def _checked(self, label: Path, values: np.ndarray, mode: str) -> np.ndarray:
        found = np.unique(values).tolist()
        wrong = [value for value in found if value not in (*range(len(self.names) + 1), VOID)]
        if wrong:
            more = " …" if len(wrong) > SHOWN else ""
            raise DPNetError(
                f"{label}: is {mode} and holds {', '.join(map(str, wrong[:SHOWN]))}{more}: expected: {self.expected}"
            )
        return values.astype(np.uint8)

    def _means(self, value: int) -> str:
        return {0: "background", VOID: "void"}.get(value) or self.names[value - 1]


def read(file: Path) -> Legend:
    """Read a class list: names, one per line in the order of their ids; or a name and a colour in each line.

    Arguments:
        file: text; what tools list for 0 and 255 ("_background_", "__ignore__") is taken out, and said.

    Returns:
        the legend.

    Raises:
        DPNetError: no such file, or not such a list.
    """
    if not file.is_file():
        if file.is_dir():
            raise DPNetError(f"{file}: is a folder: give the file in it that lists the class names, one per line")
        raise DPNetError(f"{file}: no such file: write the class names, one per line, in the order of their ids")
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except ValueError:
        raise DPNetError(f"{file}: not UTF-8 text: it lists the class names, one per line") from None
    said = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    skipped = sorted(set(range(said[0], said[-1])) - set(said)) if said else []
    gap = f"{skipped[0] + 1} is {'a comment' if lines[skipped[0]] else 'empty'}" if skipped else ""
    lines = [lines[number] for number in said]
    if len(lines) > 1 and HEADER.fullmatch(lines[0]) and COLOURED.fullmatch(lines[1]):
        lines = lines[1:]
    parts = [COLOURED.fullmatch(line) for line in lines]
    coloured = bool(lines) and all(parts)
    if any(parts) and not coloured:
        raise DPNetError(
            f"{file}: {lines[parts.index(None)]!r} has no colour, but other lines have: write a name and three "
            "numbers from 0 to 255 into each, cup:255,0,0, or names only"
        )
    if gap and not coloured:
        raise DPNetError(
            f"{file}: line {gap}: take it out; a class has its line's number as its id, from 1, and those after it "
            "would have others"
        )
    if not coloured and len(lines) > 1 and all(map(NUMBERED.match, lines)):
        raise DPNetError(f"{file}: {lines[0]!r}: write the names only, one per line: the line says the id, from 1")
    names = [part["name"] if part and coloured else line.rstrip(":") for part, line in zip(parts, lines, strict=True)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DPNetError(f"{file}: {twice[0]!r} stands there twice: give each class its own name")
    classes = [name for name in names if name.lower() not in NOTHING + NOBODY_KNOWS]
    if not 1 <= len(classes) <= 254:
        raise DPNetError(f"{file}: {len(classes)} class names: write 1 to 254, one per line, in order of their ids")
    _say_others(file, names, classes, coloured)
    colours: dict[RGB, int] = {}
    for name, part in zip(names, parts, strict=True):
        if part and coloured:
            red, green, blue = (int(value) for value in re.findall(r"\d+", part["rgb"]))
            value = classes.index(name) + 1 if name in classes else 0 if name.lower() in NOTHING else VOID
            if max(red, green, blue) > 255 or (red, green, blue) in colours:
                why = "another line has that colour" if max(red, green, blue) <= 255 else "a colour has 0 to 255"
                raise DPNetError(f"{file}: {part[0]!r}: {why}")
            colours[red, green, blue] = value
    return Legend(file, tuple(classes), colours | ({} if not coloured or 0 in colours.values() else {(0, 0, 0): 0}))


def _say_others(file: Path, names: list[str], classes: list[str], coloured: bool) -> None:
    # Lines give the ids: only what stands before the first class, or after the last, can go without a shift.
    first, last = names.index(classes[0]), names.index(classes[-1])
    for place, name in enumerate(names):
        if name in classes:
            continue
        value, what = (0, "the background") if name.lower() in NOTHING else (VOID, "void")
        if not coloured and (first < place < last or (value == 0 and place > last)):
            raise DPNetError(
                f"{file}: {name!r} is line {place + 1}, and what labels hold there is {value}, {what}: "
                "take it out; a class has its line's number as its id, from 1"
            )
        print(f"{file.name}: {name!r} is no class, and taken out: in labels it is {value}, and 1 is {classes[0]!r}")


def _listed(pixels: np.ndarray) -> str:
    found, amounts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    most = [_written(tuple(found[i])) for i in np.argsort(-amounts)[:SHOWN]]
    return f"{len(found)} colour(s), {'; '.join(most)}{' …' if len(found) > SHOWN else ''}"


def _written(colour: tuple[int, ...]) -> str:
    return ",".join(str(int(value)) for value in colour)
