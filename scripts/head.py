"""The head that comes with the package: `train` makes it, `card` measures what docs/head.md says of it."""

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from dpnet import backbones, data, episodes, evaluate, heads, io
from dpnet.companion import presets, runner
from dpnet.companion.experiments import PAPER_METRIC
from dpnet.companion.presets import Setting
from dpnet.companion.store import Store
from dpnet.config import VOID, Evaluation, Variant, kind_of
from dpnet.data import forms, index
from dpnet.data.index import Benchmark
from dpnet.heads import HEAD, Trained
from dpnet.io import DPNetError, Places, progress, write
from dpnet.metrics import mean_iou
from dpnet.predict import Segmenter, answer
from dpnet.train import train

SHOTS, SCALES = (1, 5), ((1.0,), (0.7, 1.0, 1.3))
THRESHOLDS = tuple(t / 20 for t in range(6, 20))
EPISODES = 400  # of a fold's list, for each setting
SUPPORTS, PHOTOGRAPHS = 3, 200  # of each class; of a folder, drawn from all test images, whatever they show
PAIRS = 12  # of support and query for each class of COCO
IN_VOC = (  # as COCO calls them
    *("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog"),
    *("horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv"),
)


def everything(whole: Benchmark) -> Benchmark:
    """All images, those for testing too, as training images of one fold without novel classes."""
    image, label = (lambda e: str(whole.path(e.image))), (lambda e: str(whole.path(e.label)))
    entries = tuple(replace(e, split="train", image=image(e), label=label(e)) for e in whole.entries)
    digest = hashlib.sha256(f"{whole.digest} everything".encode()).hexdigest()
    return replace(whole, root=whole.root / "everything", folds=((),), tested=((),), entries=entries, digest=digest)


def make(setting: Setting, at: Places, file: Path) -> None:
    """Train on all images and classes, and write the head; killed and started again, it goes on."""
    benchmark, run = (
        everything(data.prepare(setting.benchmark, at.data, setting.recipe)),
        setting.run(Variant(), 0, 0),
    )
    folder = benchmark.root / "runs" / run.id
    backbone = backbones.build(setting.training.backbone).to(at.device)
    trained = train({run: folder}, benchmark, backbone, at.device)[run]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=io.ROOT, capture_output=True, text=True).stdout.strip()
    about = {"kind": kind_of(run), **asdict(run), "fold": None, "data": benchmark.digest[:16], "commit": commit}
    heads.save(file, trained.cpu(), {**about, "classes": benchmark.classes, "images": len(benchmark.entries)})
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


def of_folds(setting: Setting, at: Places) -> Iterator[tuple[Benchmark, int, Trained]]:
    """The full model of each fold, seed 0, which never saw the fold's classes."""
    benchmark = data.prepare(setting.benchmark, at.data, setting.recipe)
    for fold in episodes.folds(benchmark):
        folder = Store(at.results / setting.name).folder(setting.run(Variant(), fold, 0))
        yield benchmark, fold, heads.load(folder)


def settings(setting: Setting, at: Places, sizes: Sequence[int]) -> pd.DataFrame:
    """Shots, sizes and scales on classes left out of training: mIoU, and seconds for a query on one thread."""
    lines = []
    ways = [Evaluation(EPISODES, shot, scales=scales) for shot in SHOTS for scales in SCALES]
    for benchmark, fold, (model, _) in of_folds(setting, at):
        run = setting.run(Variant(), fold, 0)
        for size in sizes:
            scene = evaluate.Scene(benchmark, model.backbone.to(at.device), size, fold, 0)
            counts, lists = evaluate.evaluate({run: model.head.to(at.device)}, scene, {run: ways})
            for way in ways:
                score = mean_iou(counts[run, way], np.array([e.class_id for e in lists[way]]), PAPER_METRIC)
                lines.append((size, way.shot, len(way.scales), fold, score))
    table = pd.DataFrame(lines, columns=["input", "supports", "scales", "fold", "mIoU"])
    table = table.pivot(index=["input", "supports", "scales"], columns="fold", values="mIoU")
    table = table.rename(columns="fold {}".format).assign(mean=table.mean(axis=1)).round(1).reset_index()
    trained = Trained(model.cpu(), setting.training.size)
    table["seconds"] = [_seconds(trained, *way) for way in table[["input", "supports", "scales"]].to_numpy().tolist()]
    return table


def _seconds(trained: Trained, size: int, shots: int, scales: int) -> float:
    """The median time of a query of VOC's size."""
    rng, times = np.random.default_rng(0), []
    image, mask = rng.integers(0, 256, (375, 500, 3), np.uint8), np.zeros((375, 500), np.uint8)
    mask[100:300, 100:300] = 1
    segmenter = Segmenter(trained, size=size, scales=SCALES[scales > 1]).support([image] * shots, [mask] * shots)
    for _ in range(7):
        start = time.perf_counter()
        segmenter.segment(image)
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)), 3)


def outside(file: Path, trained: Trained) -> pd.DataFrame:
    """Classes of COCO that VOC lacks: one support, another image as the query; IoU over some pairs of each class."""
    with TemporaryDirectory() as aside:
        own = forms.of_coco(file, Path(aside), photos=next(file.parents[1].glob("train*")))
        entries = index.scan(Path(aside), own.make(), len(own.names), "reading COCO")
        some, lines = Benchmark("coco", Path(aside), own.names, (), (), entries), []
        for c, name in progress([*enumerate(own.names, 1)], "classes outside VOC", "name"):
            images = [] if name in IN_VOC else [e for e in entries if c in index.counting(e)]
            pairs, counts = [*permutations(images, 2)], np.zeros(2)
            for query, support in pairs[:: max(1, len(pairs) // PAIRS)][:PAIRS]:
                mask = (some.label(support) == c).astype(np.uint8)
                marked = Segmenter(trained).support([some.image(support)], [mask]).segment(some.image(query))[0] == 1
                truth, counted = some.label(query) == c, some.label(query) != VOID
                counts += [(marked & truth).sum(), ((marked | truth) & counted).sum()]
            if pairs:
                lines.append(
                    (name, len(images), min(len(pairs), PAIRS), round(100 * counts[0] / max(counts[1], 1), 1))
                )
    return pd.DataFrame(lines, columns=["class", "images", "pairs", "IoU"])


def labelling(setting: Setting, at: Places) -> pd.DataFrame:
    """A folder in which most photographs lack a class: precision, recall and IoU of each class, by threshold.

    The classes of a fold are left out of training; `base` are those of the next fold, on which a threshold is chosen.
    """
    lines = []
    for benchmark, fold, trained in of_folds(setting, at):
        for kind, classes in (("left out", benchmark.folds[fold]), ("base", benchmark.folds[(fold + 1) % 4])):
            counts = _labelled(benchmark, classes, Segmenter(trained), f"fold {fold}, {kind}")
            for threshold, of_classes in zip(THRESHOLDS, counts, strict=True):
                for c, (both, predicted, truth) in zip(classes, of_classes, strict=True):
                    scores = [both / max(n, 1) for n in (predicted, truth, predicted + truth - both)]
                    lines.append(
                        (fold, kind, benchmark.classes[c - 1], threshold, *(round(100 * s, 1) for s in scores))
                    )
    return pd.DataFrame(lines, columns=["fold", "kind", "class", "threshold", "precision", "recall", "IoU"])


def _labelled(benchmark: Benchmark, classes: Sequence[int], segmenter: Segmenter, what: str) -> np.ndarray:
    """Pixels that are right, predicted, and true: [thresholds, classes, 3]."""
    for c in classes:
        few = [benchmark.entries[i] for i in benchmark.images_of(c, "train")[:SUPPORTS]]
        masks = [np.where(benchmark.label(e) == VOID, VOID, benchmark.label(e) == c).astype(np.uint8) for e in few]
        segmenter.support([benchmark.image(e) for e in few], masks)
    tests = [e for e in benchmark.entries if e.split == "val"]
    chosen = np.random.default_rng(0).permutation(len(tests))[:PHOTOGRAPHS]
    counts = np.zeros((len(THRESHOLDS), len(classes), 3), np.int64)
    for i in progress(chosen.tolist(), what, "image"):
        label, probabilities = benchmark.label(tests[i]), segmenter.probabilities(benchmark.image(tests[i]))
        for t, threshold in enumerate(THRESHOLDS):
            mask = np.where(label == VOID, 0, answer(probabilities, threshold)[0])
            for n, c in enumerate(classes):
                counts[t, n] += [((mask == n + 1) & (label == c)).sum(), (mask == n + 1).sum(), (label == c).sum()]
    return counts


def by_threshold(lines: pd.DataFrame) -> pd.DataFrame:
    """The means of classes at 0.5, and at the threshold with the highest IoU on base classes."""
    means = lines.groupby(["kind", "threshold"])[["precision", "recall", "IoU"]].mean().round(1)
    chosen = means.loc["base"].IoU.idxmax()
    return means.loc[[(kind, t) for kind in ("base", "left out") for t in sorted({0.5, chosen})]].reset_index()


def main() -> None:
    """Train, or measure."""
    here = io.places()
    parser = argparse.ArgumentParser(description=__doc__)
    told = "make the head; measure it on classes outside VOC; or all of docs/head.md, with the heads of folds too"
    parser.add_argument("what", choices=("train", "outside", "card"), help=told)
    parser.add_argument("--preset", default="quick", choices=presets.PRESETS, help="of pascal-part [quick]")
    parser.add_argument("--data", type=Path, default=here.data, help="the data folder [data]")
    parser.add_argument("--results", type=Path, default=here.results, help="the folder with the runs of the folds")
    parser.add_argument("--device", default=here.device, choices=("cpu", "cuda"), help="[cpu]")
    parser.add_argument("--head", type=Path, default=HEAD, help="its file [the package's]")
    parser.add_argument("--coco", type=Path, help="a folder of some images of COCO, with its annotations")
    parser.add_argument("--out", type=Path, default=here.published / "head", help="of the tables [results/head]")
    options = parser.parse_args()
    runner.settle()
    at, setting = (
        Places(options.data, options.results, options.device),
        presets.resolve("pascal-part", options.preset),
    )
    if options.what == "train":
        make(setting, at, options.head)
        return
    if not (files := sorted(Path(options.coco or "").glob("annotations/*.json"))):
        raise DPNetError(f"--coco {options.coco}: no annotations/*.json there: give a folder of images of COCO")
    sizes = setting.training.size, 321
    measured: dict[str, Callable[[], pd.DataFrame]] = {
        "outside": lambda: outside(files[0], heads.load(options.head)),
        "labelling": lambda: labelling(setting, at),
        "thresholds": lambda: by_threshold(pd.read_csv(options.out / "labelling.csv")),
        "settings": lambda: settings(setting, at, sizes),
    }
    for name in ["outside"] if options.what == "outside" else measured:
        table = measured[name]()
        write(options.out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
        print(table.to_string(index=False), end="\n\n", flush=True)


if __name__ == "__main__":
    try:
        main()
    except DPNetError as error:
        sys.exit(f"head: error: {error}")
