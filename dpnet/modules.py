"""The boxes of Fig. 2: cycle comparison, prototype interaction, multi-scale fusion, decoder.

Symbols are the paper's: F_s, F_q features of support and query, P the prototype, P_q the pseudo-prototype,
C the confidence set, C' what the discriminator leaves of it. B episodes, h x w cells, N = h w, C channels.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5
BLOCK = 1024  # support cells that are compared at a time: all of them up to 249² pixels


def cycle_matches(F_s: Tensor, F_q: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Nearest query cell of each support cell, and nearest support cell of each query cell, by cosine (Eq. 1, 2).

    Only `block` rows of the affinity exist at a time: memory grows with the cells of an image, not with their square.
    Features of support [B, C, N_s] and query [B, C, N_q] -> j* [B, N_s] in 0..N_q-1, and i* [B, N_q] in 0..N_s-1.
    """
    F_s, F_q = F.normalize(F_s, dim=1), F.normalize(F_q, dim=1)
    best = F_q.new_full((len(F_q), F_q.shape[2]), -torch.inf)  # similarity of each query cell to i*
    i_star, j_star = torch.zeros_like(best, dtype=torch.long), []
    for start in range(0, F_s.shape[2], block):
        affinity = F_s[:, :, start : start + block].transpose(1, 2) @ F_q  # [B, block, N_q]
        j_star.append(affinity.argmax(2))
        value, index = affinity.max(1)
        # Strictly greater: of equals the first stays, as in one arg-max over all rows.
        i_star = torch.where(value > best, index + start, i_star)
        best = torch.maximum(value, best)
    return torch.cat(j_star, 1), i_star


def candidate_counts(F_s: Tensor, F_q: Tensor, foreground: Tensor, pseudo: Literal["cycle", "cosine"]) -> Tensor:
    """How many foreground support cells (bool [B, N_s]) reach each query cell: int64 [B, N_q], the multiset behind C.

    "cycle" counts query cells whose way back ends on foreground, "cosine" all (Table 4); see `cycle_matches`.
    """
    j_star, i_star = cycle_matches(F_s, F_q)
    counts = torch.zeros_like(i_star).scatter_add_(1, j_star, foreground.long())
    return counts * foreground.gather(1, i_star) if pseudo == "cycle" else counts


def cycle_candidates(F_s: Tensor, F_q: Tensor, foreground: Tensor) -> Tensor:
    """C (Eq. 1-2), bool [B, N_q]: query cells that foreground reaches and that lead back; see `candidate_counts`."""
    return candidate_counts(F_s, F_q, foreground, "cycle") > 0


def masked_average(features: Tensor, weights: Tensor) -> Tensor:
    """Average of features [B, C, N] under weights >= 0 [B, N] -> [B, C]; zero where all weights are zero."""
    total = torch.einsum("bcn,bn->bc", features, weights.to(features.dtype))
    return total / weights.sum(1, keepdim=True).clamp(min=EPSILON).to(features.dtype)


def pseudo_prototype(F_q: Tensor, P: Tensor, weights: Tensor) -> Tensor:
    """P_q [B, C], the mean of query cells [B, C, N_q] under weights [B, N_q] (Eq. 3); P where all are 0 (K = 0)."""
    any_selected = (weights > 0).any(1, keepdim=True)
    return torch.where(any_selected, masked_average(F_q, weights), P)


class Dropout2d(nn.Module):
    """Dropout of whole channels, from a generator of its own, so that heads trained together stay independent."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> the same shape; the identity in evaluation."""
        if not self.training or self.p == 0:
            return x
        draws = torch.rand(x.shape[:2], device=x.device, generator=self.generator)
        scale = (draws >= self.p).to(x.dtype) / (1 - self.p)
        return x * scale.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


class CycleComparison(nn.Module):
    """The discriminator: does a query cell show the prototype's class? [F_q at j ; P] -> FC -> ReLU -> FC."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * width, hidden)
        self.second = nn.Linear(hidden, 1)

    def forward(self, F_q: Tensor, P: Tensor) -> Tensor:
        """F_q [B, C, N_q] and P [B, C] -> logits [B, N_q]."""
        # FC([F_q ; P]) without tiling P: the weight's two halves act on cells and on the prototype apart.
        on_cells, on_P = self.first.weight.split([F_q.shape[1], P.shape[1]], 1)
        hidden = F_q.transpose(1, 2) @ on_cells.T + F.linear(P, on_P, self.first.bias)[:, None]
        return self.second(hidden.relu_()).squeeze(2)


class PrototypeInteraction(nn.Module):
    """Channel weights from both prototypes, applied to P, P_q and F_q through a residual (Eq. 4-8)."""

    def __init__(self, width: int, alpha: float = 0.0) -> None:
        super().__init__()
        self.collect = nn.Linear(2 * width, width)  # a 1x1 convolution on a 1x1 map
        self.W_1 = nn.Linear(width, width // 2)
        self.W_2 = nn.Linear(width // 2, width)
        self.alpha = nn.Parameter(torch.tensor(alpha))  # the residual's learnable scale, at its start

    def forward(self, P: Tensor, P_q: Tensor, F_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """P, P_q [B, C] and F_q [B, C, h, w] -> the same three, reweighted."""
        X = self.collect(torch.cat([P, P_q], 1))
        X_hat = F.layer_norm(X, X.shape[1:], eps=EPSILON)  # z-score over channels, no affine part (Eq. 4)
        W = self.W_2(self.W_1(X_hat).relu()).sigmoid()  # Eq. 5
        scale = 1 + self.alpha * W
        return scale * P, scale * P_q, scale[:, :, None, None] * F_q  # Eq. 6, 7, 8


class MultiScaleFusion(nn.Module):
    """Fuses a prototype with the query at full, half and quarter scale (Fig. 2, green block).

    One unshared 1x1 convolution per scale on [F_q ; prototype]; the maps are resized, summed and rectified. With a
    single scale it is the ablation without this module.
    """

    def __init__(self, width: int, scales: int = 3) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(scales))

    def forward(self, F_q: Tensor, *prototypes: Tensor) -> list[Tensor]:
        """F_q [B, C, h, w], prototypes [B, C] each -> one [B, C, h, w] per prototype."""
        width, size = F_q.shape[1], F_q.shape[2:]
        maps, biases = [], [torch.zeros_like(P) for P in prototypes]
        for level, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Linear)
            # The weight's two halves act on cells and on the prototype apart: no prototype is tiled.
            on_cells, on_P = conv.weight.split([width, width], 1)
            scaled = F.avg_pool2d(F_q, 2**level, ceil_mode=True, count_include_pad=False) if level else F_q
            scaled = F.conv2d(scaled, on_cells[:, :, None, None])
            maps.append(resize(scaled, size) if level else scaled)
            biases = [b + F.linear(P, on_P, conv.bias) for b, P in zip(biases, prototypes, strict=True)]
        summed = sum(maps[1:], maps[0])
        return [(summed + b[:, :, None, None]).relu_() for b in biases]


class ASPPDecoder(nn.Module):
    """CANet's ASPP (1x1, three dilated 3x3, global pool; no BatchNorm), a 1x1 fusion and a classifier."""

    def __init__(self, channels: int, width: int, dilations: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.pooled = nn.Conv2d(channels, width, 1)
        self.local = nn.Conv2d(channels, width, 1)
        self.dilated = nn.ModuleList(nn.Conv2d(channels, width, 3, padding=d, dilation=d) for d in dilations)
        self.fuse = nn.Conv2d((2 + len(dilations)) * width, width, 1)
        self.classify = nn.Conv2d(width, 2, 1)
        self.dropout = Dropout2d(dropout)

    def forward(self, x: Tensor, twice: bool = False) -> Tensor:
        """[B, channels, h, w] -> logits [B, 2, h, w]; `twice`: x, of half the channels, stands for [x ; x]."""

        def convolve(conv: nn.Module, x: Tensor) -> Tensor:
            assert isinstance(conv, nn.Conv2d)
            # A convolution of [x ; x] is one of x under the sum of the weight's halves.
            weight = torch.add(*conv.weight.chunk(2, 1)) if twice else conv.weight
            return F.conv2d(x, weight, conv.bias, padding=conv.padding, dilation=conv.dilation)

        # Dropout of a 1x1 convolution's inputs is one of its weights [B, in, out], which are smaller.
        fuse, classify = (
            self.dropout(conv.weight.flatten(1).T.expand(len(x), -1, -1)) for conv in (self.fuse, self.classify)
        )
        local = torch.cat([convolve(conv, x) for conv in (self.local, *self.dilated)], 1).relu_()
        pooled = convolve(self.pooled, x.sum((2, 3), keepdim=True) / x[0, 0].numel()).relu_().flatten(1)
        # What is the same in all cells joins the bias instead of being tiled.
        on_pooled, on_local = fuse.split([pooled.shape[1], local.shape[1]], 1)
        bias = pooled[:, None] @ on_pooled + self.fuse.bias
        fused = torch.baddbmm(bias, local.flatten(2).transpose(1, 2), on_local).relu_()
        return (fused @ classify + self.classify.bias).transpose(1, 2).unflatten(2, x.shape[2:])


def resize(x: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Bilinear, [B, C, h, w] -> [B, C, *size]; corners aligned: of 8k + 1 pixels, cells are pixels 0, 8, ..., 8k."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def enlarge(x: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """`resize` of maps [..., h, w] of one channel, as products with two matrices, which is faster for few maps."""
    eyes = (torch.eye(cells, dtype=x.dtype, device=x.device)[None, None] for cells in x.shape[-2:])
    along_h, along_w = (resize(eye, (side, eye.shape[3]))[0, 0] for eye, side in zip(eyes, size, strict=True))
    return along_h @ x @ along_w.T
