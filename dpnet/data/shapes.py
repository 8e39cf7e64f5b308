"""The embedded benchmark `shapes`: rendered scenes of 20 nameable classes, each with a void rim.

A class is a silhouette, two textures and two hues; `diversity` sets how far one object strays from its class.
A scene holds two or three objects of similar size, none of them the main one: with a main object a model
learns to find what is salient and never looks at the support.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dpnet import io
from dpnet.config import VOID, Recipe
from dpnet.data import index
from dpnet.data.index import SPLITS, WHERE, Benchmark, Entry, split_folds

__all__ = ["CLASSES", "FOLDS", "RECIPE_VERSION", "prepare", "render"]

RECIPE_VERSION = 1  # raise it with any change that changes a rendered byte
REFERENCE_SIZE = 161  # blurs and shadows are given in pixels of a scene of this side
HOLE, BODY, SECOND, DARK = range(4)  # what a polygon is painted with; later polygons cover earlier ones
Parts = list[tuple[int, list[np.ndarray]]]  # roles, each with its outlines, in the order of painting
Window = tuple[slice, slice]  # rows and columns of the canvas


# Outlines are float [points, 2] in the object's own frame: x to the right, y down, about -1..1.


def polygon(*coordinates: float) -> np.ndarray:
    return np.array(coordinates, float).reshape(-1, 2)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return polygon(left, top, right, top, right, bottom, left, bottom)


def bar(x0: float, y0: float, x1: float, y1: float, width: float) -> np.ndarray:
    across = np.array([y0 - y1, x1 - x0]) * width / 2 / math.hypot(x1 - x0, y1 - y0)
    return np.array([[x0, y0], [x1, y1], [x1, y1], [x0, y0]]) + np.outer([1, 1, -1, -1], across)


def radial(radii: np.ndarray) -> np.ndarray:
    angles = np.arange(len(radii)) * 2 * math.pi / len(radii)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def rotation(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def ellipse(x: float, y: float, half_width: float, half_height: float, tilt: float = 0.0) -> np.ndarray:
    return radial(np.ones(28)) * [half_width, half_height] @ rotation(tilt).T + [x, y]


def dome(half_width: float, height: float) -> np.ndarray:
    angles = np.linspace(math.pi, 2 * math.pi, 20)
    return np.stack([half_width * np.cos(angles), height * np.sin(angles)], 1)


@dataclass(frozen=True)
class Silhouette:
    """Draws one object; the spread of its measures about the middle of their range grows with diversity."""

    rng: np.random.Generator
    diversity: float

    def vary(self, low: float, high: float) -> float:
        spread = 0.15 + 0.85 * self.diversity
        return (low + high) / 2 + (high - low) * spread * (self.rng.random() - 0.5)

    def measures(self, *ranges: tuple[float, float]) -> list[float]:
        return [self.vary(low, high) for low, high in ranges]

    # In the order of the classes.

    def plane(self) -> Parts:
        span, sweep, girth = self.measures((0.6, 1), (0.1, 0.5), (0.17, 0.26))
        wing = polygon(0.25, 0, -0.1 - sweep, -span, -0.35 - sweep, -span, -0.2, 0)
        tail = polygon(-0.7, 0, -1, -0.4, -1.15, -0.4, -0.95, 0, -1.15, 0.4, -1, 0.4)
        return [(BODY, [ellipse(0, 0, 1, girth)]), (SECOND, [wing, wing * [1, -1], tail])]

    def fish(self) -> Parts:
        height, flare = self.measures((0.3, 0.6), (0.3, 0.6))
        tail = polygon(-0.5, 0, -1.05, -flare, -0.85, 0, -1.05, flare)
        fin = polygon(0, -0.9 * height, 0.35, -0.85 * height, -0.1, -height - 0.3)
        eye = ellipse(0.6, -0.25 * height, 0.07, 0.07)
        return [(BODY, [ellipse(0.15, 0, 0.8, height)]), (SECOND, [tail, fin]), (DARK, [eye])]

    def bottle(self) -> Parts:
        width, neck, shoulder = self.measures((0.26, 0.42), (0.09, 0.16), (-0.4, -0.05))
        left = polygon(-width, 1, -width, shoulder + 0.2, -neck, shoulder - 0.15, -neck, -0.8)
        label = rectangle(-width, 0.3, width, self.vary(0.5, 0.75))
        cap = rectangle(-neck - 0.04, -1, neck + 0.04, -0.75)
        return [(BODY, [np.concatenate([left, left[::-1] * [-1, 1]])]), (SECOND, [cap, label])]

    def star(self) -> Parts:
        points, inner = 5 if self.vary(0, 1) < 0.65 else 6, self.vary(0.35, 0.55)
        core = ellipse(0, 0, 0.45 * inner, 0.45 * inner)
        return [(BODY, [radial(np.tile([1, inner], points))]), (SECOND, [core])]

    def chair(self) -> Parts:
        width, leg, seat, slant = self.measures((0.4, 0.55), (0.16, 0.24), (-0.1, 0.2), (0.05, 0.3))
        thick = 1.6 * leg
        back = polygon(-width, seat, -width - slant, -1, -width - slant + thick, -1, -width + thick, seat)
        rear, front = bar(-width + 0.05, seat, -width - 0.02, 1, leg), bar(width, seat, width + 0.07, 1, leg)
        return [(BODY, [rectangle(-width, seat - 0.1, width + 0.1, seat + thick), back]), (SECOND, [rear, front])]

    def butterfly(self) -> Parts:
        upper, lower = self.measures((0.35, 0.6), (0.24, 0.4))
        wings = [ellipse(side * 0.5, -0.42, 0.55, upper, -0.5 * side) for side in (-1, 1)]
        wings += [ellipse(side * 0.4, 0.4, 0.42, lower, 0.5 * side) for side in (-1, 1)]
        feelers = [bar(0, -0.6, side * 0.2, -1, 0.06) for side in (-1, 1)]
        return [(BODY, wings), (SECOND, [ellipse(0, 0, 0.1, 0.65), *feelers])]

    def gear(self) -> Parts:
        teeth, root, hole = round(self.vary(7, 11)), self.vary(0.72, 0.84), self.vary(0.2, 0.42)
        wheel, hub = radial(np.tile([1, 1, root, root], teeth)), ellipse(0, 0, hole + 0.18, hole + 0.18)
        return [(BODY, [wheel]), (SECOND, [hub]), (HOLE, [ellipse(0, 0, hole, hole)])]

    def mushroom(self) -> Parts:
        width, height, stem = self.measures((0.7, 1), (0.6, 1), (0.18, 0.34))
        cap = np.concatenate([dome(width, height), polygon(0.5 * width, 0.15, -0.5 * width, 0.15)])
        foot = 1.25 * stem
        return [(SECOND, [polygon(-stem, -0.05, stem, -0.05, foot, 0.95, -foot, 0.95)]), (BODY, [cap])]

    def car(self) -> Parts:
        drop, cabin, x, wheel = self.measures((0.25, 0.42), (0.3, 0.55), (-0.35, 0.05), (0.17, 0.26))
        hood = 0.4 - drop
        body = polygon(-1, 0.4, -1, hood, -0.85, hood - 0.05, 0.8, hood - 0.05, 1, hood + 0.05, 1, 0.4)
        roof, pane = hood - cabin, hood - cabin + 0.08
        top = polygon(x - 0.45, hood, x - 0.25, roof, x + 0.4, roof, x + 0.7, hood)
        window = polygon(x - 0.3, hood - 0.04, x - 0.18, pane, x + 0.33, pane, x + 0.5, hood - 0.04)
        wheels = [ellipse(side * 0.55, 0.42, wheel, wheel) for side in (-1, 1)]
        return [(BODY, [body, top]), (DARK, [window]), (SECOND, wheels)]

    def key(self) -> Parts:
        bow, shaft, bits = self.vary(0.4, 0.52), self.vary(0.2, 0.28), round(self.vary(2, 3.4))
        handle, hole = ellipse(-0.6, 0, bow, bow), ellipse(-0.6, 0, 0.42 * bow, 0.42 * bow)
        teeth = [rectangle(0.81 - 0.24 * i, 0, 0.95 - 0.24 * i, self.vary(0.32, 0.5)) for i in range(bits)]
        return [(BODY, [handle]), (HOLE, [hole]), (SECOND, [bar(0.9 * bow - 0.6, 0, 1, 0, shaft), *teeth])]

    def tree(self) -> Parts:
        trunk, crown, free = self.vary(0.1, 0.18), self.vary(0.42, 0.62), self.rng.uniform
        leaves = [
            ellipse(free(-0.35, 0.35), free(-0.65, -0.1), crown * free(0.7, 1), crown * free(0.7, 1))
            for _ in range(round(self.vary(3, 5)))
        ]
        return [(SECOND, [rectangle(-trunk, -0.4, trunk, 1)]), (BODY, leaves)]

    def cup(self) -> Parts:
        width, taper, height, grip = self.measures((0.42, 0.6), (0.6, 0.95), (0.55, 0.8), (0.22, 0.34))
        handle = ellipse(0.95 * width, -0.05, grip, 1.2 * grip)
        hole = ellipse(0.95 * width, -0.05, 0.55 * grip, 0.75 * grip)
        wall = polygon(-width, -height, width, -height, width * taper, height, -width * taper, height)
        return [(SECOND, [handle]), (HOLE, [hole]), (BODY, [wall]), (DARK, [ellipse(0, -height, width, 0.13)])]

    def house(self) -> Parts:
        width, height, gable, eaves = self.measures((0.55, 0.8), (0.5, 0.8), (0.4, 0.75), (0.05, 0.2))
        door = rectangle(-0.5 * width, 0.35 * height, -0.1 * width, height)
        window = rectangle(0.25 * width, 0.25 * height, 0.65 * width, 0.6 * height)
        roof = polygon(-width - eaves, 0.02, 0, -gable, width + eaves, 0.02)
        return [(BODY, [rectangle(-width, 0, width, height)]), (SECOND, [roof]), (DARK, [door, window])]

    def boat(self) -> Parts:
        keel, mast, sail = 0.4 + self.vary(0.25, 0.42), self.vary(-0.15, 0.15), self.vary(0.5, 0.85)
        main = polygon(mast + 0.06, -0.95, mast + 0.06, 0.28, mast + sail, 0.28)
        jib = polygon(mast - 0.06, -0.7, mast - 0.06, 0.28, mast - 0.75 * sail, 0.28)
        hull = polygon(-1, 0.4, 1, 0.4, 0.7, keel, -0.75, keel)
        return [(BODY, [hull]), (DARK, [bar(mast, 0.4, mast, -1, 0.08)]), (SECOND, [main, jib])]

    def flower(self) -> Parts:
        petals = round(self.vary(5, 8))
        length, width, stalk = self.measures((0.5, 0.62), (0.2, 0.3), (-0.1, 0.1))
        petal = ellipse(0.6 * length, 0, 0.55 * length, 4 * width / petals + 0.06)
        corolla = [petal @ rotation(2 * math.pi * i / petals).T + [0, -0.35] for i in range(petals)]
        return [(BODY, corolla), (DARK, [bar(0, 0.1, stalk, 1, 0.1)]), (SECOND, [ellipse(0, -0.35, 0.2, 0.2)])]

    def quadruped(self) -> Parts:
        girth, foot, leg, rise = self.measures((0.24, 0.38), (0.5, 0.75), (0.13, 0.2), (0.2, 0.45))
        trunk, head = ellipse(-0.05, -0.05, 0.75, girth), ellipse(0.85, -0.15 - rise, 0.25, 0.17)
        neck, tail = bar(0.5, -0.1, 0.75, -0.1 - rise, 0.26), bar(-0.75, -0.1, -1, self.vary(-0.5, 0.3), 0.09)
        legs = [bar(x, 0, x + self.vary(-0.12, 0.12), foot, leg) for x in (-0.55, -0.35, 0.35, 0.53)]
        return [(BODY, [trunk, neck, head]), (SECOND, [tail]), (BODY, legs)]

    def crescent(self) -> Parts:
        shift, inner = 0.7 * self.vary(0.3, 0.6), self.vary(0.72, 0.95)
        angles = np.linspace(0.25 * math.pi, 1.75 * math.pi, 30)
        outer = np.stack([np.cos(angles), np.sin(angles)], 1)
        return [(BODY, [np.concatenate([outer, outer[::-1] * [0.9 * inner, 0.95 * inner] + [shift, 0]])])]

    def umbrella(self) -> Parts:
        width, height, along = self.vary(0.8, 1), self.vary(0.5, 0.85), np.linspace(0, 1, 21)
        hem = np.stack([width * (1 - 2 * along), -0.12 * np.abs(np.sin(5 * math.pi * along))], 1)
        stick, crook = bar(0, -0.1, 0, 0.85, 0.09), bar(0, 0.85, 0.25, 0.9, 0.12)
        return [(DARK, [stick, crook]), (BODY, [np.concatenate([dome(width, height), hem])])]

    def cactus(self) -> Parts:
        stem, left, right, arm = self.measures((0.18, 0.27), (-0.2, 0.2), (-0.25, 0.3), (0.35, 0.6))
        trunk = [ellipse(0, -0.75, stem, stem), rectangle(-stem, -0.75, stem, 0.7)]
        left_arm = [bar(-stem, left, -0.6, left, 0.22), bar(-0.6, left + 0.11, -0.6, left - arm, 0.24)]
        right_arm = [bar(stem, right, 0.55, right, 0.22), bar(0.55, right + 0.11, 0.55, right - 0.8 * arm, 0.24)]
        pot = polygon(-0.45, 0.65, 0.45, 0.65, 0.33, 1, -0.33, 1)
        return [(BODY, [*trunk, *left_arm, *right_arm]), (SECOND, [pot])]

    def snail(self) -> Parts:
        radius, y = self.measures((0.45, 0.6), (-0.1, 0.1))
        foot = polygon(-1, 0.65, -0.7, 0.4, 0.6, 0.35, 0.7, -0.25, 0.98, -0.25, 0.98, 0.1, 0.85, 0.65)
        horns = [bar(0.78, -0.2, 0.65, -0.6, 0.06), bar(0.9, -0.2, 1, -0.6, 0.06)]
        shell = ellipse(-0.1, y, radius, radius)
        core = ellipse(0.15 * radius - 0.1, y, 0.33 * radius, 0.33 * radius)
        return [(SECOND, [foot, *horns]), (BODY, [shell]), (DARK, [core])]


def ripple(phase: np.ndarray, sharpness: float = 4.0) -> np.ndarray:
    """A square wave with soft flanks, in 0..1."""
    return 1 / (1 + np.exp(-sharpness * np.sin(phase)))


def stagger(along: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The place in 0..1 within a cell, where every other row is half a cell further on."""
    return (along + 0.5 * (np.floor(row) % 2)) % 1


@dataclass(frozen=True)
class Surface:
    """A patch of the canvas; a texture maps it to the share [h, w] of the second of two colours."""

    u: np.ndarray  # float32 [h, w], in periods of the texture
    v: np.ndarray
    rng: np.random.Generator
    canvas: int  # side of the whole canvas: noise is as coarse on a small patch as on a large one

    def noise(self, cells: float) -> np.ndarray:
        grid = [round(cells * side / self.canvas) + 2 for side in self.u.shape]
        values = Image.fromarray(self.rng.random(grid, dtype=np.float32))
        return np.asarray(values.resize(self.u.shape[::-1], Image.Resampling.BICUBIC))

    def clouds(self, cells: float, octaves: int = 3) -> np.ndarray:
        total = np.sum([self.noise(cells * 2**octave) / 2**octave for octave in range(octaves)], axis=0)
        total -= total.min()
        return total / (total.max() + 1e-6)

    def plain(self) -> np.ndarray:
        return 0.25 + 0.15 * self.clouds(6)

    def stripes(self) -> np.ndarray:
        return ripple(6 * self.u)

    def dots(self) -> np.ndarray:
        return np.hypot(self.u % 1 - 0.5, stagger(self.v, self.u) - 0.5) < 0.3

    def checks(self) -> np.ndarray:
        return (np.floor(self.u) + np.floor(self.v)) % 2

    def waves(self) -> np.ndarray:
        return ripple(6 * self.v + 1.6 * np.sin(4 * self.u))

    def bricks(self) -> np.ndarray:
        return (1.4 * self.v % 1 < 0.16) | (stagger(0.8 * self.u, 1.4 * self.v) < 0.1)

    def fur(self) -> np.ndarray:
        return ripple(9 * self.u + 6 * self.clouds(14), 2)

    def marble(self) -> np.ndarray:
        return np.abs(np.sin(1.5 * self.u + 9 * self.clouds(5, octaves=4))) ** 0.7

    def scales(self) -> np.ndarray:
        across = stagger(1.2 * self.u, 1.6 * self.v) - 0.5
        return np.minimum(0.9 * (3 * across**2 + (1.6 * self.v % 1) ** 2), 1)

    def hatching(self) -> np.ndarray:
        rising, falling = self.u + self.v, self.u - self.v
        return np.maximum(ripple(5 * rising, 6) * (0.8 * rising % 1 < 0.35), 0.8 * falling % 1 < 0.25)

    def rings(self) -> np.ndarray:
        return ripple(7 * np.hypot(self.u, self.v) + 1.2 * self.clouds(6))

    def specks(self) -> np.ndarray:
        return self.noise(34) > 0.66


Texture = Callable[[Surface], np.ndarray]
TEXTURES: tuple[Texture, ...] = (
    Surface.plain, Surface.stripes, Surface.dots, Surface.checks, Surface.waves, Surface.bricks,
    Surface.fur, Surface.marble, Surface.scales, Surface.hatching, Surface.rings, Surface.specks,
)  # fmt: skip


@dataclass(frozen=True)
class ShapeClass:
    """What the objects of a class have in common."""

    name: str
    silhouette: Callable[[Silhouette], Parts]
    body: Texture
    second: Texture  # of its second parts, where it has any
    body_hue: float  # 0..1 around the colour wheel
    second_hue: float


SHAPES = (
    ShapeClass("plane", Silhouette.plane, Surface.plain, Surface.stripes, 0.58, 0.02),
    ShapeClass("fish", Silhouette.fish, Surface.scales, Surface.fur, 0.08, 0.05),
    ShapeClass("bottle", Silhouette.bottle, Surface.marble, Surface.checks, 0.36, 0.12),
    ShapeClass("star", Silhouette.star, Surface.dots, Surface.plain, 0.14, 0.75),
    ShapeClass("chair", Silhouette.chair, Surface.fur, Surface.plain, 0.07, 0.60),
    ShapeClass("butterfly", Silhouette.butterfly, Surface.rings, Surface.plain, 0.80, 0.10),
    ShapeClass("gear", Silhouette.gear, Surface.specks, Surface.plain, 0.62, 0.55),
    ShapeClass("mushroom", Silhouette.mushroom, Surface.dots, Surface.marble, 0.00, 0.13),
    ShapeClass("car", Silhouette.car, Surface.plain, Surface.rings, 0.95, 0.65),
    ShapeClass("key", Silhouette.key, Surface.stripes, Surface.specks, 0.13, 0.16),
    ShapeClass("tree", Silhouette.tree, Surface.specks, Surface.fur, 0.30, 0.07),
    ShapeClass("cup", Silhouette.cup, Surface.checks, Surface.plain, 0.52, 0.50),
    ShapeClass("house", Silhouette.house, Surface.bricks, Surface.scales, 0.04, 0.98),
    ShapeClass("boat", Silhouette.boat, Surface.stripes, Surface.waves, 0.66, 0.90),
    ShapeClass("flower", Silhouette.flower, Surface.marble, Surface.dots, 0.88, 0.15),
    ShapeClass("quadruped", Silhouette.quadruped, Surface.fur, Surface.stripes, 0.10, 0.08),
    ShapeClass("crescent", Silhouette.crescent, Surface.hatching, Surface.plain, 0.16, 0.70),
    ShapeClass("umbrella", Silhouette.umbrella, Surface.waves, Surface.plain, 0.72, 0.30),
    ShapeClass("cactus", Silhouette.cactus, Surface.hatching, Surface.bricks, 0.40, 0.03),
    ShapeClass("snail", Silhouette.snail, Surface.rings, Surface.marble, 0.06, 0.20),
)
CLASSES: tuple[str, ...] = tuple(shape.name for shape in SHAPES)


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, min(max(value, 0.0), 1.0)), np.float32)


def blend(share: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first + share.astype(np.float32)[..., None] * (second - first)


def blur(image: np.ndarray, radius: float) -> np.ndarray:
    sharp = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
    return np.asarray(sharp.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


class Scene:
    """A canvas on which things are painted one over the other, with their labels and the void rim."""

    def __init__(
        self, rng: np.random.Generator, size: int, diversity: float, shapes: Sequence[ShapeClass] = SHAPES
    ) -> None:
        self.rng, self.size, self.diversity, self.shapes = rng, size, diversity, shapes
        self.scale = size / REFERENCE_SIZE
        self.whole: Window = np.s_[:size, :size]
        self.image = self.draw_background()  # float32 [S, S, 3], 0..1
        self.label = np.zeros((size, size), np.uint8)
        self.rim = np.zeros((size, size), bool)

    def stray(self, strength: float) -> float:
        return strength * self.diversity * self.rng.normal()

    def random_rotation(self) -> np.ndarray:
        return rotation(self.rng.uniform(0, 2 * math.pi))

    def random_texture(self) -> Texture:
        return TEXTURES[self.rng.integers(len(TEXTURES))]

    def surface(self, window: Window, matrix: np.ndarray, centre: np.ndarray) -> Surface:
        """The surface whose coordinates become pixels through `matrix` [2, 2] and `centre` (x, y)."""
        inverse = np.linalg.inv(matrix).astype(np.float32)[..., None, None]
        y, x = (axis.astype(np.float32) for axis in np.ogrid[window])
        u, v = inverse[:, 0] * (x - float(centre[0])) + inverse[:, 1] * (y - float(centre[1]))
        return Surface(u, v, self.rng, self.size)

    def overview(self) -> Surface:
        """The whole canvas, -1..1 about its middle, in a direction of its own."""
        return self.surface(self.whole, self.random_rotation() * self.size / 2, np.full(2, self.size / 2))

    def draw_background(self) -> np.ndarray:
        """Two or three textured areas, out of focus."""
        image = self.draw_area()
        for _ in range(self.rng.integers(1, 3)):
            surface = self.overview()
            if self.rng.random() < 0.6:
                inside = surface.clouds(self.rng.uniform(1.5, 4)) - self.rng.uniform(0.4, 0.6)
            else:
                inside = surface.u + 0.6 * self.rng.normal() + 0.1 * surface.clouds(6)
            image = blend(np.clip(inside * 12 + 0.5, 0, 1), image, self.draw_area())
        return blur(image, self.rng.uniform(0.6, 2.8) * self.scale)

    def draw_area(self) -> np.ndarray:
        rng = self.rng
        matrix = self.random_rotation() * self.size / 8 * math.exp(rng.normal() * 0.6)
        surface = self.surface(self.whole, matrix, rng.uniform(-0.5, 1.5, 2) * self.size)
        share = self.random_texture()(surface) * rng.uniform(0.1, 0.45) + 0.25 * surface.clouds(8)
        hue, value = rng.random(), rng.uniform(0.25, 0.9)
        first = rgb(hue, rng.uniform(0, 0.45), value)
        second = rgb(hue + rng.normal() * 0.08, rng.uniform(0, 0.45), value + rng.normal() * 0.25)
        return blend(share, first, second)

    def rasterise(self, parts: Parts, matrix: np.ndarray, centre: np.ndarray) -> tuple[Window, np.ndarray]:
        """The window that the parts need, and the share [4, h, w] of its pixels that each role has."""
        placed = [(role, outline @ matrix.T + centre) for role, outlines in parts for outline in outlines]
        points = np.concatenate([outline for _, outline in placed])
        low = np.clip(np.floor(points.min(0)).astype(int) - 1, 0, self.size - 2)
        high = np.clip(np.ceil(points.max(0)).astype(int) + 1, low + 2, self.size)
        width, height = (high - low).tolist()
        samples = Image.new("L", (2 * width, 2 * height), HOLE)  # two a pixel, each way
        draw = ImageDraw.Draw(samples)
        for role, outline in placed:
            draw.polygon((2 * (outline - low)).ravel().tolist(), fill=role)
        quarters = np.stack([np.asarray(samples)[y::2, x::2] for y in (0, 1) for x in (0, 1)])
        shares = np.stack([(quarters == role).mean(0, dtype=np.float32) for role in range(4)])
        return (slice(low[1], high[1]), slice(low[0], high[0])), shares

    def paint_object(self, class_id: int, angle: float) -> None:
        """An object of a class, at an angle on a circle around the middle."""
        rng, shape = self.rng, self.shapes[class_id - 1]
        reach = rng.uniform(0.5, 0.7) * self.size / 2  # half its extent, in pixels
        distance = rng.uniform(0.2, 0.3) * self.size
        centre = self.size / 2 + distance * np.array([math.cos(angle), math.sin(angle)])
        aspect, shear = math.exp(self.stray(0.18)), self.stray(0.2)
        deformed = np.array([[aspect * rng.choice([-1, 1]), shear], [0, 1 / aspect]])
        matrix = reach * rotation(rng.normal() * (0.1 + 0.35 * self.diversity)) @ deformed
        window, shares = self.rasterise(shape.silhouette(Silhouette(rng, self.diversity)), matrix, centre)
        cover = shares[BODY:].sum(0)
        colours = np.zeros((*cover.shape, 3), np.float32)
        for role, texture, hue in (
            (BODY, shape.body, shape.body_hue),
            (SECOND, shape.second, shape.second_hue),
            (DARK, Surface.plain, shape.body_hue + 0.5),
        ):
            if not shares[role].any():
                continue
            if role != DARK and rng.random() < 0.4 * self.diversity:
                texture = self.random_texture()
            turned = matrix @ rotation(self.stray(0.5)) / (4 * math.exp(self.stray(0.5)))
            origin = centre
            if texture is not Surface.rings:  # which stay around the middle: a shell, a pair of wings
                origin = centre + rng.random(2) * 7 * self.diversity * reach
            share = texture(self.surface(window, turned, origin))
            hue += rng.normal() * (0.03 + 0.22 * self.diversity)
            tones = (rgb(hue, 0.3, 0.25), rgb(hue, 0.2, 0.45)) if role == DARK else self.two_tones(hue)
            colours += shares[role][..., None] * blend(share, *tones)
        brightness = self.relief(cover, reach) / np.maximum(cover, 1e-3)
        self.paste(window, cover, colours * brightness[..., None], class_id)

    def two_tones(self, hue: float) -> tuple[np.ndarray, np.ndarray]:
        saturation = 0.75 - self.diversity * (self.rng.uniform(0, 0.35) + self.rng.uniform(0, 0.3))
        value = min(max(0.75 + self.stray(0.25), 0.3), 1.0)
        other_hue, other_value = hue + 0.08 + self.stray(0.15), value * (0.42 if value > 0.6 else 1.7)
        return rgb(hue, saturation, value), rgb(other_hue, 0.8 * saturation, other_value)

    def relief(self, cover: np.ndarray, reach: float) -> np.ndarray:
        """The brightness [h, w] of something that bulges: its blurred cover is a height, lit from one side."""
        slope_y, slope_x = np.gradient(blur(cover, max(2.0, 0.1 * reach)))
        angle = self.rng.uniform(0, 2 * math.pi)
        slope = 0.35 * reach * (slope_x * math.cos(angle) + slope_y * math.sin(angle))
        return 1 + np.clip(slope, -0.35, 0.35) * (0.5 + 0.5 * self.diversity)

    def paint_clutter(self, smallest: float, largest: float) -> None:
        """Something of no class, anywhere: a splinter, a splash, a stick or a card."""
        rng = self.rng
        kind = rng.integers(4)
        if kind == 0:
            angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(5, 9)))
            outline = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.4, 1, (len(angles), 1))
        elif kind == 1:
            angles = np.linspace(0, 2 * math.pi, 36, endpoint=False)
            lobes = 0.3 * np.sin(rng.integers(2, 5) * angles + rng.uniform(0, 2 * math.pi))
            outline = radial(0.65 + lobes + 0.12 * np.sin(rng.integers(4, 9) * angles))
        elif kind == 2:
            outline = bar(-1.3, 0, 1.3, 0.3 * rng.normal(), rng.uniform(0.08, 0.3))
        else:
            outline = rectangle(-1, -rng.uniform(0.3, 1), 1, rng.uniform(0.3, 1))
        matrix = rng.uniform(smallest, largest) * self.size / 2 * self.random_rotation()
        centre = rng.uniform(0, self.size, 2)
        window, shares = self.rasterise([(BODY, [outline])], matrix, centre)
        surface = self.surface(window, matrix / (4 * math.exp(0.5 * rng.normal())), centre)
        hue = rng.random()
        first = rgb(hue, rng.uniform(0, 0.9), rng.uniform(0.25, 1))
        second = rgb(hue + 0.15 * rng.normal(), rng.uniform(0, 0.9), rng.uniform(0.25, 1))
        self.paste(window, shares[BODY], blend(self.random_texture()(surface), first, second), 0)

    def paste(self, window: Window, cover: np.ndarray, colours: np.ndarray, class_id: int) -> None:
        """Put colours [h, w, 3] on top of all else where cover [h, w] says so; class id 0: of no class."""
        if self.rng.random() < 0.7:
            right, down = self.rng.uniform(-4, 4) * self.scale, self.rng.uniform(1, 4) * self.scale
            corner = (window[1].start + round(right), window[0].start + round(down))
            shadow = Image.new("F", (self.size, self.size))
            shadow.paste(Image.fromarray(cover), corner)
            self.image *= 1 - 0.45 * blur(np.asarray(shadow), 2 * self.scale)[..., None]
        self.image[window] = blend(cover, self.image[window], colours)
        mask = np.zeros((self.size, self.size), np.uint8)
        mask[window] = 255 * (cover > 0.5)
        near = np.asarray(Image.fromarray(mask).filter(ImageFilter.BoxBlur(max(1, round(self.scale)))))
        edge, inside = (near > 0) & (near < 255), mask > 0  # near an edge, a box holds inside and outside
        self.label[inside] = class_id
        self.rim[inside] = False
        self.rim |= edge if class_id else edge & (self.label > 0)

    def photograph(self) -> np.ndarray:
        """The image, uint8, under a light with a direction, strength, tint and contrast, and with noise."""
        rng = self.rng
        falloff = (0.15 + 0.35 * self.diversity) * rng.random() * self.overview().u
        tint = np.exp(self.stray(0.25) + 0.1 * self.diversity * rng.normal(size=3)).astype(np.float32)
        image = np.clip(self.image, 0, 1.2) * (1 + falloff)[..., None] * tint
        image = np.clip(image, 0, 1) ** math.exp(self.stray(0.25))
        image += rng.uniform(0.005, 0.03) * rng.standard_normal(image.shape, np.float32)
        return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def render(
    seed: Sequence[int], classes: Sequence[int], size: int, diversity: float, shapes: Sequence[ShapeClass] = SHAPES
) -> tuple[np.ndarray, np.ndarray]:
    """Render one scene: image, uint8 [S, S, 3], and label, uint8 [S, S]; the same arguments give the same bytes.

    `seed` is entropy, numbers of at least 0; `classes` the ids that may occur, in 1..20; `size` the side S, from 32;
    `diversity`, 0..1, how far an object strays from its class in form, pose, colour, texture and light. There are two
    or three objects of distinct classes, fewer if `classes` has fewer; void is at least 1 px on either side of an
    outline; below about 48 px a thin object can be all void. `shapes` are what the ids stand for. ValueError: an
    argument is out of its range.
    """
    allowed = sorted(set(classes))
    if not allowed or not set(allowed) <= set(range(1, len(CLASSES) + 1)):
        raise ValueError(f"classes must be ids in 1..{len(CLASSES)}, at least one, not {list(classes)}")
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, not {size}")
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity must be in 0..1, not {diversity}")
    rng = np.random.default_rng(list(seed))
    scene = Scene(rng, size, diversity, shapes)
    for _ in range(rng.integers(1, 3)):
        scene.paint_clutter(0.12, 0.4)
    amount = min(int(rng.integers(2, 4)), len(allowed))
    first_angle = rng.uniform(0, 2 * math.pi)
    for i, class_id in enumerate(rng.choice(allowed, amount, replace=False).tolist()):
        scene.paint_object(class_id, first_angle + i * 2 * math.pi / amount + 0.25 * rng.normal())
    if rng.random() < 0.15 + 0.5 * diversity:
        scene.paint_clutter(0.15, 0.3)
    return scene.photograph(), np.where(scene.rim, np.uint8(VOID), scene.label)


FOLDS = split_folds(len(CLASSES))


def prepare(
    root: Path,
    recipe: Recipe,
    noted: dict[str, Any],
    workers: int | None = None,
    shapes: Sequence[ShapeClass] = SHAPES,
) -> Benchmark:
    """Render a recipe's images into `root` and index them; the result does not depend on the number of processes."""
    amounts = {"train": recipe.train, "val": recipe.val}
    tasks = [(root, recipe, split, i, shapes) for split, amount in amounts.items() for i in range(1, amount + 1)]
    entries = tuple(index.in_processes(_render_one, tasks, workers, "rendering shapes"))
    return index.write(Benchmark("shapes", root, CLASSES, FOLDS, FOLDS, entries, recipe=noted))


def _render_one(task: tuple[Path, Recipe, str, int, Sequence[ShapeClass]]) -> Entry:
    root, recipe, split, number, shapes = task
    # A test scene shows the classes of one fold only, so that nothing in it was seen in training.
    classes = FOLDS[number % len(FOLDS)] if split == "val" else range(1, len(CLASSES) + 1)
    seed = [recipe.seed, SPLITS.index(split), number]
    picture, mask = render(seed, classes, recipe.size, recipe.diversity, shapes)
    image, label = f"images/{split}-{number:05d}.jpg", f"labels/{split}-{number:05d}.png"
    Image.fromarray(picture).save(packed := BytesIO(), "JPEG", quality=95)
    io.write(root / image, packed.getvalue(), WHERE)
    io.write(root / label, index.png(mask), WHERE)
    return Entry(Path(label).stem, split, image, label, (recipe.size, recipe.size), index.count(mask))
