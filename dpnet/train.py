"""One training loop; all variants of a cohort go through it in lockstep, on the same episodes and features."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn import functional as F

from dpnet import augment
from dpnet.backbones import Backbone
from dpnet.config import VOID, Run, Training, Variant
from dpnet.data import cache
from dpnet.data.index import Benchmark
from dpnet.episodes import training_batch, training_pools
from dpnet.io import DPNetError, progress, write
from dpnet.model import Head, Output, shared_counts, soft_masks
from dpnet.modules import resize

SAVE_EVERY = 120.0  # seconds between states from which a killed training resumes
CURVE = 100  # points of a loss curve
TORN = (RuntimeError, EOFError, KeyError, ValueError, OSError, UnpicklingError)  # what reading half a state raises


@dataclass(frozen=True)
class Batch:
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
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # of its dropout
    step: int = 0
    curve: list[list[float]] = field(default_factory=list)  # [step, L_seg, L_aux, L_dis] averaged since the last
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)


def train(
    folders: Mapping[Run, Path], benchmark: Benchmark, backbone: Backbone, device: str = "cpu"
) -> dict[Run, Head]:
    """Train the variants of a cohort, resuming what was killed; each ends as if it had been trained alone.

    Arguments:
        folders: run -> where its states, `checkpoint.safetensors` and `history.json` are kept; the runs differ in
            their variant only.
        benchmark: the prepared data.
        backbone: the runs', on that device.
        device: "cpu" or "cuda".

    Returns:
        the trained heads, in evaluation mode.

    Raises:
        DPNetError: runs that are no cohort, or a loss that is not finite.
    """
    first, *others = folders
    if any(replace(run, variant=first.variant) != first for run in others):
        raise DPNetError("the runs of a cohort share benchmark, fold, seed and schedule: train others apart")
    training = first.training
    members = [begin(run, backbone.channels, folder, device) for run, folder in folders.items()]
    pools = training_pools(benchmark, first.fold, training.novel, training.least)
    batches = stream(benchmark, backbone, first, pools, device, min(m.step for m in members))
    names = ", ".join(m.run.variant.slug for m in members)
    every = float(os.environ.get("DPNET_SAVE_EVERY", SAVE_EVERY))
    saved = time.monotonic()
    for step, batch in progress(
        batches, f"training fold {first.fold}: {names}", "step", training.steps - min(m.step for m in members)
    ):
        advance([m for m in members if m.step == step], backbone, batch, step)
        if time.monotonic() - saved > every:
            saved = time.monotonic()
            for member in members:
                _save_state(member, folders[member.run], benchmark.digest[:16])
    for member in members:
        folder = folders[member.run]
        write(folder / "history.json", (json.dumps(member.curve) + "\n").encode())
        # Whole or not at all: it says that training is done.
        checkpoint = save_tensors(member.head.state_dict(), {"data": benchmark.digest[:16]})
        write(folder / "checkpoint.safetensors", checkpoint)
        for state in _states(folder):
            state.unlink(missing_ok=True)
    return {m.run: m.head.eval() for m in members}


def advance(members: Sequence[Member], backbone: Backbone, batch: Batch, step: int) -> None:
    """One optimiser step of some variants, on what they share."""
    counts = {
        kind: shared_counts(backbone, batch.raw_s, batch.raw_q, batch.masks, kind)
        for kind in sorted({m.run.variant.pseudo for m in members})
    }
    F_s, F_q = backbone.features(batch.raw_s), backbone.features(batch.raw_q)
    for member in members:
        _update(member, F_s, F_q, batch, counts[member.run.variant.pseudo], step)


def build_head(run: Run, channels: int) -> Head:
    """A run's head with its initial parameters, which depend on the seed alone.

    Arguments:
        run: variant, sizes and seed.
        channels: of the backbone's features.

    Returns:
        the head, on the CPU.
    """
    t = run.training
    generator = torch.Generator().manual_seed(run.seed)
    with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global generator before `reset` does
        return Head(channels, run.variant, t.width, t.dilations, t.dropout, generator)


def losses(output: Output, target: Tensor, variant: Variant) -> tuple[Tensor, Tensor, Tensor]:
    """L_seg, L_aux (Eq. 9) and L_dis (Eq. 10).

    Arguments:
        output: of a head, for B episodes on a grid h x w.
        target: int64 [B, S, S] with 0, 1, 255.
        variant: says what void is, and over which cells L_dis runs.

    Returns:
        three scalars; L_dis is 0 without a discriminator, and for episodes without a cell.
    """
    known = target if variant.void_in_loss == "ignore" else target.where(target != VOID, 0)

    def segmentation(logits: Tensor) -> Tensor:
        # Two classes: the cross-entropy of a softmax is that of a sigmoid of the difference, at half the work.
        difference = resize((logits[:, 1:] - logits[:, :1]).float(), target.shape[1:])[:, 0]
        loss = F.binary_cross_entropy_with_logits(difference, known.clamp(max=1).float(), reduction="none")
        inside = (known != VOID).float()
        return (loss * inside).sum() / inside.sum().clamp(min=1)

    L_seg, L_aux = segmentation(output.logits), segmentation(output.aux_logits)
    if output.scores is None:
        return L_seg, L_aux, L_seg.new_zeros(())
    y = at_cells(target, output.scores.shape[2:])[:, None].expand_as(output.scores)
    chosen = (output.candidates if variant.dis_over == "C" else output.selected) & (y != VOID)
    loss = F.binary_cross_entropy_with_logits(output.scores.float(), y.clamp(max=1).float(), reduction="none")
    per_pair = (loss * chosen).sum((2, 3)) / chosen.sum((2, 3)).clamp(min=1)
    return L_seg, L_aux, per_pair.mean()


def at_cells(target: Tensor, grid: tuple[int, ...] | torch.Size) -> Tensor:
    """Labels at the pixels where the cells lie: [B, S, S] -> [B, h, w]; nothing is mixed."""
    rows, columns = (
        torch.linspace(0, side - 1, cells).round().long() for side, cells in zip(target.shape[1:], grid, strict=True)
    )
    return target[:, rows][:, :, columns]


def autocast(training: Training, device: str) -> AbstractContextManager[Any]:
    """The precision that a schedule asks for; fp32 on processors that would have to emulate bf16, slowly."""
    kind = torch.device(device).type
    fast = kind != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.autocast(kind, torch.bfloat16, enabled=training.precision == "bf16" and fast)


def begin(run: Run, channels: int, folder: Path, device: str) -> Member:
    """A variant at its start, or where a killed training was last saved."""
    training = run.training
    head = build_head(run, channels).to(device).train()
    generator = torch.Generator(device)
    head.draw_dropout_from(generator)
    optimizer: torch.optim.Optimizer
    if training.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            head.parameters(), training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.SGD(
            head.parameters(),
            training.learning_rate,
            momentum=0.9,
            weight_decay=training.weight_decay,
            fused=True,
        )
    member = Member(run, head, optimizer, generator)
    for file in reversed(_states(folder)):
        try:
            state = torch.load(file, map_location=device, weights_only=True)
            head.load_state_dict(state["head"])
            optimizer.load_state_dict(state["optimizer"])
            member.step, member.curve, member.sums = state["step"], state["curve"], state["sums"]
            break
        except TORN:
            file.unlink(missing_ok=True)  # torn: the one before, or the start, leads to the same end
            return begin(run, channels, folder, device)
    return member


def _states(folder: Path) -> list[Path]:
    """The states that a killed training left, oldest first."""
    return sorted(folder.glob("state-*.pt"))


def trained_on(folder: Path) -> set[str]:
    """The data that a run's checkpoint and states say they are of; torn files, and older ones, say nothing."""
    found = []
    with suppress(SafetensorError, OSError), safe_open(folder / "checkpoint.safetensors", "pt") as checkpoint:
        found.append(checkpoint.metadata())
    for state in _states(folder):
        with suppress(*TORN):
            found.append(torch.load(state, map_location="cpu", weights_only=True, mmap=True))
    return {one["data"] for one in found if one and "data" in one}


def _save_state(member: Member, folder: Path, data: str) -> None:
    """Everything that the next step depends on; all generators are functions of the seed and the step."""
    state = {
        "head": member.head.state_dict(),
        "optimizer": member.optimizer.state_dict(),
        "step": member.step,
        "curve": member.curve,
        "sums": member.sums,
        "data": data,
    }
    torch.save(state, buffer := BytesIO())
    write(folder / f"state-{member.step:08}.pt", buffer.getvalue())
    for old in _states(folder)[:-2]:  # a state that a full disk or a power cut tore leaves the one before
        old.unlink(missing_ok=True)


def _update(member: Member, F_s: Tensor, F_q: Tensor, batch: Batch, counts: Tensor, step: int) -> None:
    """One optimiser step of one variant."""
    run, training = member.run, member.run.training
    member.generator.manual_seed(run.seed * 1_000_003 + step)  # of the step alone, so a resumed run is the same
    for group in member.optimizer.param_groups:
        group["lr"] = training.learning_rate * (1 - step / training.steps) ** training.decay
    with autocast(training, str(F_q.device)):
        output = member.head(F_s, batch.masks, F_q, counts, run.variant.beta)
    L_seg, L_aux, L_dis = losses(output, batch.target, run.variant)
    L_all = L_seg + run.variant.lambda_1 * L_aux + run.variant.lambda_2 * L_dis  # Eq. 11
    values = torch.stack([L_seg, L_aux, L_dis]).tolist()
    if not all(map(math.isfinite, values)):
        raise DPNetError(
            f"{run.id}: the loss is not finite at step {step} (L_seg, L_aux, L_dis = {values}): "
            "lower the learning rate, or look for broken images with `python -m dpnet check`"
        )
    member.optimizer.zero_grad(set_to_none=True)
    L_all.backward()
    member.optimizer.step()
    member.step = step + 1
    member.sums = [s + v for s, v in zip(member.sums, [1.0, *values], strict=True)]
    if member.step % max(1, training.steps // CURVE) == 0 or member.step == training.steps:
        count, *sums = member.sums
        member.curve.append([member.step, *(round(s / count, 5) for s in sums)])
        member.sums = [0.0] * 4


def stream(
    benchmark: Benchmark,
    backbone: Backbone,
    run: Run,
    pools: dict[int, list[int]],
    device: str,
    start: int,
) -> Iterator[tuple[int, Batch]]:
    """The stream of steps: a function of the run's data, schedule, fold and seed, not of its variant."""
    training = run.training
    positions = sorted({i for pool in pools.values() for i in pool})
    geometric = training.augment == "geometric"
    if geometric:
        images, stored, row_of = cache.pixels(benchmark, "train", training.size)
    else:
        labels = cache.resized_labels(benchmark, positions, training.size)
        bank = cache.kept(benchmark, backbone, training.backbone, training.size, "train", mirror=True)
    for step in range(start, training.steps):
        episodes = training_batch(benchmark, pools, run.fold, run.seed, step, training.batch)
        rng = np.random.default_rng([run.seed, run.fold, step, 1])
        which = [e.query for e in episodes] + [e.supports[0] for e in episodes]
        drawn = augment.motions(rng, len(which)) if geometric else augment.flips(rng, len(which))
        if geometric:
            rows = [row_of[i] for i in which]
            pixels = torch.from_numpy(images[rows]).to(device)
            moved, stacked = augment.geometric(pixels, torch.from_numpy(stored[rows]).to(device), drawn)
            with torch.no_grad(), autocast(training, device):
                raw = backbone(moved).float()
        else:
            raw = bank(which, drawn).to(device)
            flags = torch.from_numpy(drawn).to(device)[:, None, None]
            stacked = torch.stack([labels[i] for i in which]).to(device)
            stacked = torch.where(flags, stacked.flip(2), stacked)
        ids = torch.tensor([e.class_id for e in episodes] * 2, device=device)[:, None, None]
        target = torch.where(stacked == VOID, VOID, (stacked == ids).long())
        n = len(episodes)
        masks = soft_masks(target[n:, None], raw.shape[-2:])
        yield step, Batch(raw[n:, None], raw[:n], masks, target[:n])


def load_checkpoint(file: Path) -> dict[str, Tensor]:
    """The parameters of a trained head.

    Raises:
        DPNetError: no file, or a corrupt one.
    """
    try:
        return load_file(file)
    except FileNotFoundError:
        raise DPNetError(f"{file}: missing: train it with `python -m dpnet train`") from None
    except (SafetensorError, OSError) as error:
        why = str(error).splitlines()[0]
        raise DPNetError(f"{file}: corrupt ({why}): remove the folder {file.parent} and run again") from error
