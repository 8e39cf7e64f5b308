"""The explorer: what a model predicts for some episodes at every threshold, stored once and looked at in JupyterLab.

One file of some hundred kilobytes holds all that `notebooks/explore.ipynb` shows: it needs no data, no checkpoint
and no network.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from dpnet import data as benchmarks
from dpnet import evaluate, io
from dpnet.companion import notebooks, presets, runner
from dpnet.companion.experiments import BETAS
from dpnet.companion.runner import Cohort
from dpnet.config import VOID, Evaluation, Training
from dpnet.data import cache
from dpnet.episodes import Episode
from dpnet.evaluate import Scene
from dpnet.io import DPNetError, read_json, write
from dpnet.metrics import episode_counts, intersection_union
from dpnet.model import Head, hard_masks, shared_counts
from dpnet.modules import cycle_matches, resize
from dpnet.train import autocast

PER_CLASS = 3  # episodes
JPEG_QUALITY = 75


@dataclass(frozen=True)
class Predictions:
    """Predictions of one run on E one-shot episodes; S pixels a side, h x w cells, T thresholds."""

    run: str  # its id
    scores: str  # digest of its training's counts: another training of the same run has others
    betas: tuple[float, ...]  # T thresholds, ascending from 0
    numbers: np.ndarray  # int [E], positions in the fold's list
    classes: tuple[str, ...]  # E names
    images: np.ndarray  # uint8 [E, 2, S, S, 3], support and query
    support: np.ndarray  # bool [E, S, S], the support's object
    target: np.ndarray  # uint8 [E, S, S] with 0, 1, 255, the query's
    foreground: np.ndarray  # bool [E, h, w], the support's cells that show the object
    forward: np.ndarray  # int [E, h w], the most similar query cell of each support cell (Eq. 1)
    backward: np.ndarray  # int [E, h w], the most similar support cell of each query cell (Eq. 2)
    candidates: np.ndarray  # bool [E, h, w], C
    selected: np.ndarray  # bool [E, T, h, w], C'
    probability: np.ndarray  # float16 [E, h, w], the discriminator's h for each query cell
    masks: np.ndarray  # bool [E, T, S, S], the answers
    alone: np.ndarray  # bool [E, S, S], the answer of the branch without pseudo-prototype

    @property
    def names(self) -> list[str]:
        """The episodes' names."""
        return [f"{name}, episode {number}" for name, number in zip(self.classes, self.numbers, strict=True)]

    def at(self, episode: int, beta: float) -> tuple[np.ndarray, np.ndarray]:
        """C' and the answer at a threshold: bool [h, w] and bool [S, S]."""
        t = self.betas.index(beta)
        return self.selected[episode, t], self.masks[episode, t]

    def closes(self, episode: int) -> np.ndarray:
        """The support's cells whose cycle begins and ends on the object: bool [h, w]."""
        on_object = self.foreground[episode]
        return on_object & on_object.ravel()[self.backward[episode][self.forward[episode]]].reshape(on_object.shape)

    def iou(self, episode: int, mask: np.ndarray) -> float:
        """Intersection over union, in %, of an answer; void is background, as in the CANet metric."""
        counts = episode_counts(torch.from_numpy(mask)[None], torch.from_numpy(self.target[episode])[None])
        hit, union = intersection_union(counts.numpy(), "canet")
        return 100 * float(hit[0]) / max(int(union[0]), 1)


# ---- predicting


def first_of_each(listed: Sequence[Episode], each: int = PER_CLASS) -> list[int]:
    """Positions of a list's first episodes of each class, class by class."""
    classes = [e.class_id for e in listed]
    return [n for c in sorted(set(classes)) for n in [i for i, k in enumerate(classes) if k == c][:each]]


@torch.inference_mode()
def predict(
    head: Head, scene: Scene, training: Training, listed: Sequence[Episode], numbers: Sequence[int]
) -> dict[str, np.ndarray]:
    """The fields of `Predictions` but `run` and `scores`, for the full model's head and some of a fold's episodes."""
    chosen, backbone = [listed[n] for n in numbers], scene.backbone
    scene.load_labels(chosen)
    raw_s, soft = scene.supports(chosen, "right")
    raw_q = scene.raw([e.query for e in chosen])
    deep_s, deep_q = (backbone.comparison(raw).float() for raw in (raw_s[:, 0], raw_q))
    forward, backward = cycle_matches(deep_s, deep_q)
    counts = shared_counts(backbone, raw_s, raw_q, soft, head.variant.pseudo)
    with autocast(training, scene.device):
        matched = head.match(head.prototypes(backbone.features(raw_s), soft), backbone.features(raw_q), counts)
        selected = torch.stack([head.select(matched, beta)[:, 0] for beta in BETAS], 1)
        asked: list[tuple[float, str]] = [*((beta, "main") for beta in BETAS), (Evaluation.beta, "aux")]
        differences = torch.stack(list(evaluate.decode_distinct(head, matched, asked).values()), 1)
    assert matched.scores is not None, "only the full model has a discriminator"
    masks = resize(differences, (scene.size, scene.size)) > 0

    def cells(values: torch.Tensor) -> np.ndarray:
        return values.unflatten(-1, raw_q.shape[2:]).cpu().numpy()

    return {
        **_given(scene, chosen),
        "betas": np.array(BETAS),
        "numbers": np.array(numbers),
        "foreground": cells(hard_masks(soft)[:, 0]),
        "forward": forward.cpu().numpy().astype(np.uint16),
        "backward": backward.cpu().numpy().astype(np.uint16),
        "candidates": cells(counts[:, 0] > 0),
        "selected": cells(selected),
        "probability": cells(matched.scores[:, 0].float().sigmoid()).astype(np.float16),
        "masks": masks[:, :-1].cpu().numpy(),
        "alone": masks[:, -1].cpu().numpy(),
    }


def _given(scene: Scene, chosen: Sequence[Episode]) -> dict[str, np.ndarray]:
    """What the episodes give: classes, images, and masks of support and query."""
    benchmark, size = scene.benchmark, scene.size
    pairs = [[e.supports[0], e.query] for e in chosen]
    labels = cache.resized_labels(benchmark, sorted({i for pair in pairs for i in pair}), size)
    masks = np.array([[cache.binary(labels[i], e.class_id) for i in p] for p, e in zip(pairs, chosen, strict=True)])
    images = torch.stack([cache.resized_images(benchmark, pair, size) for pair in pairs])
    return {
        "classes": np.array([benchmark.classes[e.class_id - 1] for e in chosen]),
        "images": images.movedim(2, -1).numpy(),
        "support": masks[:, 0] == 1,
        "target": masks[:, 1],
    }


# ---- storing


STORED = ("run", "scores", "betas", "numbers", "classes", "forward", "backward", "probability")
STORED_AS_BITS = ("support", "foreground", "candidates", "selected", "alone")


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """The fields of `Predictions` as one small file; the same arrays give the same bytes."""
    # Thresholds that select the same cells have the same answer, which is stored once.
    sides = arrays["masks"].shape
    masks, rows = np.unique(arrays["masks"].reshape(-1, *sides[2:]), axis=0, return_inverse=True)
    bits = {name: arrays[name] for name in STORED_AS_BITS}
    bits |= {"masks": masks, "object": arrays["target"] == 1, "void": arrays["target"] == VOID}
    jpegs = [_jpeg(image) for pair in arrays["images"] for image in pair]
    content: dict[str, Any] = {
        **{name: arrays[name] for name in STORED},
        **{f"{name} bits": np.packbits(array) for name, array in bits.items()},
        **{f"{name} shape": np.array(array.shape) for name, array in bits.items()},
        "rows": rows.reshape(sides[:2]).astype(np.uint16),
        "jpegs": np.frombuffer(b"".join(jpegs), np.uint8),
        "lengths": np.array([len(jpeg) for jpeg in jpegs]),
    }
    np.savez_compressed(buffer := BytesIO(), **content)
    return buffer.getvalue()


def unpack(content: bytes) -> Predictions:
    """What `pack` packed; the images have gone through JPEG."""
    with np.load(BytesIO(content)) as file:
        stored = dict(file)
    bits = {}
    for name in (*STORED_AS_BITS, "masks", "object", "void"):
        shape = stored[f"{name} shape"]
        bits[name] = np.unpackbits(stored[f"{name} bits"], count=int(shape.prod())).astype(bool).reshape(shape)
    jpegs = np.split(stored["jpegs"], stored["lengths"].cumsum()[:-1])
    images = np.stack([np.asarray(Image.open(BytesIO(jpeg.tobytes()))) for jpeg in jpegs])
    return Predictions(
        run=str(stored["run"]),
        scores=str(stored["scores"]),
        betas=tuple(stored["betas"].tolist()),
        classes=tuple(stored["classes"].tolist()),
        images=images.reshape(-1, 2, *images.shape[1:]),
        target=np.where(bits["void"], VOID, bits["object"]).astype(np.uint8),
        masks=bits["masks"][stored["rows"]],
        **{name: stored[name] for name in ("numbers", "forward", "backward", "probability")},
        **{name: bits[name] for name in STORED_AS_BITS},
    )


def _jpeg(image: np.ndarray) -> bytes:
    Image.fromarray(image).save(buffer := BytesIO(), "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def cohort(benchmark: str, preset: str) -> Cohort:
    """Whose predictions are explored: those of the full model on the first tested fold, seed 0."""
    setting, results = presets.resolve(benchmark, preset), io.places().results
    file = results / setting.name / "benchmark.json"
    if not file.exists():
        raise DPNetError(f"{file.parent}: no results: run `make reproduce-table3 {_options(benchmark, preset)}`")
    fold = next(fold for fold, classes in enumerate(read_json(file)["tested"]) if classes)
    return Cohort("table3", setting, fold, 0, results)


def possible(of: Cohort) -> bool:
    """Whether predictions are stored, or a scored checkpoint is there to make them from."""
    return path(of).exists() or _can_predict(of)


def path(of: Cohort) -> Path:
    """The file of predictions; git ignores it where its pictures are not ours to publish."""
    return of.store.root / "explore.npz"


def load(of: Cohort) -> Predictions:
    """The stored predictions of a run; an error if they are missing, corrupt, or another run's or training's."""
    file, run = path(of), of.example_run.id
    options = _options(of.usual.benchmark, of.usual.preset)
    again = f"run `make reproduce-table3 {options}` and then `make explore {options}`"
    if not file.exists():
        raise DPNetError(f"{file}: no stored predictions: {again}")
    try:
        stored = unpack(file.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DPNetError(f"{file}: corrupt ({error}): remove it, and {again}") from error
    if stored.run != run:
        raise DPNetError(f"{file}: predictions of run {stored.run}, expected {run}: remove it, and {again}")
    if stored.scores != _scores(of):
        raise DPNetError(f"{file}: predictions of another training of {run}: remove it, and {again}")
    return stored


def keep(of: Cohort) -> Predictions:
    """The stored predictions of a run; made from its checkpoint where they are missing or of another training."""
    try:
        return load(of)
    except DPNetError:
        if not _can_predict(of):
            raise
    run, places = of.example_run, io.places()
    prepared = benchmarks.prepare(of.usual.benchmark, places.data, of.setting.recipe)
    scene = evaluate.scene_of(run, prepared, places.device)
    head = runner.load_head(run, of.store, scene.backbone.channels, scene.device)
    listed = scene.episodes(1, of.usual.episodes)
    arrays = predict(head, scene, run.training, listed, first_of_each(listed))
    write(path(of), pack({"run": np.array(run.id), "scores": np.array(_scores(of)), **arrays}))
    return load(of)


def _scores(of: Cohort) -> str:
    """Digest of the counts of the run's training, "" where it was not scored."""
    name = Evaluation(of.usual.episodes).id
    return str(of.store.metrics(of.example_run)["evaluations"].get(name, {}).get("counts", ""))


def _can_predict(of: Cohort) -> bool:
    return (of.store.folder(of.example_run) / "checkpoint.safetensors").exists() and bool(_scores(of))


def _options(benchmark: str, preset: str) -> str:
    return f"BENCHMARK={benchmark} PRESET={preset}"


# ---- looking


def serve(of: Cohort, browser: bool = True) -> None:
    """Open JupyterLab on a copy of the notebook, on this machine only, until it is ended.

    Arguments:
        of: from `cohort`.
        browser: whether to open one; else the address is printed.
    """
    keep(of)
    try:
        from jupyterlab.labapp import LabApp
        from papermill import execute_notebook
    except ImportError as error:
        raise DPNetError(f"the explorer needs {error.name}: pip install -e '.[notebooks]'") from None
    with TemporaryDirectory(prefix="dpnet-", ignore_cleanup_errors=True) as folder:
        parameters = {"benchmark": of.usual.benchmark, "preset": of.usual.preset}
        copy = Path(folder) / "explore.ipynb"
        execute_notebook(io.ROOT / "notebooks" / copy.name, copy, parameters, prepare_only=True, progress_bar=False)
        notebooks.set_environment(io.places().results, Path(folder) / ".config")
        # JupyterLab asks whether it may fetch news, unless its settings say so; a user's own settings win.
        quiet = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
        overrides = Path(folder) / ".config" / "labconfig" / "default_setting_overrides.json"
        overrides.parent.mkdir(parents=True)
        overrides.write_text(json.dumps(quiet))
        settings = {
            "ServerApp.root_dir": folder,
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.allow_root": True,
            "ServerApp.open_browser": browser,
            "LabApp.default_url": "/lab/tree/explore.ipynb",
            "LabApp.workspaces_dir": f"{folder}/.workspaces",
            # No network: neither for news and newer versions, nor for extensions.
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "LabApp.news_url": None,
            "LabApp.extension_manager": "readonly",
        }
        LabApp.launch_instance(argv=[f"--{name}={value}" for name, value in settings.items()])
