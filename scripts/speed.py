"""Measure this package against plain loops, side by side in one run: results/speed/<machine>.json and .png."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import loops
import numpy as np
import peer
import speed_plot
import speed_words
import torch
from bench import FEW, STEPS, Bench, plain_stepper, stepper
from instruments import Largest, arithmetic, by_kind, peak, ratio, spread

from dpnet import backbones, evaluate, io, modules, train
from dpnet.companion import experiments, presets, runner
from dpnet.config import Evaluation, Variant
from dpnet.data import cache
from dpnet.io import DPNetError, Places, progress, to_json, write
from dpnet.metrics import mean_iou
from dpnet.model import Head, shared_counts, soft_masks

COUNTS = (25, 100, 400)  # episodes of a list
SHOTS = (1, 2, 5)
SIDES = (161, 241, 321)  # pixels of an image
GRIDS = (21, 31, 41, 61, 81)  # cells of a side: 161², 241², 321², 481² and 641² pixels
DIFFER = 1e-3  # share of pixels in which features stored in half precision may turn the answer
# Whose seconds are whose: part -> (owner, function). Code that these call for another part counts for that part.
Functions = dict[str, list[tuple[Any, str]]]
ENCODING: list[tuple[Any, str]] = [(backbones.Backbone, "forward")]
IN_EVALUATION: Functions = {
    "backbone": ENCODING,
    "data": [(cache, "resized_images"), (cache, "resized_labels"), (evaluate.Scene, "load_labels"),
             (cache.FeatureBank, "__call__")],
    "comparison": [(evaluate, "shared_counts")],
    "heads": [(Head, "prototypes"), (Head, "match"), (evaluate, "decode_distinct")],
    "scoring": [(evaluate, "score")],
}  # fmt: skip
IN_TRAINING: Functions = {
    "backbone": ENCODING,
    "comparison": [(train, "shared_counts")],
    "heads": [(train, "advance")],
}


def measure(preset: str, at: Places, repeats: int = 3, only: str = "") -> dict[str, Any]:
    """What `results/speed/<machine>.json` holds: ratios, checks, growth, and where the time goes."""
    asked = [part for part in PARTS[at.device] if not only or part.__name__ in only.split(",")]
    with tempfile.TemporaryDirectory(prefix="dpnet-speed-") as scratch:
        bench = Bench(preset, at, Path(scratch), repeats)
        for part in progress(asked, "measuring", "part"):
            part(bench)
            if only or at.device == "cuda":  # what there is, should a later part fail
                print(speed_words.ratios(bench.measured).to_string(index=False), flush=True)
        return {
            "device": machine(at.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "backbone": bench.training.backbone,
            "size": bench.training.size,
            "preset": preset,
            "repeats": repeats,
            **bench.measured,
        }


def machine(device: str) -> str:
    """What a measurement's files are called: the GPU's name, or the number of cores."""
    if device == "cuda":
        return "-".join("".join(c if c.isalnum() else " " for c in torch.cuda.get_device_name().lower()).split())
    return f"cpu-{os.cpu_count()}-cores"


def check(bench: Bench) -> None:
    """Refuse to time two sides whose answers differ; and what half precision changes."""
    wanted = bench.wanted(bench.episodes)
    three_scales = Evaluation(bench.episodes, scales=experiments.SCALES)
    wanted[bench.full].append(three_scales)
    exact = {run: replace(run, training=replace(run.training, precision="fp32")) for run in wanted}
    scene = bench.scene()
    in_fp32, lists = evaluate.evaluate(
        {exact[run]: head for run, head in bench.heads.items()}, scene, {exact[run]: e for run, e in wanted.items()}
    )
    in_half, _ = evaluate.evaluate(bench.heads, scene, wanted)

    shares: dict[bool, list[float]] = {False: [], True: []}  # of pixels that differ; with three scales
    points = []
    for run, way in ((run, way) for run, ways in wanted.items() for way in ways):
        plain, ours = bench.by_loops(run, way), in_fp32[exact[run], way]
        shares[way == three_scales].append(float(np.abs(plain - ours[:FEW]).sum() / 2 / plain.sum()))
        classes = np.array([episode.class_id for episode in lists[way]])
        points.append(abs(mean_iou(in_half[run, way], classes, "canet") - mean_iou(ours, classes, "canet")))
    if (most := max(shares[False] + shares[True])) > DIFFER:
        raise DPNetError(f"plain loops and shared pass differ in {most:.2%} of the pixels: no timing is worth that")
    bench.measured["checks"] = {
        "rows": len(points),
        "episodes": bench.episodes,
        "steps trained": bench.full.training.steps,
        "precision": bench.training.precision,
        "pixels that differ (%)": round(100 * max(shares[False]), 4),
        "pixels that differ, three scales (%)": round(100 * max(shares[True]), 4),
        "mIoU that differs (points)": round(max(points), 4),
    }


def evaluation(bench: Bench) -> None:
    """Table 3's four rows: one pass over all episodes, against one episode and one variant at a time."""
    count, wanted, scene = bench.episodes, bench.wanted(bench.episodes), bench.scene()

    def from_files(listed: int) -> None:
        with bench.fresh() as benchmark:
            evaluate.evaluate(bench.heads, bench.scene(benchmark), bench.wanted(listed))

    taken = bench.watch.seconds(
        {
            "files": partial(from_files, count),
            "stored": lambda: evaluate.evaluate(bench.heads, scene, wanted),
            "loops": lambda: [bench.by_loops(run, way) for run, ways in wanted.items() for way in ways],
        }
    )
    fewer = {c: bench.watch.seconds({"files": partial(from_files, c)}, 1)["files"] for c in COUNTS if c < count}
    growth = fewer | {count: taken["files"]}
    what = f"evaluation of Table 3's four rows, {count} episodes"
    for how, name, budget in (("from files", "files", 4.0), ("features and labels kept", "stored", None)):
        rates = count / taken[name], "one at a time", FEW / taken["loops"]
        bench.ratios.append(ratio(f"{what}, {how}", "episodes/s", *rates, budget))
    bench.memory["evaluation of Table 3's four rows, from files"] = peak(partial(from_files, count), bench.device)
    bench.growth["episodes"] = {
        "x": list(growth),
        "ours (s)": [spread(values) for values in growth.values()],
        "reference (s)": [spread(c * taken["loops"] / FEW) for c in growth],
    }


def thresholds(bench: Bench) -> None:
    """Nine thresholds from one match, against one."""
    head, scene, count = {bench.full: bench.heads[bench.full]}, bench.scene(), bench.episodes
    wanted = {
        name: {bench.full: [Evaluation(count, beta=beta) for beta in betas]}
        for name, betas in (("one", (0.2,)), ("nine", experiments.BETAS))
    }
    taken = bench.watch.seconds({name: partial(evaluate.evaluate, head, scene, w) for name, w in wanted.items()})
    what = f"nine thresholds β over {count} episodes"
    bench.ratios.append(ratio(what, "s", taken["nine"], "one", taken["one"], 2.0))


def training(bench: Bench) -> None:
    """A step of one head, of Table 3's four rows (three heads) and of Table 5's sixteen, in lockstep."""
    ways: dict[Literal["geometric", "flip"], str] = {"geometric": "encoded at each step", "flip": "features kept"}
    for augment, how in ways.items():
        three, sixteen = (bench.runs(target, 10_000, augment) for target in ("table3", "table5"))
        alone = [run for run in three if run.variant == Variant()]
        cohorts = {"1": alone, "three": three, "4": sixteen[:4], "16": sixteen}
        works = {name: stepper(bench, runs) for name, runs in cohorts.items()}
        if augment == "flip":
            works["plain"] = plain_stepper(bench, three)
        taken = {name: 1000 * values / STEPS for name, values in bench.watch.seconds(works).items()}
        budgets = (2.0, 9.0) if augment == "geometric" else (1.6, 6.0)
        for name, what, budget in zip(
            ("three", "16"), ("Table 3's four rows", "Table 5's sixteen"), budgets, strict=True
        ):
            line = f"training step of {what}, {how}", "ms", taken[name], "one alone", taken["1"]
            bench.ratios.append(ratio(*line, budget))
        if "plain" in taken:
            line = f"training step of Table 3's four rows, {how}", "ms", taken["three"], "plain steps", taken["plain"]
            bench.ratios.append(ratio(*line, 0.6))
        bench.growth[f"variants, {how}"] = {
            "x": [1, 4, 16],
            "ours (ms)": [spread(taken[name]) for name in ("1", "4", "16")],
            "reference (ms)": [spread(n * taken["1"]) for n in (1, 4, 16)],
        }
        bench.memory[f"training step of Table 5's sixteen, {how}"] = peak(works["16"], bench.device)


def threads(bench: Bench) -> None:
    """One pass and one step of Table 3's rows with one thread and with two; the default is one."""
    wanted, scene, before = bench.wanted(COUNTS[1]), bench.scene(), torch.get_num_threads()
    works = {
        "evaluation (ms)": lambda: evaluate.evaluate(bench.heads, scene, wanted),
        "training (ms)": stepper(bench, bench.runs("table3", 10_000, "flip")),
    }
    growth: dict[str, list[Any]] = {"x": [1, 2], **{name: [] for name in works}}
    try:
        for number in growth["x"]:
            torch.set_num_threads(number)
            taken = bench.watch.seconds(works)
            growth["evaluation (ms)"].append(spread(1000 * taken["evaluation (ms)"] / COUNTS[1]))
            growth["training (ms)"].append(spread(1000 * taken["training (ms)"] / STEPS))
    finally:
        torch.set_num_threads(before)
    bench.growth["threads"] = growth


def kinds(bench: Bench) -> None:
    """A training step by kind of operation, beside its arithmetic: with ResNet-50 on a GPU, else Table 3's heads."""
    if bench.device == "cuda":
        resnet, count = peer.Peer(bench), 20
        what, runs, backbone = f"training step with ResNet-50 at {resnet.how.size}²", [resnet.one], resnet.backbone
    else:
        what, count = "training step of Table 3's four rows, features kept", STEPS
        runs, backbone = bench.runs("table3", 10_000, "flip"), bench.backbone
    work = stepper(bench, runs, backbone, count)
    work()
    taken = float(np.median(bench.watch.seconds({"": work})[""])) / count
    bench.measured["kinds of operations"] = {
        f"{what} (ms)": {kind: round(1000 * v / count, 3) for kind, v in by_kind(work, bench.device).items()}
    }
    products = arithmetic(stepper(bench, runs, backbone, 1, graph=False), bench.device)
    bench.measured["arithmetic"] = {"what": what, "ms": 1000 * taken, **products}


def loading(bench: Bench) -> None:
    """Images and labels from the memory-mapped store, against decoding and resizing files."""
    size = bench.training.size
    images, labels, row_of = cache.pixels(bench.data, "train", size)
    chosen = [list(row_of)[i % len(row_of)] for i in range(0, 37 * FEW, 37)]
    rows = [row_of[i] for i in chosen]
    works = {
        "ours": lambda: (torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])),
        "loops": lambda: [loops.decoded(bench.data, i, 1, size) for i in chosen],
    }
    taken = bench.watch.seconds(works, 10)
    rates = FEW / taken["ours"], "decoded and resized", FEW / taken["loops"]
    bench.ratios.append(ratio(f"loading images with labels at {size}²", "images/s", *rates, 5.0))


def shots(bench: Bench) -> None:
    """Evaluation of the full model by number of supports; each side from files."""
    few = FEW // 4
    growth: dict[str, list[Any]] = {"x": list(SHOTS), "ours (ms)": [], "reference (ms)": []}
    for shot in SHOTS:
        way = Evaluation(min(COUNTS[1], bench.episodes), shot=shot)

        def from_files(way: Evaluation = way) -> None:
            with bench.fresh() as benchmark:
                evaluate.evaluate({bench.full: bench.heads[bench.full]}, bench.scene(benchmark), {bench.full: [way]})

        taken = bench.watch.seconds({"ours": from_files, "loops": partial(bench.by_loops, bench.full, way, few)}, 1)
        growth["ours (ms)"].append(spread(1000 * taken["ours"] / way.episodes))
        growth["reference (ms)"].append(spread(1000 * taken["loops"] / few))
    bench.growth["shots"] = growth


def sides(bench: Bench) -> None:
    """One training step of the full model by size of the image, in its three parts."""
    size, generator = bench.training.batch, torch.Generator().manual_seed(0)
    member = train.begin(bench.full, bench.backbone.channels, bench.scratch / "nothing", bench.device)
    growth: dict[str, list[Any]] = {"x": list(SIDES), "backbone (ms)": [], "comparison (ms)": [], "head (ms)": []}

    def encode(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), train.autocast(bench.training, bench.device):
            return bench.backbone(images).float()

    for side in SIDES:
        images = torch.randint(0, 256, (2 * size, 3, side, side), generator=generator, dtype=torch.uint8)
        images = images.to(bench.device)
        coarse = torch.randint(0, 2, (size, 1, side // 8, side // 8), generator=generator).float()
        target = torch.nn.functional.interpolate(coarse, (side, side))[:, 0].long().to(bench.device)
        raw = encode(images)
        batch = train.Batch(raw[size:, None], raw[:size], soft_masks(target[:, None], raw.shape[-2:]), target)
        works: dict[str, Callable[[], Any]] = {
            "backbone (ms)": partial(encode, images),
            "comparison (ms)": partial(shared_counts, bench.backbone, batch.raw_s, batch.raw_q, batch.masks, "cycle"),
            "head (ms)": partial(train.advance, [member], batch, 0, partial(train.descend, [member], bench.backbone)),
        }
        taken = bench.watch.seconds(works)
        taken["head (ms)"] = taken["head (ms)"] - taken["comparison (ms)"]  # a step compares, too
        for name, values in taken.items():
            growth[name].append(spread(1000 * values))
    bench.growth["image size"] = growth


def comparison(bench: Bench) -> None:
    """Time and memory of the cycle comparison against the grid, whole and in blocks."""
    results: dict[str, Any] = {"channels": 1024, "block": modules.BLOCK, "x": list(GRIDS)}
    generator = torch.Generator().manual_seed(0)
    for name in ("whole", "blocks"):
        times, memory = [], []
        for side in GRIDS:
            F_s, F_q = (torch.randn(1, 1024, side**2, generator=generator).to(bench.device) for _ in range(2))
            work = partial(modules.cycle_matches, F_s, F_q, modules.BLOCK if name == "blocks" else side**2)
            times.append(spread(1000 * bench.watch.seconds({"": work}, 1)[""]))
            with Largest(F_s.shape) as largest:
                work()
            memory.append(round(largest.bytes / 2**20, 1))
        results |= {f"{name} (ms)": times, f"{name}, largest tensor beside the features (MiB)": memory}
    bench.measured["comparison"] = results


def where(bench: Bench) -> None:
    """Where the time goes: in the backbone, the comparison, the heads, data and scoring."""
    step = stepper(bench, bench.runs("table3", 10_000, "geometric"))
    step()
    with bench.watch.shares(IN_EVALUATION, "other") as scoring, bench.fresh() as benchmark:
        evaluate.evaluate(bench.heads, bench.scene(benchmark), bench.wanted(bench.episodes))
    with bench.watch.shares(IN_TRAINING, "data") as stepping:
        step()
    bench.measured["where the time goes"] = {
        "evaluation of Table 3's four rows (s)": {k: round(v, 3) for k, v in scoring.items()},
        "training step of Table 3's four rows (ms)": {k: round(1000 * v / STEPS, 2) for k, v in stepping.items()},
    }


PARTS: dict[str, tuple[Callable[[Bench], None], ...]] = {
    "cpu": (
        check,
        evaluation,
        thresholds,
        training,
        where,
        kinds,
        threads,
        peer.evaluation,
        peer.training,
        loading,
        shots,
        sides,
        comparison,
    ),
    "cuda": (peer.training, peer.evaluation, kinds),
}


def main() -> None:
    """Measure, print the table, and write the file and its plot."""
    here = io.places()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="quick", choices=presets.PRESETS, help="sizes, of shapes [quick]")
    parser.add_argument("--data", type=Path, default=here.data, help="the data folder [data]")
    parser.add_argument("--results", type=Path, default=here.results, help="the folder of all results [results]")
    parser.add_argument("--device", default=here.device, choices=("cpu", "cuda"), help="[cpu]")
    parser.add_argument("--only", default="", help="some parts, joined by commas: a look, without a picture")
    parser.add_argument(
        "--again", type=Path, help="the .json of a measurement, whose words and picture are made anew"
    )
    options = parser.parse_args()
    if options.again:
        measured = io.read_json(options.again)
    else:
        runner.settle()
        at = Places(options.data, options.results, options.device)
        measured = measure(options.preset, at, only=options.only)
    file = options.again or options.results / "speed" / f"{measured['device']}.json"
    write(file, to_json(measured))
    measured = io.read_json(file)  # in the order in which it is stored
    write(file.with_suffix(".md"), speed_words.in_words(measured).encode())
    if not options.only:
        speed_plot.plot(measured).savefig(file.with_suffix(".png"), dpi=90, metadata={"Software": None})
    print(f"{speed_words.in_words(measured)}\n{file.name}: written, in words and with its plot, to {file.parent}")


if __name__ == "__main__":
    try:
        main()
    except DPNetError as error:
        sys.exit(f"speed: error: {error}")
