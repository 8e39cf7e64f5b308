"""The explorer: what a model predicts for some episodes at every threshold, in one file of some hundred kilobytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from dpnet import data, io
from dpnet.companion import presets, results, runner
from dpnet.companion.cohort import Cohort
from dpnet.companion.experiments import BETAS
from dpnet.config import Evaluation, Training
from dpnet.data import cache
from dpnet.episodes import Episode
from dpnet.evaluate import Scene, decode_distinct, scene_of
from dpnet.io import DPNetError, to_json, write
from dpnet.model import Head, hard_masks, shared_counts
from dpnet.modules import cycle_matches, resize
from dpnet.train import autocast

FILE = "explore.npz"  # git ignores it where its pictures are not ours to publish
PER_CLASS = 3  # episodes
LAB_SETTINGS = {  # nobody is asked about news; sliders wait for cells, since pyplot may only be used by one thread
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
    "@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "disabled"},
}


@dataclass(frozen=True)
class Predictions:
    """Predictions of one run on E one-shot episodes; S pixels a side, h x w cells, T thresholds."""

    run: str  # its id
    scores: str  # digest of its training's counts: another training of the same run has others
    betas: list[float]  # T thresholds, ascending from 0
    numbers: np.ndarray  # int [E], positions in the fold's list
    classes: list[str]  # E names
    images: np.ndarray  # uint8 [E, 2, S, S, 3], support and query
    support: np.ndarray  # bool [E, S, S], the support's object
    target: np.ndarray  # uint8 [E, S, S] with 0, 1, 255, the query's
    foreground: np.ndarray  # bool [E, h, w], the support's cells that show the object
    closes: np.ndarray  # bool [E, h, w], those of them whose cycle ends on the object too (Eq. 1, 2)
    candidates: np.ndarray  # bool [E, h, w], C
    selected: np.ndarray  # bool [E, T, h, w], C'
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

    def iou(self, episode: int, mask: np.ndarray) -> float:
        """Intersection over union, in %, of an answer; void is background, as in the CANet metric."""
        truth = self.target[episode] == 1
        return 100 * float((mask & truth).sum() / max((mask | truth).sum(), 1))


@torch.inference_mode()
def predict(head: Head, scene: Scene, training: Training, listed: Sequence[Episode]) -> dict[str, np.ndarray]:
    """The fields of `Predictions` but `run` and `scores`, for a list's first episodes of each class."""
    of_class = np.array([e.class_id for e in listed])
    numbers = np.concatenate([np.flatnonzero(of_class == c)[:PER_CLASS] for c in np.unique(of_class)])
    chosen, benchmark, backbone = [listed[n] for n in numbers], scene.benchmark, scene.backbone
    scene.load_labels(chosen)
    raw_s, soft = scene.supports(chosen, "right")
    raw_q = scene.raw([e.query for e in chosen])
    forward, backward = cycle_matches(backbone.comparison(raw_s[:, 0]).float(), backbone.comparison(raw_q).float())
    foreground = hard_masks(soft)[:, 0]
    counts = shared_counts(backbone, raw_s, raw_q, soft, head.variant.pseudo)
    # In fp32, as in scoring.
    matched = head.match(head.prototypes(backbone.features(raw_s), soft), backbone.features(raw_q), counts)
    selected = torch.stack([head.select(matched, beta)[:, 0] for beta in BETAS], 1)
    with autocast(training, scene.device):
        asked: list[tuple[float, str]] = [*((beta, "main") for beta in BETAS), (Evaluation.beta, "aux")]
        differences = torch.stack(list(decode_distinct(head, matched, asked).values()), 1)
    answers = resize(differences, (scene.size, scene.size)) > 0
    pairs, grid = [[e.supports[0], e.query] for e in chosen], raw_q.shape[2:]
    labels = [torch.stack([*cache.resized_labels(benchmark, pair, scene.size).values()]) for pair in pairs]
    targets = cache.binary(torch.stack(labels), torch.from_numpy(of_class[numbers])[:, None, None, None])
    fields = {
        "images": torch.stack([cache.resized_images(benchmark, pair, scene.size) for pair in pairs]).movedim(2, -1),
        "support": targets[:, 0] == 1,
        "target": targets[:, 1],
        "foreground": foreground.unflatten(-1, grid),
        "closes": (foreground & foreground.gather(1, backward.gather(1, forward))).unflatten(-1, grid),
        "candidates": (counts[:, 0] > 0).unflatten(-1, grid),
        "selected": selected.unflatten(-1, grid),
        "masks": answers[:, :-1],
        "alone": answers[:, -1],
    }
    names = np.array([benchmark.classes[c - 1] for c in of_class[numbers]])
    arrays = {name: values.cpu().numpy() for name, values in fields.items()}
    return {"betas": np.array(BETAS), "numbers": numbers, "classes": names, **arrays}


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """The fields of `Predictions` as one small file, images as JPEG; the same arrays give the same bytes."""
    content: dict[str, Any] = dict(arrays)
    for number, image in enumerate(image for pair in content.pop("images") for image in pair):
        Image.fromarray(image).save(buffer := BytesIO(), "JPEG", quality=75, optimize=True)
        content[f"image {number}"] = np.frombuffer(buffer.getvalue(), np.uint8)
    np.savez_compressed(buffer := BytesIO(), **content)
    return buffer.getvalue()


def unpack(content: bytes) -> Predictions:
    """What `pack` packed; the images have gone through JPEG."""
    fields: dict[str, Any] = dict(np.load(BytesIO(content)))
    jpegs = [fields.pop(f"image {number}") for number in range(2 * len(fields["numbers"]))]
    images = np.stack([np.asarray(Image.open(BytesIO(jpeg.tobytes()))) for jpeg in jpegs])
    fields |= {name: fields[name].tolist() for name in ("run", "scores", "betas", "classes")}
    return Predictions(**fields, images=images.reshape(-1, 2, *images.shape[1:]))


def cohort(benchmark: str, preset: str, root: Path) -> Cohort:
    """Whose predictions are explored: those of the full model on the first tested fold, seed 0."""
    setting = presets.resolve(benchmark, preset)
    return Cohort("table3", setting, results.load(setting, root).folds[0], 0, root)


def sources(benchmark: str, preset: str) -> dict[str, Predictions]:
    """The stored predictions, "published" and "yours"; an error where there are neither."""
    at, stored = io.places(), {}
    roots = {"published": at.published} | ({} if at.results == at.published else {"yours": at.results})
    for name, root in roots.items():
        try:
            of = cohort(benchmark, preset, root)
            if name == "yours":
                keep(of)
            stored[name] = load(of)
        except DPNetError as error:
            problem = error
            if (root / f"{benchmark}-{preset}").exists():
                print(f"{name}: not shown: {error}")
    if not stored:
        raise problem
    return stored


def load(of: Cohort) -> Predictions:
    """The stored predictions of a run; an error if they are missing, corrupt, or another run's or training's."""
    file, expected = of.store.root / FILE, (of.example_run.id, _scores(of))
    try:
        stored = unpack(file.read_bytes())
        if (stored.run, stored.scores) == expected:
            return stored
        why = f"predictions of another run or training, expected {expected[0]}"
    except FileNotFoundError:
        why = "no stored predictions"
    except Exception as error:  # whatever a broken file makes numpy, zipfile, zlib and PIL raise
        why = f"corrupt ({error})"
    where = f"BENCHMARK={of.usual.benchmark} PRESET={of.usual.preset}"
    raise DPNetError(f"{file}: {why}: run `make reproduce-table3 {where}` and then `make explore {where}`")


def keep(of: Cohort) -> bool:
    """Make predictions where a scored checkpoint has none of its own yet; whether any are stored."""
    file, run = of.store.root / FILE, of.example_run
    try:
        load(of)
    except DPNetError:
        if _scores(of) and run not in of.untrained():
            places = io.places()
            benchmark = data.prepare(run.benchmark, places.data, of.setting.recipe)
            scene = scene_of(run, benchmark, places.device)
            head = runner.load_head(run, of.store, scene.backbone.channels, scene.device)
            arrays = predict(head, scene, run.training, scene.episodes(1, of.usual.episodes))
            write(file, pack({"run": np.array(run.id), "scores": np.array(_scores(of)), **arrays}))
    return file.exists()


def _scores(of: Cohort) -> str:
    """Digest of the counts of the run's training, "" where it was not scored."""
    evaluations = of.store.metrics(of.example_run)["evaluations"]
    return evaluations.get(Evaluation(of.usual.episodes).id, {"counts": ""})["counts"]


def serve(benchmark: str, preset: str, browser: bool) -> None:
    """Open JupyterLab on a copy of the notebook, on this machine only, until it is ended; or print its address."""
    sources(benchmark, preset)  # an error where there are none
    try:
        from jupyterlab.labapp import LabApp
        from papermill import execute_notebook
    except ImportError as error:
        raise DPNetError(f"the explorer needs {error.name}: pip install -e '.[notebooks]'") from None
    with TemporaryDirectory(prefix="dpnet-", ignore_cleanup_errors=True) as folder:
        template, copy = io.ROOT / "notebooks" / "explore.ipynb", Path(folder) / "explore.ipynb"
        execute_notebook(
            template, copy, {"benchmark": benchmark, "preset": preset}, prepare_only=True, progress_bar=False
        )
        write(Path(folder) / ".settings" / "overrides.json", to_json(LAB_SETTINGS))
        settings = {
            "ServerApp.root_dir": folder,
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.allow_root": True,
            "ServerApp.open_browser": browser,
            "LabApp.default_url": f"/lab/tree/{copy.name}",
            "LabApp.workspaces_dir": f"{folder}/.workspaces",
            "LabApp.app_settings_dir": f"{folder}/.settings",  # defaults; a user's own settings win
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "LabApp.extension_manager": "readonly",
        }
        LabApp.launch_instance(argv=[f"--{name}={value}" for name, value in settings.items()])
