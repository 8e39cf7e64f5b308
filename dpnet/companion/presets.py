"""The only place with sizes: what `tiny`, `quick`, `mini` and `paper` mean on each benchmark.

tiny   seconds: CI, and a look at how things work. Its numbers mean nothing.
quick  minutes on two CPU cores; frozen features are computed once, and only flips augment.
mini   a small GPU for minutes: EfficientNet-Lite0 at 321², geometric augmentation.
paper  the paper's setting: ResNet-50, 321² (PASCAL) or 641² (COCO), its learning rate and epochs.
"""

from dataclasses import dataclass, replace
from typing import Any

from dpnet.config import Recipe, Training
from dpnet.io import DPNetError

BENCHMARKS = ("shapes", "pascal", "pascal-mini", "coco", "folder")
PRESETS = ("tiny", "quick", "mini", "paper")


@dataclass(frozen=True)
class Preset:
    """Everything with a size: what is rendered, what is trained, how many episodes are scored."""

    recipe: Recipe
    training: Training
    episodes: int


_QUICK = Training(
    backbone="efficientnet_lite0",
    size=161,
    width=64,
    dilations=(2, 4, 6),  # the paper's 6, 12, 18 on a grid of 21² instead of 41²
    dropout=0.1,  # chosen on classes that are not the benchmark's: its silhouettes in other textures and hues
    steps=800,
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
_MINI = replace(
    _QUICK,
    size=321,
    width=256,
    dilations=(6, 12, 18),
    dropout=0.5,
    steps=2000,
    batch=8,
    optimizer="sgd",
    learning_rate=0.01,
    weight_decay=5e-4,
    augment="geometric",
)
_PAPER = replace(_MINI, backbone="resnet50", batch=4, learning_rate=0.0025, decay=0.0, novel="background")

_SHAPES = Recipe(size=161, diversity=0.4, train=1000, val=400, seed=0)
_PASCAL = Recipe()  # photographs: only its list of images matters

# 200 epochs over the 5,953 training images in batches of 4; a fold's own list is a little shorter.
_PASCAL_STEPS = 200 * 5953 // 4
# 20 epochs over the 82,081 training images that have objects, in batches of 8.
_COCO = replace(_PAPER, size=641, batch=8, learning_rate=0.005, steps=20 * 82081 // 8)

_TABLE: dict[tuple[str, str], Preset] = {
    ("shapes", "tiny"): Preset(replace(_SHAPES, size=65, train=120, val=80), _TINY, episodes=40),
    ("shapes", "quick"): Preset(_SHAPES, _QUICK, episodes=400),
    ("shapes", "mini"): Preset(replace(_SHAPES, size=321, train=2000), _MINI, episodes=1000),
    ("shapes", "paper"): Preset(
        replace(_SHAPES, size=321, train=6000, val=1500), replace(_PAPER, steps=_PASCAL_STEPS), episodes=1000
    ),
}
# Of 20 classes `pascal-mini` has 13 with at least 20 images: the rest is neither trained on nor tested.
for _name, _least in (("pascal", 2), ("pascal-mini", 10), ("coco", 2), ("folder", 2)):
    _kept: dict[str, Any] = {"novel": "background", "least": _least}
    _photographs = replace(_QUICK, size=241, dilations=(3, 6, 9))
    _whole = _COCO if _name == "coco" else replace(_PAPER, steps=_PASCAL_STEPS)
    _TABLE |= {
        (_name, "tiny"): Preset(_PASCAL, replace(_TINY, **_kept), episodes=40),
        (_name, "quick"): Preset(_PASCAL, replace(_photographs, **_kept), episodes=1000),
        (_name, "mini"): Preset(_PASCAL, replace(_MINI, **_kept), episodes=1000),
        (_name, "paper"): Preset(_PASCAL, replace(_whole, **_kept), episodes=1000),
    }

# Among these `python -m dpnet choose` compares, on training images of classes that no fold tests. They cost about
# the same to train, so that "longer" is paid for with smaller images.
_PLAIN = _TABLE["pascal-mini", "quick"].training
CANDIDATES: dict[tuple[str, str], dict[str, Training]] = {
    ("pascal-mini", "quick"): {
        "plain": _PLAIN,
        "dropout": replace(_PLAIN, dropout=0.5),
        "geometric": replace(_PLAIN, augment="geometric"),
        "shorter": replace(_PLAIN, steps=400),
        "slower": replace(_PLAIN, learning_rate=3e-4),
        "small-longer": replace(_PLAIN, size=161, dilations=(2, 4, 6), steps=1800),
    }
}
# The highest mean, in results/pascal-mini-quick/recipe.csv.
_CHOSEN = CANDIDATES["pascal-mini", "quick"]["slower"]
_TABLE["pascal-mini", "quick"] = replace(_TABLE["pascal-mini", "quick"], training=_CHOSEN)


def get(benchmark: str, preset: str) -> Preset:
    """The sizes of a preset on a benchmark.

    Arguments:
        benchmark: one of `BENCHMARKS`.
        preset: one of `PRESETS`.

    Returns:
        the preset.

    Raises:
        DPNetError: either name is unknown.
    """
    if benchmark not in BENCHMARKS:
        raise DPNetError(f"unknown benchmark {benchmark!r}: choose from {', '.join(BENCHMARKS)}")
    if preset not in PRESETS:
        raise DPNetError(f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
    return _TABLE[benchmark, preset]
