"""Cohorts on disk: other data under the same runs, and being killed between a run's files (invariant 9)."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpnet import backbones, io, train
from dpnet.companion import experiments, notebooks, presets, runner
from dpnet.companion.store import COUNTS
from dpnet.config import Evaluation
from dpnet.data import custom, forms
from dpnet.data.index import Benchmark
from dpnet.io import DPNetError, Places


class Killed:
    """Stands for `train.losses`, once per variant and step, and is interrupted at some of its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *at: int) -> None:
        self.at, self.calls, self.losses = at, 0, train.losses
        monkeypatch.setattr(train, "losses", self)
        monkeypatch.setenv("DPNET_SAVE_EVERY", "0")

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls in self.at:
            raise KeyboardInterrupt
        return self.losses(*arguments)


def own_images(folder: Path, size: int, root: Path) -> Benchmark:
    """20 images of four classes, each a square of `size` pixels, prepared as the benchmark `folder`."""
    for n in range(20):
        rng = np.random.default_rng([n, size])
        label = np.zeros((65, 65), np.uint8)
        for class_id in range(1, 5):
            row, column = rng.integers(0, 32 - size, 2) + 32 * np.array(divmod(class_id - 1, 2))
            label[row : row + size, column : column + size] = class_id
        image = rng.integers(0, 60, (65, 65, 3), dtype=np.uint8) + 40 * label[..., None]
        for kind, pixels in (("images", image), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{n}.png")
    (folder / "names.txt").write_text("a\nb\nc\nd\n")
    own = forms.of_pngs(folder / "images", folder / "labels", folder / "names.txt", root / "folder")
    return custom.prepare(own, root / "folder", "", 65)


def test_what_was_made_on_other_data_is_not_carried_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed training and an unscored head of other data are named; baselines are measured anew."""
    monkeypatch.setattr(notebooks, "installed", lambda: False)
    at = Places(tmp_path / "data", tmp_path / "results", "cpu")
    cohort = runner.Cohort("table3", presets.resolve("folder", "tiny"), 0, 0, at.results, only="base")
    (one,), store = cohort.runs, cohort.store
    folder = store.folder(one)

    def refused() -> None:
        before = {f: f.read_bytes() for f in folder.iterdir()}
        with pytest.raises(DPNetError, match=rf"{one.id}: trained or scored on other data.*bring back.*RESULTS="):
            runner.run_cohort(cohort, at)
        assert before == {f: f.read_bytes() for f in folder.iterdir()}

    own_images(tmp_path / "A", 16, at.data)
    Killed(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        runner.run_cohort(cohort, at)
    assert io.states(folder)
    own_images(tmp_path / "B", 24, at.data)
    refused()
    first = own_images(tmp_path / "A", 16, at.data)
    runner.run_cohort(cohort, at)  # it goes on where it belongs
    assert cohort.complete(first.digest[:16])
    for name in ("metrics.json", COUNTS):
        (folder / name).unlink()
    other = own_images(tmp_path / "B", 24, at.data)
    refused()
    shutil.rmtree(folder)
    runner.run_cohort(cohort, at)
    assert cohort.complete(other.digest[:16])
    assert not cohort.complete(first.digest[:16])
    shutil.rmtree(store.root / "episodes")  # as the error for a torn list tells people to do
    assert not cohort.complete(other.digest[:16])
    runner.run_cohort(cohort, at)
    assert cohort.complete(other.digest[:16])
    for record in (one, *cohort.baselines):
        evaluations = store.metrics(record)["evaluations"]
        assert {about["data"] for about in evaluations.values()} == {other.digest[:16]}
        for name in evaluations:
            store.counts(record, name)  # whole, and its own


def test_killed_before_the_examples_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says that a run is finished is written last, so the second call makes what is missing."""
    at = Places(tmp_path / "data", tmp_path / "results", "cpu")
    cohort = runner.Cohort("fig4", presets.resolve("shapes", "tiny"), 0, 0, at.results)
    run, save = cohort.example_run, io.save

    def dying(file: Path, *rest: Any) -> None:
        if file.name == "examples.npz":
            raise KeyboardInterrupt
        save(file, *rest)

    monkeypatch.setattr(io, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        runner.run_cohort(cohort, at)
    assert not (cohort.store.folder(run) / "metrics.json").exists()
    monkeypatch.setattr(io, "save", save)
    runner.run_cohort(cohort, at)
    pair = (cohort.store.counts(run, Evaluation(40, branch=branch).id) for branch in ("aux", "main"))
    (without, classes), (with_, _) = pair
    chosen = {episode for _, _, episode, *_ in experiments.qualitative_examples(without, with_, classes)}
    with np.load(cohort.store.folder(run) / "examples.npz") as stored:
        assert {*stored["episodes"].tolist()} == chosen | {classes.tolist().index(c) for c in set(classes)}


def test_the_papers_schedule_starts_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PASCAL, fold 0, ResNet-50 and 297,650 steps, but 81² pixels: killed after two steps, taken up again, killed."""
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    ids = np.arange(1, 21, dtype=np.uint8).reshape(4, 5).repeat(12, 0).repeat(12, 1)  # every class in every image
    for n in range(8):
        noise = np.random.default_rng(n).integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(voc / "JPEGImages" / f"{n}.jpg")
        Image.fromarray(np.roll(ids, n, 1)).save(voc / "SegmentationClassAug" / f"{n}.png")
    for name, listed in (("train", (0, 1)), ("train_noval", (2, 3)), ("val", (4, 5, 6, 7))):
        (voc / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{n}\n" for n in listed))
    random = backbones.build("resnet50", None, torch.Generator().manual_seed(0))  # its weights are no part of this
    monkeypatch.setattr(backbones, "build", lambda name: random)
    at = Places(tmp_path, tmp_path / "results", "cpu")
    paper = presets.resolve("pascal", "paper")
    small = replace(paper, training=replace(paper.training, size=81))
    cohort = runner.Cohort("table3", small, 0, 0, at.results, only="base")
    killed = Killed(monkeypatch, 3, 5)
    for state in ("state-00000002.pt", "state-00000003.pt"):
        with pytest.raises(KeyboardInterrupt):
            runner.run_cohort(cohort, at)
        assert [file.name for file in io.states(cohort.store.folder(cohort.runs[0]))][-1] == state
    assert killed.calls == 5


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_no_number_depends_on_how_many_cores_there_are(tmp_path: Path) -> None:
    """Features, checkpoints and counts of one core, and of two with two threads by OpenMP's own setting."""
    made = []
    for cores in (1, 2):
        folder = tmp_path / str(cores)
        subprocess.run(
            [sys.executable, "-m", "dpnet", "train", "table3", "--preset", "tiny", "--variant", "pim+msf+ccm",
             "--data", folder / "data", "--results", folder / "results"],
            check=True, cwd=io.ROOT, env={**os.environ, "OMP_NUM_THREADS": str(cores)},
            preexec_fn=lambda cores=cores: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
        )  # fmt: skip
        files = [f for pattern in ("*.npy", "*.npz", "*.safetensors", "*.json") for f in folder.rglob(pattern)]
        made.append({f.relative_to(folder): f.read_bytes() for f in files if f.name != "throughput.json"})
    assert len(made[0]) > 10
    assert [name for name, content in made[0].items() if made[1].get(name) != content] == []
