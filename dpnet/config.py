"""What is trained and what is measured: frozen, hashable, and identified by what changes the result."""

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal

from dpnet.io import DPNetError

Pseudo = Literal["cycle", "cosine", "global", "none"]
VOID = 255  # the label of pixels that count for nothing
LISTS = ("pfenet", "canet")  # training lists of PASCAL VOC


@dataclass(frozen=True)
class Recipe:
    """What a benchmark consists of: `images` names the list of `pascal`, the rest describes `shapes`."""

    size: int = 161
    diversity: float = 0.4
    train: int = 1000
    val: int = 400
    seed: int = 0
    images: str = "pfenet"

    def __post_init__(self) -> None:
        for name, least in (("size", 32), ("train", 1), ("val", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise DPNetError(f"{name}={getattr(self, name)}: must be at least {least}")
        if not 0 <= self.diversity <= 1:
            raise DPNetError(f"diversity={self.diversity}: must lie between 0 and 1")
        if self.images not in LISTS:
            raise DPNetError(f"images={self.images!r}: no such list; known are {', '.join(LISTS)}")

    @property
    def mark(self) -> str:
        """The part of a run's id that names a `diversity` other than the default."""
        return "" if self.diversity == Recipe.diversity else f"-diversity{self.diversity:g}"


@dataclass(frozen=True)
class Variant:
    """One row of an ablation: its modules, its loss weights, and a reading of each point that the paper leaves open.

    Arguments:
        pim: prototype interaction (Eq. 4-8); without it P, P_q and F_q pass unchanged.
        msf: multi-scale fusion; without it one 1x1 convolution at full scale.
        pseudo: the cells of P_q: "cycle" (CCM), "cosine" (forward match only), "global" (all), "none" (P_q = P).
        lambda_1, lambda_2: weights of the auxiliary and the discriminator's loss (Eq. 11).
        beta: the discriminator's threshold while training.
        reduction: "3x3", shared by support and query, or "1x1-separate" (PFENet's).
        confidence: a query cell that several supports reach counts once ("set") or as often ("multiset").
        discriminator_width: hidden units as a multiple of the head's width.
        dis_over: the cells of L_dis: all candidates ("C") or the selected ones ("C'", as Eq. 10 prints it).
        alpha: the residual scale of PIM at the start (Eq. 6-8).
        msf_convs: the three convolutions are "shared" by P and P_q, or "separate" (six).
        void_in_loss: void pixels (255) are left out ("ignore", PFENet), as in L_dis, or "background" (CANet).
    """

    pim: bool = True
    msf: bool = True
    pseudo: Pseudo = "cycle"
    lambda_1: float = 1.0
    lambda_2: float = 1.0
    beta: float = 0.5
    reduction: Literal["3x3", "1x1-separate"] = "3x3"
    confidence: Literal["set", "multiset"] = "set"
    discriminator_width: int = 2
    dis_over: Literal["C", "C'"] = "C"
    alpha: float = 0.0
    msf_convs: Literal["shared", "separate"] = "shared"
    void_in_loss: Literal["ignore", "background"] = "ignore"

    @property
    def slug(self) -> str:
        """A readable name: the modules, then whatever differs from the defaults."""
        modules = [name for name, on in (("pim", self.pim), ("msf", self.msf)) if on]
        modules += {"cycle": ["ccm"], "none": []}.get(self.pseudo, [self.pseudo])
        rest = {k: v for k, v in _changed(self).items() if k not in ("pim", "msf", "pseudo")}
        return "-".join(["+".join(modules) or "base", *(f"{k}={v}".replace("'", "p") for k, v in rest.items())])


@dataclass(frozen=True)
class Training:
    """The network's size and its schedule; `companion/presets.py` sets them.

    Arguments:
        backbone: "efficientnet_lite0" or "resnet50".
        size: side of the square input, in pixels; 8k + 1 gives a grid of (k + 1)².
        width: channels of the head (256 in the paper).
        dilations: of the decoder's three 3x3 branches, in cells.
        dropout: probability of dropping a channel.
        steps: optimiser steps; `batch` episodes each.
        optimizer: "sgd" (momentum 0.9) or "adamw".
        learning_rate: at the start.
        decay: power of the polynomial decay to zero; 0 keeps the rate fixed.
        weight_decay: as the optimiser defines it.
        augment: "flip", or "geometric" (flip, scale, rotation, crop), which runs the backbone at every step.
        novel: "drop" leaves out training images that show a novel class; to "background" its pixels are background.
        precision: "fp32" or "bf16" (autocast).
        least: classes with fewer training images are not trained on.
    """

    backbone: str
    size: int
    width: int
    dilations: tuple[int, int, int]
    dropout: float
    steps: int
    batch: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    decay: float
    weight_decay: float
    augment: Literal["flip", "geometric"]
    novel: Literal["drop", "background"]
    precision: Literal["fp32", "bf16"] = "fp32"
    least: int = 2


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
    """One way of scoring a run on its fold's episodes.

    Arguments:
        episodes: how many.
        shot: supports per episode.
        beta: the discriminator's threshold.
        scales: of the query; several are averaged.
        branch: "main", or "aux" for the branch without pseudo-prototype.
        support: "right", or "wrong" for the control: supports of a class that the query lacks.
    """

    episodes: int
    shot: int = 1
    beta: float = 0.2
    scales: tuple[float, ...] = (1.0,)
    branch: Literal["main", "aux"] = "main"
    support: Literal["right", "wrong"] = "right"

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
