"""What is trained and what is measured: frozen, hashable, and identified by what changes the result."""

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal

Pseudo = Literal["cycle", "cosine", "global", "none"]
BENCHMARKS = ("shapes", "pascal", "pascal-part", "coco", "folder")
VOID = 255  # the label of pixels that count for nothing


@dataclass(frozen=True)
class Recipe:
    """What a benchmark consists of: `images` names the list of `pascal` (pfenet, canet), the rest is of `shapes`."""

    size: int = 161
    diversity: float = 0.4
    train: int = 1000
    val: int = 400
    seed: int = 0
    images: str = "pfenet"

    @property
    def mark(self) -> str:
        """The part of a run's id that names a `diversity` other than the default."""
        return "" if self.diversity == Recipe.diversity else f"-diversity{self.diversity:g}"


@dataclass(frozen=True)
class Variant:
    """A row of an ablation: its modules and loss weights, and a reading of each point that the paper leaves open."""

    pim: bool = True  # prototype interaction (Eq. 4-8); without it P, P_q and F_q pass unchanged
    msf: bool = True  # multi-scale fusion; without it one 1x1 convolution at full scale
    pseudo: Pseudo = "cycle"  # the cells of P_q: CCM's, of the forward match only, all, or no P_q (P_q = P)
    lambda_1: float = 1.0  # weight of the auxiliary loss (Eq. 11)
    lambda_2: float = 1.0  # and of the discriminator's
    beta: float = 0.5  # the discriminator's threshold while training
    reduction: Literal["3x3", "1x1-separate"] = "3x3"  # shared by support and query, or PFENet's
    confidence: Literal["set", "multiset"] = "set"  # a query cell reached several times counts once, or as often
    discriminator_width: int = 2  # hidden units as a multiple of the head's width
    dis_over: Literal["C", "C'"] = "C"  # the cells of L_dis: all candidates, or the selected ones (as in Eq. 10)
    alpha: float = 0.0  # the residual scale of PIM at the start (Eq. 6-8)
    msf_convs: Literal["shared", "separate"] = "shared"  # three convolutions for P and P_q together, or six
    void_in_loss: Literal["ignore", "background"] = "ignore"  # void pixels (255) left out (PFENet), or CANet's way

    @property
    def slug(self) -> str:
        """A readable name: the modules, then whatever differs from the defaults."""
        modules = [name for name, on in (("pim", self.pim), ("msf", self.msf)) if on]
        modules += {"cycle": ["ccm"], "none": []}.get(self.pseudo, [self.pseudo])
        rest = {k: v for k, v in _changed(self).items() if k not in ("pim", "msf", "pseudo")}
        return "-".join(["+".join(modules) or "base", *(f"{k}={v}".replace("'", "p") for k, v in rest.items())])


@dataclass(frozen=True)
class Training:
    """The network's size and its schedule; `companion/presets.py` sets them."""

    backbone: str  # efficientnet_lite0 or resnet50
    size: int  # side of the square input, in pixels; 8k + 1 gives a grid of (k + 1)²
    width: int  # channels of the head (256 in the paper)
    dilations: tuple[int, int, int]  # of the decoder's three 3x3 branches, in cells
    dropout: float  # probability of dropping a channel
    steps: int  # of the optimiser
    batch: int  # episodes per step
    optimizer: Literal["sgd", "adamw"]  # sgd: with momentum 0.9
    learning_rate: float  # at the start
    decay: float  # power of the polynomial decay to zero; 0 keeps the rate fixed
    weight_decay: float  # as the optimiser defines it
    augment: Literal["flip", "geometric"]  # geometric (flip, scale, rotation, crop) runs the backbone at every step
    novel: Literal["drop", "background"]  # training images with novel classes: left out, or these are background
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast
    warmup: int = 1  # steps in which the rate rises to the start's
    clip: float = 0.0  # gradients of a larger norm are scaled down to this; 0: none
    absent: float = 0.0  # share of the episodes whose query lacks the class; the paper's all show it


@dataclass(frozen=True)
class Run:
    """One training: a variant on one fold of one benchmark, from one seed."""

    benchmark: str
    recipe: Recipe
    training: Training
    fold: int
    seed: int
    variant: Variant

    @property
    def id(self) -> str:
        """Readable, and unique to everything that changes the result."""
        return f"fold{self.fold}-seed{self.seed}{self.recipe.mark}-{self.variant.slug}-{fingerprint(self)}"


@dataclass(frozen=True)
class Evaluation:
    """One way of scoring a run on its fold's episodes."""

    episodes: int
    shot: int = 1  # supports per episode
    beta: float = 0.2  # the discriminator's threshold
    scales: tuple[float, ...] = (1.0,)  # of the query; several are averaged
    branch: Literal["main", "aux"] = "main"  # aux: without pseudo-prototype
    support: Literal["right", "wrong"] = "right"  # wrong, the control: of a class that the query lacks

    @property
    def id(self) -> str:
        """Readable and complete: everything that an evaluation is."""
        scales = ",".join(f"{s:g}" for s in self.scales)
        return f"{self.branch}-{self.support}-{self.shot}shot-beta{self.beta:g}-x{scales}-{self.episodes}ep"


@dataclass(frozen=True)
class Baselines:
    """What needs no training, on the same episodes."""

    kind: ClassVar = "Yardsticks"  # the class's name when results were first stored: their ids hash it

    benchmark: str
    recipe: Recipe
    fold: int
    seed: int
    backbone: str
    size: int
    episodes: int
    shot: int = 1
    names: tuple[str, ...] = (
        "prototype", "prototype-wrong", "objects", "ceiling", "matches-cosine", "matches-cycle"
    )  # fmt: skip

    @property
    def id(self) -> str:
        """Readable, and unique to what changes the result."""
        return f"fold{self.fold}-seed{self.seed}{self.recipe.mark}-yardsticks-{self.shot}shot-{fingerprint(self)}"

    @property
    def measured(self) -> list[str]:
        """`names` that apply: the cells that a support reaches are counted for one shot only (Fig. 3)."""
        return [name for name in self.names if self.shot == 1 or not name.startswith("matches")]


def fingerprint(record: Any) -> str:
    """Eight hex digits of a dataclass's content; defaults do not count, so that a new field renames no run."""
    text = json.dumps({"kind": kind_of(record), **_changed(record)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def kind_of(record: Any) -> str:
    """What ids and `run.json` call a record's class."""
    return str(getattr(record, "kind", type(record).__name__))


def _changed(record: Any) -> dict[str, Any]:
    values = {f.name: getattr(record, f.name) for f in fields(record) if getattr(record, f.name) != f.default}
    return {name: _changed(value) if is_dataclass(value) else value for name, value in values.items()}
