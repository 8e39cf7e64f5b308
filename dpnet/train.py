"""One training loop; all variants of a cohort go through it in lockstep, on the same episodes and features."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from dpnet import augment
from dpnet.backbones import Backbone
from dpnet.config import VOID, Run, Training, Variant
from dpnet.data import cache
from dpnet.data.index import Benchmark
from dpnet.episodes import training_batch, training_pools
from dpnet.graphs import Graphed, let_record
from dpnet.io import DPNetError, load_state, progress, save_checkpoint, save_every, save_state, write
from dpnet.model import Head, Output, shared_counts, soft_masks
from dpnet.modules import enlarge

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": partial(SGD, momentum=0.9), "adamw": AdamW}
CURVE = 100  # points of a loss curve


class Batch(NamedTuple):
    """One step's data, shared by all heads."""

    raw_s: Tensor  # backbone features of the supports [B, 1, C_b, h, w]
    raw_q: Tensor  # and of the queries [B, C_b, h, w]
    masks: Tensor  # of the supports, on the grid [B, 1, h, w]
    target: Tensor  # int64 [B, S, S] with 0, 1, 255


@dataclass
class Member:
    """A variant in training."""

    run: Run
    head: Head
    optimizer: Optimizer
    generator: torch.Generator  # of its dropout
    step: int = 0
    curve: list[list[float]] = field(default_factory=list)  # [step, L_seg, L_aux, L_dis] averaged since the last
    recent: list[Tensor] = field(default_factory=list)  # losses [3] of each step since the last, not yet read

    def state(self, data: str) -> dict[str, Any]:
        """Everything that the next step depends on, and the mark of the data."""
        numbers = {"step": self.step, "curve": self.curve, "recent": self.recent, "data": data}
        return {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict(), **numbers}

    def record(self, losses: Tensor) -> None:
        """Note that a step was made; losses [3] are read, which waits for the device, when a point is due."""
        steps, self.step = self.run.training.steps, self.step + 1
        self.recent.append(losses)
        if self.step % max(1, steps // CURVE) == 0 or self.step == steps:
            values = torch.stack(self.recent).tolist()
            for step, of_step in enumerate(values, self.step - len(values)):
                if not all(map(math.isfinite, of_step)):
                    what = f"the loss is not finite at step {step} (L_seg, L_aux, L_dis = {of_step})"
                    way = "lower the learning rate, or look for broken images with `dpnet check`"
                    raise DPNetError(f"{self.run.id}: {what}: {way}")
            self.curve.append([self.step, *(round(sum(v) / len(v), 5) for v in zip(*values, strict=True))])
            self.recent.clear()


def train(
    folders: Mapping[Run, Path], benchmark: Benchmark, backbone: Backbone, device: str = "cpu"
) -> dict[Run, Head]:
    """Train the variants of a cohort, resuming what was killed; each ends as if it had been trained alone.

    `folders` take each run's states, checkpoint and history. The heads come back in evaluation mode.
    """
    # 1. What the variants share: schedule, episodes, features.
    first, *others = folders
    if any(replace(run, variant=first.variant) != first for run in others):
        raise DPNetError("the runs of a cohort share benchmark, fold, seed and schedule: train others apart")
    training, data = first.training, benchmark.digest[:16]
    pools = training_pools(benchmark, first.fold, training.novel)
    source = SOURCES[training.augment](benchmark, backbone, training, sorted({i for p in pools.values() for i in p}))
    # 2. Each variant at its start, or where it was last saved.
    members = [begin(run, backbone.channels, folder, device) for run, folder in folders.items()]
    start = min(m.step for m in members)
    # 3. Steps, from the earliest of them; each variant joins at its own.
    what = f"training fold {first.fold}: {', '.join(m.run.variant.slug for m in members)}"
    steps = batches(source, benchmark, pools, first, start)
    saved, every = time.monotonic(), save_every()
    due: list[Member] = []
    for step, batch in progress(steps, what, "step", training.steps - start):
        if len(joined := [m for m in members if m.step == step]) > len(due):
            due, work = joined, graphed(joined, backbone)
        advance(due, batch, step, work)
        if time.monotonic() - saved > every:
            saved = time.monotonic()
            for member in members:
                save_state(folders[member.run], member.step, member.state(data))
    # 4. The last checkpoint counts.
    for member in members:
        write(folders[member.run] / "history.json", (json.dumps(member.curve) + "\n").encode())
        save_checkpoint(folders[member.run], member.head.state_dict(), data)
    return {m.run: m.head.eval() for m in members}


def advance(members: Sequence[Member], batch: Batch, step: int, work: Callable[..., Tensor]) -> None:
    """One optimiser step of some variants, on what they share; `work` is their `graphed`."""
    for member in members:
        # Dropout and learning rate are functions of the step alone, so a resumed run is the same.
        t = member.run.training
        member.generator.manual_seed(member.run.seed * 1_000_003 + step)
        rate = t.learning_rate * (1 - step / t.steps) ** t.decay * min(1, (step + 1) / t.warmup)
        for group in member.optimizer.param_groups:
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate
    for member, of_member in zip(members, work(*batch).clone(), strict=True):
        member.record(of_member)


def graphed(members: Sequence[Member], backbone: Backbone) -> Graphed:
    """`descend` of some variants, which a GPU replays as one graph."""
    return Graphed(partial(descend, members, backbone), *(m.generator for m in members))


def descend(
    members: Sequence[Member], backbone: Backbone, raw_s: Tensor, raw_q: Tensor, masks: Tensor, target: Tensor
) -> Tensor:
    """The step itself, of a `Batch`: losses [n, 3] of n variants. Nothing here waits for the device."""
    # 1. Frozen, hence shared: candidates of each kind, and the features that heads reduce.
    kinds = sorted({m.run.variant.pseudo for m in members})
    counts = {kind: shared_counts(backbone, raw_s, raw_q, masks, kind) for kind in kinds}
    F_s, F_q = backbone.features(raw_s), backbone.features(raw_q)
    result = []
    for member in members:
        training, variant = member.run.training, member.run.variant
        # 2. Forward.
        with autocast(training, F_q.device):
            output = member.head(F_s, masks, F_q, counts[variant.pseudo], variant.beta)
        # 3. Losses.
        L_seg, L_aux, L_dis = losses(output, target, variant)
        L_all = L_seg + variant.lambda_1 * L_aux + variant.lambda_2 * L_dis  # Eq. 11
        # 4. Backward, and the step.
        member.optimizer.zero_grad(set_to_none=True)
        L_all.backward()
        if training.clip:
            nn.utils.clip_grad_norm_(member.head.parameters(), training.clip)
        member.optimizer.step()
        result.append(torch.stack([L_seg, L_aux, L_dis]).detach())
    return torch.stack(result)


def losses(output: Output, target: Tensor, variant: Variant) -> tuple[Tensor, Tensor, Tensor]:
    """L_seg, L_aux (Eq. 9) and L_dis (Eq. 10) of B episodes, whose target is int64 [B, S, S] with 0, 1, 255.

    `variant` says what void is, and over which cells L_dis runs: it is 0 without a discriminator, or without a cell.
    """
    known = target != VOID if variant.void_in_loss == "ignore" else torch.ones_like(target)
    L_seg, L_aux = _cross_entropy(torch.stack([output.logits, output.aux_logits]), target, known.float())
    if output.scores is None:
        return L_seg, L_aux, L_seg.new_zeros(())
    y = at_cells(target, output.scores.shape[2:])[:, None].expand_as(output.scores)
    cells = (output.candidates if variant.dis_over == "C" else output.selected) & (y != VOID)
    loss = F.binary_cross_entropy_with_logits(output.scores.float(), y.clamp(max=1).float(), reduction="none")
    per_pair = (loss * cells).sum((2, 3)) / cells.sum((2, 3)).clamp(min=1)
    return L_seg, L_aux, per_pair.mean()


def _cross_entropy(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Eq. 9 of several branches [n, B, 2, h, w] at the target's size, over all pixels that are known: [n]."""
    # Two classes: the softmax of the truth is the sigmoid of its lead, at half the work.
    lead = enlarge((logits[:, :, 1] - logits[:, :, 0]).float(), target.shape[1:]) * (2 * target.eq(1).float() - 1)
    # -log sigmoid(lead), where it would be infinite in its linear part; `logsigmoid` is several times slower.
    bounded = lead.clamp(min=-80)
    loss = bounded - lead - bounded.sigmoid().log()
    return loss.flatten(1) @ known.flatten() / known.sum().clamp(min=1)


def at_cells(target: Tensor, grid: tuple[int, ...] | torch.Size) -> Tensor:
    """Labels at the pixels where the cells lie: [B, S, S] -> [B, h, w]; nothing is mixed."""
    rows, columns = (
        torch.linspace(0, side - 1, cells, device=target.device).round().long()
        for side, cells in zip(target.shape[1:], grid, strict=True)
    )
    return target[:, rows][:, :, columns]


def autocast(training: Training, device: str | torch.device) -> AbstractContextManager[Any]:
    """The precision that a schedule asks for; fp32 on processors that would have to emulate bf16, slowly."""
    kind = torch.device(device).type
    fast = kind != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.autocast(kind, torch.bfloat16, enabled=training.precision == "bf16" and fast)


def build_head(run: Run, channels: int) -> Head:
    """A run's head on the CPU, with its initial parameters, which depend on the seed alone."""
    t = run.training
    generator = torch.Generator().manual_seed(run.seed)
    with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global generator before `reset` does
        return Head(channels, run.variant, t.width, t.dilations, t.dropout, generator)


def begin(run: Run, channels: int, folder: Path, device: str) -> Member:
    """A variant at its start, or where a killed training was last saved."""
    t = run.training
    head = build_head(run, channels).to(device).train()
    generator = torch.Generator(device)
    head.draw_dropout_from(generator)
    options = {"lr": t.learning_rate, "weight_decay": t.weight_decay, "fused": True}
    optimizer = OPTIMIZERS[t.optimizer](head.parameters(), **options)
    member = Member(run, head, optimizer, generator)
    if (state := load_state(folder, device)) is not None:
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        member.step, member.curve, member.recent = state["step"], state["curve"], state["recent"]
    if torch.device(device).type == "cuda":
        let_record(optimizer)
    return member


# Positions [n] in `Benchmark.entries`, and a step's generator -> raw features [n, C_b, h, w], labels uint8 [n, S, S].
Source = Callable[[list[int], np.random.Generator], tuple[Tensor, Tensor]]


def batches(
    source: Source, benchmark: Benchmark, pools: dict[int, list[int]], run: Run, start: int
) -> Iterator[tuple[int, Batch]]:
    """Steps and their data: a function of the run's data, schedule, fold and seed, not of its variant."""
    t = run.training
    for step in range(start, t.steps):
        episodes = training_batch(benchmark, pools, run.fold, run.seed, step, t.batch, t.absent)
        rng, B = np.random.default_rng([run.seed, run.fold, step, 1]), len(episodes)
        raw, labels = source([e.query for e in episodes] + [e.supports[0] for e in episodes], rng)
        class_ids = cache.sent(np.array([e.class_id for e in episodes] * 2), labels.device.type)
        target = cache.binary(labels, class_ids[:, None, None]).long()
        yield step, Batch(raw[B:, None], raw[:B], soft_masks(target[B:, None], raw.shape[-2:]), target[:B])


def stored_features(benchmark: Benchmark, backbone: Backbone, training: Training, positions: list[int]) -> Source:
    """Features of each image and of its mirror image, computed once; a coin is tossed for either."""
    labels = cache.resized_labels(benchmark, positions, training.size)
    encode, key, channels, device = backbone.encode_exactly, backbone.key, backbone.channels, backbone.device.type
    bank = cache.features(benchmark, "train", training.size, encode, key, channels, mirror=True)

    def draw(positions: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        mirrored = rng.random(len(positions)) < 0.5
        drawn = np.stack([labels[i].flip(1) if m else labels[i] for i, m in zip(positions, mirrored, strict=True)])
        return bank(positions, mirrored, device), cache.sent(drawn, device)

    return draw


def moved_images(benchmark: Benchmark, backbone: Backbone, training: Training, positions: list[int]) -> Source:
    """Images that are mirrored, scaled, rotated and cropped at each step, and encoded then."""
    images, labels, row_of = cache.pixels(benchmark, "train", training.size)
    backbone.to(memory_format=torch.channels_last)

    @Graphed
    def encoded(pixels: Tensor, ids: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        moved, drawn = augment.geometric(pixels, ids, theta)
        with torch.no_grad(), autocast(training, backbone.device):
            return backbone(moved).float(), drawn

    def draw(positions: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        rows, theta = [row_of[i] for i in positions], augment.motions(rng, len(positions)).astype(np.float32)
        return encoded(*(cache.sent(a, backbone.device.type) for a in (images[rows], labels[rows], theta)))

    return draw


SOURCES: dict[str, Callable[..., Source]] = {"flip": stored_features, "geometric": moved_images}
