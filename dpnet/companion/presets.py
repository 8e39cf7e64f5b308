"""The only place with sizes: what `tiny`, `quick`, `mini` and `paper` mean on each benchmark.

tiny   seconds: CI, and a look at how things work. Its numbers mean nothing.
quick  minutes on two CPU cores; frozen features are computed once, and only flips augment.
mini   a small GPU for minutes: EfficientNet-Lite0 at 321², geometric augmentation.
paper  the paper's setting: ResNet-50, 321² (PASCAL) or 641² (COCO), its learning rate and epochs.
"""

from dataclasses import dataclass, replace

from dpnet.config import BENCHMARKS, Baselines, Recipe, Run, Training, Variant
from dpnet.io import DPNetError

PRESETS = ("tiny", "quick", "mini", "paper")


@dataclass(frozen=True)
class Setting:
    """A benchmark at a preset's sizes: what is rendered, what is trained, how many episodes are scored."""

    benchmark: str
    preset: str
    recipe: Recipe
    training: Training
    episodes: int

    @property
    def name(self) -> str:
        """The name of its results folder."""
        return f"{self.benchmark}-{self.preset}"

    def at(self, diversity: float | None) -> "Setting":
        """The same with another diversity of `shapes`; None: its own."""
        return self if diversity is None else replace(self, recipe=replace(self.recipe, diversity=diversity))

    def run(self, variant: Variant, fold: int, seed: int) -> Run:
        """The training of a variant."""
        return Run(self.benchmark, self.recipe, self.training, fold, seed, variant)

    def baselines(self, fold: int, seed: int, shot: int = 1) -> Baselines:
        """What needs no training, on the same episodes."""
        t = self.training
        return Baselines(self.benchmark, self.recipe, fold, seed, t.backbone, t.size, self.episodes, shot)


_QUICK = Training(
    backbone="efficientnet_lite0",
    size=161,
    width=64,
    dilations=(2, 4, 6),  # the paper's 6, 12, 18 on a grid of 21² instead of 41²
    dropout=0.1,
    steps=1600,  # like the dropout chosen on classes that are not the benchmark's: results/shapes-quick/recipe.csv
    batch=4,
    optimizer="adamw",
    learning_rate=1e-3,
    decay=0.9,
    weight_decay=1e-2,
    augment="flip",
    novel="drop",
    precision="bf16",
)
_TINY = replace(_QUICK, size=65, width=16, dilations=(1, 2, 3), dropout=0.0, steps=60, learning_rate=3e-3)
_WIDE = replace(_QUICK, size=321, width=256, dilations=(6, 12, 18), dropout=0.5, optimizer="sgd")
_MINI = replace(_WIDE, steps=2000, batch=8, learning_rate=0.01, weight_decay=5e-4, augment="geometric")
# 200 epochs over the 5,953 training images of PASCAL in batches of 4; a fold's own list is a little shorter.
_PAPER = replace(
    _MINI, backbone="resnet50", batch=4, learning_rate=0.0025, decay=0.0, novel="background", steps=200 * 5953 // 4
)

_SHAPES = {
    "tiny": (Recipe(size=65, train=120, val=80), _TINY, 40),
    "quick": (Recipe(), _QUICK, 400),
    "mini": (Recipe(size=321, train=2000), _MINI, 1000),
    "paper": (Recipe(size=321, train=6000, val=1500), _PAPER, 1000),
}
# Photographs: images with novel classes are kept, as background; of the recipe only the list of images matters.
_PHOTOGRAPHS = {
    "tiny": (Recipe(), replace(_TINY, novel="background"), 40),
    # Compared with others on base classes: results/pascal-part-quick/recipe.csv.
    "quick": (Recipe(), replace(_QUICK, novel="background", size=241, dilations=(3, 6, 9), steps=2400), 1000),
    "mini": (Recipe(), replace(_MINI, novel="background"), 1000),
    "paper": (Recipe(), _PAPER, 1000),
}

_SPECIAL = {
    # 20 epochs over the 82,081 training images of COCO that have objects, in batches of 8.
    ("coco", "paper"): replace(_PAPER, size=641, batch=8, learning_rate=0.005, steps=20 * 82081 // 8),
}


def resolve(benchmark: str, preset: str) -> Setting:
    """The sizes of a preset on a benchmark."""
    for kind, name, known in (("benchmark", benchmark, BENCHMARKS), ("preset", preset, PRESETS)):
        if name not in known:
            raise DPNetError(f"unknown {kind} {name!r}: choose from {', '.join(known)}")
    recipe, training, episodes = (_SHAPES if benchmark == "shapes" else _PHOTOGRAPHS)[preset]
    return Setting(benchmark, preset, recipe, _SPECIAL.get((benchmark, preset), training), episodes)
