"""The explorer: what one episode, one threshold and one cell show, from predictions that were kept before.

A file of some hundred kilobytes holds all that is shown, so neither data nor checkpoint nor network is needed.
What is seen is a pure function of (file, episode, threshold, cell); `views.py` draws it, and
`controls.py` puts widgets around it.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from dpnet import data as benchmarks
from dpnet import evaluate, io
from dpnet.companion import presets, results, runner
from dpnet.companion.experiments import BETAS
from dpnet.companion.runner import Cohort
from dpnet.config import VOID, Evaluation, Training
from dpnet.data import cache
from dpnet.episodes import Episode
from dpnet.evaluate import Scene
from dpnet.io import DPNetError, write
from dpnet.metrics import episode_counts, intersection_union
from dpnet.model import Head, hard_masks, shared_counts
from dpnet.modules import cycle_matches, resize
from dpnet.train import autocast

EACH = 3  # episodes per class
QUALITY = 75  # of the JPEGs that are kept
Cell = tuple[int, int]  # row and column


# ---- what is kept


@dataclass(frozen=True)
class Kept:
    """Predictions of one run on E one-shot episodes; S pixels a side, h x w cells, T thresholds.

    Arguments:
        run: whose.
        scores: digest of the counts that the run's training gave; another training of the run has others.
        betas: T thresholds, ascending from 0.
        numbers: int [E], positions in the fold's list.
        classes: E names.
        images: uint8 [E, 2, S, S, 3], support and query.
        support: bool [E, S, S], the support's object.
        target: uint8 [E, S, S], the query's, with 0, 1, 255.
        foreground: bool [E, h, w], the cells of the support that the comparison takes for the object's.
        forward: int [E, h w], the most similar query cell of each support cell (Eq. 1).
        backward: int [E, h w], the most similar support cell of each query cell (Eq. 2).
        candidates: bool [E, h, w], C.
        selected: bool [E, T, h, w], C'.
        probability: float16 [E, h, w], what the discriminator says of each query cell.
        masks: bool [E, T, S, S], the answers.
        alone: bool [E, S, S], the answer of the branch without pseudo-prototype.
    """

    run: str
    scores: str
    betas: tuple[float, ...]
    numbers: np.ndarray
    classes: tuple[str, ...]
    images: np.ndarray
    support: np.ndarray
    target: np.ndarray
    foreground: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    candidates: np.ndarray
    selected: np.ndarray
    probability: np.ndarray
    masks: np.ndarray
    alone: np.ndarray

    @property
    def names(self) -> list[str]:
        """How readers call the episodes."""
        return [f"{name}, episode {number}" for name, number in zip(self.classes, self.numbers, strict=True)]

    @property
    def grid(self) -> Cell:
        """h and w."""
        height, width = self.foreground.shape[1:]
        return height, width

    def start(self, episode: int) -> Cell:
        """The cell of the support's object that is nearest to the object's centre."""
        cells = np.argwhere(self.foreground[episode])
        row, column = cells[((cells - cells.mean(0)) ** 2).sum(1).argmin()].tolist()
        return row, column

    def iou(self, episode: int, mask: np.ndarray) -> float:
        """Intersection over union, in %, of an answer (bool [S, S]); void is background, as in the CANet metric."""
        counts = episode_counts(torch.from_numpy(mask)[None], torch.from_numpy(self.target[episode])[None])
        hit, union = intersection_union(counts.numpy(), "canet")
        return 100 * float(hit[0]) / max(int(union[0]), 1)


def first_of_each(listed: Sequence[Episode], each: int = EACH) -> list[int]:
    """The rule by which episodes are picked: the list's first ones of each class, class by class -> positions."""
    classes = [e.class_id for e in listed]
    return [n for c in sorted(set(classes)) for n in [i for i, k in enumerate(classes) if k == c][:each]]


@torch.inference_mode()
def predicted(
    head: Head, scene: Scene, training: Training, listed: Sequence[Episode], numbers: Sequence[int]
) -> dict[str, np.ndarray]:
    """What a trained head makes of some episodes, as `Kept` describes it (without `run` and `scores`).

    Arguments:
        head: the full model's.
        scene: the fold.
        training: for the precision.
        listed: the fold's one-shot episodes.
        numbers: positions in the list.

    Returns:
        name -> array.
    """
    chosen, benchmark = [listed[n] for n in numbers], scene.benchmark
    scene.load_labels(chosen)
    raw_s, soft = scene.supports(chosen, "right")
    raw_q = scene.raw([e.query for e in chosen])
    foreground = hard_masks(soft)[:, 0]
    forward, backward = cycle_matches(
        scene.backbone.comparison(raw_s[:, 0]).float(), scene.backbone.comparison(raw_q).float()
    )
    counts = shared_counts(scene.backbone, raw_s, raw_q, soft, head.variant.pseudo)
    features_of = scene.backbone.features
    with autocast(training, scene.device):
        matched = head.match(head.prototypes(features_of(raw_s), soft), features_of(raw_q), counts)
        selected = torch.stack([head.select(matched, beta)[:, 0] for beta in BETAS], 1)
        wanted: list[tuple[float, str]] = [*((beta, "main") for beta in BETAS), (Evaluation.beta, "aux")]
        differences = torch.stack(list(head.sweep(matched, wanted).values()), 1)
    assert matched.scores is not None, "only the full model has a discriminator"
    S, h, w = scene.size, *raw_q.shape[-2:]
    masks = (resize(differences, (S, S)) > 0).cpu().numpy()
    places = [[e.supports[0], e.query] for e in chosen]
    labels = cache.resized_labels(benchmark, sorted({p for pair in places for p in pair}), S)
    targets = [[cache.binary(labels[p], e.class_id) for p in pair] for pair, e in zip(places, chosen, strict=True)]
    on_grid = {"foreground": foreground, "candidates": counts[:, 0] > 0}
    return {
        "betas": np.array(BETAS),
        "numbers": np.array(numbers),
        "classes": np.array([benchmark.classes[e.class_id - 1] for e in chosen]),
        "images": torch.stack([cache.resized_images(benchmark, pair, S) for pair in places])
        .permute(0, 1, 3, 4, 2)
        .numpy(),
        "support": np.stack([(support == 1).numpy() for support, _ in targets]),
        "target": np.stack([target.numpy() for _, target in targets]),
        **{name: cells.unflatten(1, (h, w)).cpu().numpy() for name, cells in on_grid.items()},
        "forward": forward.cpu().numpy().astype(np.uint16),
        "backward": backward.cpu().numpy().astype(np.uint16),
        "selected": selected.unflatten(2, (h, w)).cpu().numpy(),
        "probability": matched.scores[:, 0].float().sigmoid().unflatten(1, (h, w)).cpu().numpy().astype(np.float16),
        "masks": masks[:, :-1],
        "alone": masks[:, -1],
    }


def packed(found: dict[str, np.ndarray]) -> bytes:
    """Arrays of `predicted`, `run` and `scores` as one small file: the same arrays give the same bytes."""
    small = {name: array for name, array in found.items() if array.dtype != bool and name not in ("images", "target")}
    bits = {name: array for name, array in found.items() if array.dtype == bool and name != "masks"}
    # Thresholds that select the same cells have the same answer: it is kept once.
    masks, rows = np.unique(found["masks"].reshape(-1, *found["masks"].shape[2:]), axis=0, return_inverse=True)
    bits |= {"masks": masks, "object": found["target"] == 1, "void": found["target"] == VOID}
    jpegs = [_jpeg(image) for pair in found["images"] for image in pair]
    kept: dict[str, Any] = {
        **small,
        **{f"{name} bits": np.packbits(array) for name, array in bits.items()},
        **{f"{name} shape": np.array(array.shape) for name, array in bits.items()},
        "rows": rows.reshape(found["masks"].shape[:2]).astype(np.uint16),
        "jpegs": np.frombuffer(b"".join(jpegs), np.uint8),
        "lengths": np.array([len(jpeg) for jpeg in jpegs]),
    }
    np.savez_compressed(buffer := BytesIO(), **kept)
    return buffer.getvalue()


def unpacked(content: bytes) -> Kept:
    """What `packed` packed; the images have gone through JPEG."""
    with np.load(BytesIO(content)) as file:
        found = dict(file)
    shapes = {name.removesuffix(" shape"): found.pop(name) for name in list(found) if name.endswith(" shape")}
    for name, shape in shapes.items():
        found[name] = np.unpackbits(found.pop(f"{name} bits"), count=int(shape.prod())).astype(bool).reshape(shape)
    ends = found.pop("lengths").cumsum()
    jpegs = np.split(found.pop("jpegs"), ends[:-1])
    images = np.stack([np.asarray(Image.open(BytesIO(jpeg.tobytes()))) for jpeg in jpegs])
    return Kept(
        run=str(found.pop("run")),
        scores=str(found.pop("scores")),
        betas=tuple(found.pop("betas").tolist()),
        classes=tuple(found.pop("classes").tolist()),
        images=images.reshape(-1, 2, *images.shape[1:]),
        target=np.where(found.pop("void"), VOID, found.pop("object")).astype(np.uint8),
        masks=found.pop("masks")[found.pop("rows")],
        **found,
    )


def _jpeg(image: np.ndarray) -> bytes:
    Image.fromarray(image).save(buffer := BytesIO(), "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


# ---- where it is kept


def cohort(benchmark: str, preset: str) -> Cohort:
    """Whose predictions are explored: those of the full model on the first tested fold, seed 0."""
    setting, folder = presets.resolve(benchmark, preset), io.places().results
    return Cohort("table3", setting, results.load(setting, folder).folds[0], 0, folder)


def place(of: Cohort) -> Path:
    """The file; git ignores it where its pictures are not ours to publish."""
    return of.store.root / "explore.npz"


def possible(of: Cohort) -> bool:
    """Whether predictions are kept, or a checkpoint is there to make them from."""
    return place(of).exists() or (_checkpoint(of).exists() and bool(_scores(of)))


def _checkpoint(of: Cohort) -> Path:
    return of.store.folder(of.example_run) / "checkpoint.safetensors"


def _scores(of: Cohort) -> str:
    """Digest of the counts of the run's training, "" where it was not scored."""
    name = Evaluation(of.usual.episodes).id
    return str(of.store.metrics(of.example_run)["evaluations"].get(name, {}).get("counts", ""))


def load(of: Cohort) -> Kept:
    """The kept predictions of a run.

    Arguments:
        of: from `cohort`.

    Returns:
        the predictions.

    Raises:
        DPNetError: none are there, or those of another run or training, or the file is corrupt.
    """
    file, run = place(of), of.example_run.id
    again = f"run `{_command(of)}`"
    if not file.exists():
        raise DPNetError(f"{file}: no kept predictions: {again}")
    try:
        kept = unpacked(file.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DPNetError(f"{file}: corrupt ({error}): remove it, and {again}") from error
    if (kept.run, kept.scores) != (run, _scores(of)):
        what = f"of run {kept.run}, expected {run}" if kept.run != run else f"of another training of {run}"
        raise DPNetError(f"{file}: predictions {what}: remove it, and {again}")
    return kept


def keep(of: Cohort) -> Kept:
    """The kept predictions of a run; made from its checkpoint where they are not there or of another training.

    Arguments:
        of: from `cohort`.

    Returns:
        the predictions.

    Raises:
        DPNetError: neither they nor a checkpoint are there.
    """
    run = of.example_run
    try:
        return load(of)
    except DPNetError:
        if not _checkpoint(of).exists() or not _scores(of):
            raise
    prepared = benchmarks.prepare(of.usual.benchmark, io.places().data, of.setting.recipe)
    scene = evaluate.scene_of(run, prepared, io.places().device)
    head = runner.load_head(run, of.store, scene.backbone.channels, scene.device)
    listed = scene.episodes(1, of.usual.episodes)
    found = predicted(head, scene, run.training, listed, first_of_each(listed))
    write(place(of), packed({"run": np.array(run.id), "scores": np.array(_scores(of)), **found}))
    return load(of)


def _command(of: Cohort) -> str:
    named = [f"BENCHMARK={of.usual.benchmark}"] * (of.usual.benchmark != "shapes") + [f"PRESET={of.usual.preset}"] * (
        of.usual.preset != "quick"
    )
    return " ".join(["make reproduce-table3", *named]) + "` and then `" + " ".join(["make explore", *named])


def serve(of: Cohort, browser: bool = True) -> None:
    """Open JupyterLab on a copy of the notebook, on this machine only, until it is ended.

    Arguments:
        of: from `cohort`.
        browser: whether to open one; else the address is printed.

    Raises:
        DPNetError: no predictions to explore, or JupyterLab is not installed.
    """
    keep(of)
    try:
        from jupyterlab.labapp import LabApp
        from papermill import execute_notebook
    except ImportError as error:
        raise DPNetError(f"the explorer needs {error.name}: pip install -e '.[notebooks]'") from None
    os.environ["DPNET_RESULTS"] = str(io.places().results)  # the kernel lives in another folder
    with TemporaryDirectory(prefix="dpnet-", ignore_cleanup_errors=True) as aside:
        parameters = {"benchmark": of.usual.benchmark, "preset": of.usual.preset}
        copy = Path(aside) / "explore.ipynb"
        execute_notebook(io.ROOT / "notebooks" / copy.name, copy, parameters, prepare_only=True, progress_bar=False)
        # Nor is anybody asked whether news may be fetched; whose settings say something else keeps them.
        quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
        (Path(aside) / ".config" / "labconfig").mkdir(parents=True)
        (Path(aside) / ".config" / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(quiet))
        layers = [f"{aside}/.config", os.environ.get("JUPYTER_CONFIG_PATH", "")]
        os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, layers))
        settings = {
            "ServerApp.root_dir": aside,
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.allow_root": True,
            "ServerApp.open_browser": browser,
            "LabApp.default_url": "/lab/tree/explore.ipynb",
            "LabApp.workspaces_dir": f"{aside}/.workspaces",
            # No network: neither for news and newer versions, nor for extensions.
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "LabApp.news_url": None,
            "LabApp.extension_manager": "readonly",
        }
        LabApp.launch_instance(argv=[f"--{name}={value}" for name, value in settings.items()])


# ---- what is seen


@dataclass(frozen=True)
class State:
    """What one threshold and one cell of the support show of one episode.

    Arguments:
        candidates, selected: bool [h, w], C and C'.
        mask: bool [S, S], the answer.
        unfiltered: bool [S, S], the answer where no candidate is discarded.
        iou, iou_unfiltered, iou_alone: in %, of `mask`, `unfiltered`, and of the branch without pseudo-prototype.
        cells: S_1, Q_1 and S_2.
        starts, ends: whether S_1 and S_2 lie on the support's object.
        lands: what lies under Q_1: "object", "elsewhere" or "void".
        belief: what the discriminator says of Q_1, in 0..1.
        words: the state, in two sentences.
    """

    candidates: np.ndarray
    selected: np.ndarray
    mask: np.ndarray
    unfiltered: np.ndarray
    iou: float
    iou_unfiltered: float
    iou_alone: float
    cells: tuple[Cell, Cell, Cell]
    starts: bool
    ends: bool
    lands: str
    belief: float
    words: tuple[str, str]


def state(kept: Kept, episode: int, beta: float, cell: Cell) -> State:
    """What is seen.

    Arguments:
        kept: the predictions.
        episode: row, in 0..E-1.
        beta: one of `kept.betas`.
        cell: of the support, S_1.

    Returns:
        the state.
    """
    t, (h, w) = kept.betas.index(beta), kept.grid
    there = divmod(int(kept.forward[episode, cell[0] * w + cell[1]]), w)
    back = divmod(int(kept.backward[episode, there[0] * w + there[1]]), w)
    pixel = [round(at * (kept.target.shape[1] - 1) / (n - 1)) for at, n in zip(there, (h, w), strict=True)]
    lands = {0: "elsewhere", 1: "object", VOID: "void"}[int(kept.target[episode, pixel[0], pixel[1]])]
    found: dict[str, Any] = {
        "candidates": kept.candidates[episode],
        "selected": kept.selected[episode, t],
        "mask": kept.masks[episode, t],
        "unfiltered": kept.masks[episode, 0],
        "iou": kept.iou(episode, kept.masks[episode, t]),
        "iou_unfiltered": kept.iou(episode, kept.masks[episode, 0]),
        "iou_alone": kept.iou(episode, kept.alone[episode]),
        "cells": (cell, there, back),
        "starts": bool(kept.foreground[episode][cell]),
        "ends": bool(kept.foreground[episode][back]),
        "lands": lands,
        "belief": float(kept.probability[episode][there]),
    }
    return State(**found, words=(_of_threshold(kept.names[episode], beta, found), _of_cycle(beta, found)))


def _of_threshold(name: str, beta: float, found: dict[str, Any]) -> str:
    candidates, selected = int(found["candidates"].sum()), int(found["selected"].sum())
    made = f"P_q is the mean of {selected}" if selected else "none is left, so P_q = P"
    return (
        f"{name}: {_many(candidates, 'candidate')}, {candidates - selected} discarded at β = {beta:.2f}; {made}. "
        f"IoU {found['iou']:.1f} (nothing discarded {found['iou_unfiltered']:.1f}, "
        f"without P_q {found['iou_alone']:.1f})."
    )


def _of_cycle(beta: float, found: dict[str, Any]) -> str:
    (S_1, Q_1, S_2), selected = found["cells"], found["selected"]
    lands = {"elsewhere": "off the object", "object": "on the object", "void": "on void"}[found["lands"]]
    way = (
        f"S1 {S_1} {_on(found['starts'])} → Q1 {Q_1} {lands} → S2 {S_2} {_on(found['ends'])}: "
    )  # fmt: skip
    if not found["ends"]:
        return way + "the cycle does not end on the foreground, so Q1 is no candidate."
    if not found["starts"]:
        if found["candidates"][Q_1]:
            return way + "no cycle begins outside the foreground, but another one makes Q1 a candidate."
        return way + "no cycle begins outside the foreground, and none makes Q1 a candidate."
    verdict = "and kept" if selected[Q_1] else "but discarded"
    return way + f"Q1 is a candidate, {verdict} (the discriminator says {found['belief']:.2f}, β = {beta:.2f})."


def _on(foreground: bool) -> str:
    return "in the foreground" if foreground else "outside the foreground"


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def table(kept: Kept, betas: Sequence[float]) -> pd.DataFrame:
    """Every episode in numbers.

    Arguments:
        kept: the predictions.
        betas: some of `kept.betas`.

    Returns:
        one row per episode: candidates, kept at each threshold, IoU without pseudo-prototype and at each threshold.
    """
    lines = []
    for episode in range(len(kept.numbers)):
        at = {beta: state(kept, episode, beta, kept.start(episode)) for beta in betas}
        any_one = at[betas[0]]
        line: dict[str, float] = {"candidates": int(any_one.candidates.sum())}
        line |= {f"kept at {beta:g}": int(s.selected.sum()) for beta, s in at.items()}
        line |= {"IoU without P_q": round(any_one.iou_alone, 1)}
        lines.append(line | {f"IoU at {beta:g}": round(s.iou, 1) for beta, s in at.items()})
    return pd.DataFrame(lines, index=pd.Index(kept.names, name="episode"))
