"""DPNet (Fig. 2): a frozen backbone, and a head that holds everything that is trained."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnet import backbones, modules
from dpnet.backbones import Backbone, Weights
from dpnet.config import Pseudo, Variant

FOREGROUND = 1


class Output(NamedTuple):
    """What the network says of a batch of episodes, on the feature grid h x w."""

    logits: Tensor  # [B, 2, h, w]
    aux_logits: Tensor  # [B, 2, h, w], from the branch without pseudo-prototype
    candidates: Tensor  # bool [B, K, h, w]: C, per support
    selected: Tensor  # bool [B, K, h, w]: C', per support
    scores: Tensor | None  # [B, K, h, w]: logits of the discriminator


class Matched(NamedTuple):
    """A head's state before the threshold."""

    F_q: Tensor  # reduced query features [B, C, h, w]
    P: Tensor  # prototype of each support [B, K, C]
    counts: Tensor  # int64 [B, K, N]: how often each query cell is a candidate
    scores: Tensor | None  # logits of the discriminator [B, K, N]


class DPNet(nn.Module):
    """The Dual Prototype Network.

    Arguments:
        backbone, weights: "resnet50" or "efficientnet_lite0", with "imagenet" or None; or a `Backbone`.
        width, dilations, dropout: as in `Training`.
        generator: of the random parameters; None: the global one.
        readings: fields of `Variant`: which modules, and each point that the paper leaves open.
    """

    def __init__(
        self,
        backbone: str | Backbone = "resnet50",
        weights: Weights = "imagenet",
        *,
        width: int = 256,
        dilations: tuple[int, ...] = (6, 12, 18),
        dropout: float = 0.5,
        generator: torch.Generator | None = None,
        **readings: Any,
    ) -> None:
        super().__init__()
        if isinstance(backbone, str):
            backbone = backbones.build(backbone, weights, generator)
        self.backbone = backbone
        self.head = Head(backbone.channels, Variant(**readings), width, dilations, dropout, generator)

    def forward(
        self, support_images: Tensor, support_masks: Tensor, query_images: Tensor, beta: float = 0.2
    ) -> Output:
        """Segment queries with the help of K supports each.

        Arguments:
            support_images: [B, K, 3, H, W], uint8 or float in 0..1.
            support_masks: [B, K, H, W] with 0, 1 and 255 (void, taken as background).
            query_images: [B, 3, H, W].
            beta: the discriminator's threshold (0.2 in the paper's tests); 0 keeps every candidate.

        Returns:
            `.logits`, `.aux_logits` [B, 2, h, w]; `.candidates`, `.selected` bool [B, K, h, w].
        """
        B, K = support_images.shape[:2]
        if support_masks.shape != (B, K, *support_images.shape[3:]) or query_images.shape[0] != B:
            shapes = [list(tensor.shape) for tensor in (support_images, support_masks, query_images)]
            raise ValueError(f"expected supports [B,K,3,H,W], masks [B,K,H,W], queries [B,3,H,W]; got {shapes}")
        # 1. Frozen features, and the supports' masks on their grid.
        raw_s = self.backbone(support_images.flatten(0, 1)).unflatten(0, (B, K))
        raw_q = self.backbone(query_images)
        masks = soft_masks(support_masks, raw_s.shape[-2:])
        # 2. Candidates: the cycle from support to query and back (Eq. 1-2).
        counts = shared_counts(self.backbone, raw_s, raw_q, masks, self.head.variant.pseudo)
        # 3. Prototypes, interaction, fusion, decoding (Eq. 3-8).
        features = self.backbone.features
        return self.head(features(raw_s), masks, features(raw_q), counts, beta)


class Head(nn.Module):
    """Everything that is trained, on backbone features (of `channels`) that several heads may share."""

    def __init__(
        self,
        channels: int,
        variant: Variant,
        width: int = 256,
        dilations: tuple[int, ...] = (6, 12, 18),
        dropout: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.variant = variant
        # The order of these lines is the order in which parameters are drawn.
        self.reduce: nn.Module
        if variant.reduction == "3x3":
            self.reduce = nn.Conv2d(channels, width, 3, padding=1)
        else:  # PFENet's: one for the support, one for the query
            self.reduce = nn.ModuleList(nn.Conv2d(channels, width, 1, bias=False) for _ in range(2))
        self.dropout = modules.Dropout2d(dropout)
        cycle = variant.pseudo == "cycle"
        self.comparison = modules.CycleComparison(width, variant.discriminator_width * width) if cycle else None
        self.interaction = modules.PrototypeInteraction(width, variant.alpha) if variant.pim else None
        fusions = 1 if variant.msf_convs == "shared" else 2
        self.fusion = nn.ModuleList(modules.MultiScaleFusion(width, 3 if variant.msf else 1) for _ in range(fusions))
        self.decoder = modules.ASPPDecoder(2 * width, width, dilations, dropout)
        self.aux_decoder = modules.ASPPDecoder(width, width, dilations, dropout)
        backbones.reset(self, generator)

    def draw_dropout_from(self, generator: torch.Generator) -> None:
        """Let all dropout of this head come from `generator`."""
        for module in self.modules():
            if isinstance(module, modules.Dropout2d):
                module.generator = generator

    def forward(self, F_s: Tensor, masks: Tensor, F_q: Tensor, counts: Tensor, beta: float) -> Output:
        """Segment queries.

        Arguments:
            F_s, F_q: backbone features of supports [B, K, C_b, h, w] and queries [B, C_b, h, w].
            masks: of the supports, on the grid [B, K, h, w].
            counts: int64 [B, K, N], from `shared_counts`.
            beta: the discriminator's threshold in [0, 1]; 0 selects every candidate.
        """
        return self.segment(self.match(self.prototypes(F_s, masks), F_q, counts), beta)

    def prototypes(self, F_s: Tensor, masks: Tensor) -> Tensor:
        """P of each support [B, K, C]; arguments as in `forward`."""
        B, K = F_s.shape[:2]
        reduced = self.reduced(F_s.flatten(0, 1), "support")
        return modules.masked_average(reduced.flatten(2), masks.flatten(0, 1).flatten(1)).unflatten(0, (B, K))

    def match(self, P: Tensor, F_q: Tensor, counts: Tensor) -> Matched:
        """Everything up to the threshold, which several values of beta share; arguments as in `forward`."""
        F_q = self.reduced(F_q, "query")
        if self.comparison is None:
            return Matched(F_q, P, counts, None)
        B, K = P.shape[:2]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.variant.lambda_2 > 0):  # only for L_dis
            scores = self.comparison(_per_support(F_q.flatten(2), K), P.flatten(0, 1)).unflatten(0, (B, K))
        return Matched(F_q, P, counts, scores)

    def segment(self, matched: Matched, beta: float) -> Output:
        """Select C' (Eq. 3), fuse, and decode."""
        F_q, P, counts, scores = matched
        selected = self.select(matched, beta)
        with_P, with_P_q = self.fuse(F_q, P.mean(1), self.pseudo_prototypes(matched, selected))
        logits = self.decode(with_P, with_P_q)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.variant.lambda_1 > 0):  # only for L_aux
            aux_logits = self.aux_decoder(with_P)
        grid = (*P.shape[:2], *F_q.shape[-2:])
        scores = None if scores is None else scores.reshape(grid)
        return Output(logits, aux_logits, (counts > 0).reshape(grid), selected.reshape(grid), scores)

    def reduced(self, F: Tensor, of: Literal["support", "query"]) -> Tensor:
        """Backbone features [N, C_b, h, w] of supports or queries -> [N, C, h, w]."""
        reduce = self.reduce[of == "query"] if isinstance(self.reduce, nn.ModuleList) else self.reduce
        return self.dropout(reduce(F).relu_())

    def select(self, matched: Matched, beta: float) -> Tensor:
        """C' (Eq. 3): candidates that the discriminator believes, bool [B, K, N]."""
        selected = matched.counts > 0
        if matched.scores is not None and beta > 0:
            selected = selected & (matched.scores.sigmoid() > beta)
        return selected

    def pseudo_prototypes(self, matched: Matched, selected: Tensor) -> Tensor:
        """P_q of C' (bool [B, K, N]), averaged over the supports: [B, C]."""
        F_q, P, counts, _ = matched
        B, K = P.shape[:2]
        weights = counts.clamp(max=1) if self.variant.confidence == "set" else counts
        cells = _per_support(F_q.flatten(2), K)
        each = modules.pseudo_prototype(cells, P.flatten(0, 1), (weights * selected).flatten(0, 1))
        return each.unflatten(0, (B, K)).mean(1)

    def fuse(self, F_q: Tensor, P: Tensor, P_q: Tensor) -> tuple[Tensor, Tensor]:
        """F_q [B, C, h, w] fused with P, and with P_q [B, C], after interaction; one tensor twice where P_q is P."""
        if self.interaction is not None:
            P, P_q, F_q = self.interaction(P, P_q, F_q)
        if len(self.fusion) == 2:
            return self.fusion[0](F_q, P)[0], self.fusion[1](F_q, P_q)[0]
        prototypes = [P] if self.variant.pseudo == "none" else [P, P_q]  # P_q = P: one map stands for both
        maps = self.fusion[0](F_q, *prototypes)
        return maps[0], maps[-1]

    def decode(self, with_P: Tensor, with_P_q: Tensor) -> Tensor:
        """Logits [B, 2, h, w] of the main branch, from `fuse`."""
        if with_P_q is with_P:
            return self.decoder(with_P, twice=True)
        return self.decoder(torch.cat([with_P, with_P_q], 1))


def _per_support(cells: Tensor, K: int) -> Tensor:
    """Query cells once for each of K supports, [B, C, N] -> [B K, C, N]; a cell's channels stay neighbours."""
    return cells.mT[:, None].expand(-1, K, -1, -1).flatten(0, 1).mT


def soft_masks(masks: Tensor, grid: tuple[int, ...] | torch.Size) -> Tensor:
    """Support masks [B, K, H, W] on the feature grid, float32 [B, K, h, w], read where the cells lie; void is 0.

    Inputs of 8k + 1 pixels are read at pixels 0, 8, ..., 8k: 0 or 1. Other sizes are read between pixels. An object
    that no cell reads has its share of each cell's area instead: its prototype is never one of nothing.
    """
    foreground = (masks == FOREGROUND).float()
    read = modules.resize(foreground, grid)
    shares = F.adaptive_avg_pool2d(foreground, (grid[0], grid[1]))
    return torch.where(read.amax((-2, -1), keepdim=True) > 0, read, shares)


def hard_masks(soft: Tensor) -> Tensor:
    """Foreground cells of supports: above 0.5; where none is, the highest. [..., h, w] -> bool [..., h w]."""
    soft = soft.flatten(-2)
    hard = soft > 0.5
    highest = F.one_hot(soft.argmax(-1), soft.shape[-1]).bool()
    return torch.where(hard.any(-1, keepdim=True), hard, highest)


@torch.no_grad()
def shared_counts(backbone: Backbone, raw_s: Tensor, raw_q: Tensor, masks: Tensor, pseudo: Pseudo) -> Tensor:
    """Candidates of all (query, support) pairs, int64 [B, K, h' w']; frozen, so heads of the same kind share them.

    Arguments:
        raw_s, raw_q: features of `backbone`, of supports [B, K, C_b, h, w] and queries [B, C_b, h', w'].
        masks: of the supports, on the grid [B, K, h, w].
        pseudo: "cycle", "cosine", "global" (every cell) or "none" (no cell).
    """
    B, K = raw_s.shape[:2]
    if pseudo == "global" or pseudo == "none":
        every = torch.ones(B, K, raw_q[0, 0].numel(), dtype=torch.long, device=raw_q.device)
        return every if pseudo == "global" else every * 0
    F_s = backbone.comparison(raw_s).flatten(0, 1).float()
    F_q = _per_support(backbone.comparison(raw_q).float(), K)
    return modules.candidate_counts(F_s, F_q, hard_masks(masks).flatten(0, 1), pseudo).unflatten(0, (B, K))
