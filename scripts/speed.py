"""Measure this package against plain loops, side by side in one run: results/speed/<machine>.json and .png."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import loops
import numpy as np
import speed_plot
import speed_words
import torch
from instruments import Largest, Stopwatch, arithmetic, by_kind, peak, ratio, spread

from dpnet import backbones, data, episodes, evaluate, io, modules, train
from dpnet.companion import experiments, presets, runner
from dpnet.config import Evaluation, Run, Variant
from dpnet.data import cache
from dpnet.data.index import Benchmark, Entry
from dpnet.io import DPNetError, Places, progress, to_json, write
from dpnet.metrics import mean_iou
from dpnet.model import DPNet, Head, shared_counts, soft_masks

PRACTICE = 200  # steps that the heads are trained, so that their discriminator has something to say
FEW = 12  # episodes and images that the loops are given: their cost per episode does not change
STEPS = 4  # of a training, per measurement
PER_IMAGE = 2.5  # episodes of a list per image: 1,000 over the 400 or so of a PASCAL fold
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


class Bench:
    """Heads, data and backbone that all measurements share, and what was measured."""

    def __init__(self, preset: str, at: Places, scratch: Path, repeats: int) -> None:
        self.setting = presets.resolve("shapes", preset)
        self.training, self.episodes = self.setting.training, self.setting.episodes
        self.device, self.scratch, self.watch = at.device, scratch, Stopwatch(at.device, repeats)
        self.data = data.prepare("shapes", at.data, self.setting.recipe)
        self.backbone = backbones.build(self.training.backbone).to(at.device)
        self.ratios: list[dict[str, Any]] = []
        self.growth: dict[str, Any] = {}
        self.memory: dict[str, float] = {}  # MiB
        self.measured: dict[str, Any] = {"ratios": self.ratios, "growth": self.growth, "memory": self.memory}

    @cached_property
    def heads(self) -> dict[Run, Head]:
        """Table 3's three, trained for a moment."""
        runs = self.runs("table3", min(PRACTICE, self.training.steps), "flip")
        return train.train({run: self.scratch / run.id for run in runs}, self.data, self.backbone, self.device)

    @property
    def full(self) -> Run:
        """The full model's."""
        return next(run for run in self.heads if run.variant == Variant())

    def runs(self, target: str, steps: int, augment: Literal["flip", "geometric"]) -> list[Run]:
        """What a table trains on fold 0, with another number of steps."""
        training = replace(self.training, steps=steps, augment=augment)
        variants = dict.fromkeys(row.variant for row in experiments.get(target).rows)
        return [Run("shapes", self.setting.recipe, training, 0, 0, variant) for variant in variants]

    def scene(self, benchmark: Benchmark | None = None) -> evaluate.Scene:
        """Fold 0 of a benchmark; by default of the one whose features are stored."""
        return evaluate.Scene(benchmark or self.data, self.backbone, self.training.size, 0, 0)

    def wanted(self, count: int) -> dict[Run, list[Evaluation]]:
        """Table 3's four rows: three heads, and the auxiliary branch of the full one."""
        wanted = {run: [Evaluation(count)] for run in self.heads}
        wanted[self.full].append(Evaluation(count, branch="aux"))
        return wanted

    @contextmanager
    def fresh(self, entries: tuple[Entry, ...] | None = None) -> Iterator[Benchmark]:
        """The same files, or some, of which nothing has been computed yet."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            for name in ("images", "labels"):
                (Path(folder) / name).symlink_to((self.data.root / name).resolve())
            yield replace(self.data, root=Path(folder), entries=entries or self.data.entries)

    def by_loops(self, run: Run, evaluation: Evaluation, few: int = FEW) -> np.ndarray:
        """The plain loops' counts of a few episodes, int64 [E, 2, 3]."""
        network = DPNet(self.backbone, width=self.training.width, dilations=self.training.dilations)
        network.head = self.heads[run]
        network.to(self.device).eval()
        listed = episodes.test_episodes(self.data, 0, evaluation.shot, 0, self.episodes)[:few]
        ways = [evaluation.beta], evaluation.branch, evaluation.scales
        return loops.score_one_by_one(network, self.data, listed, self.training.size, *ways)[0]


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


def plain_stepper(bench: Bench, runs: list[Run]) -> Callable[[], None]:
    """The same steps as the equations tell them, one head after the other, in the same precision."""
    how, members = (
        runs[0].training,
        [train.begin(r, bench.backbone.channels, bench.scratch / "nothing", bench.device) for r in runs],
    )
    batches = drawn(bench, runs[0], bench.backbone)

    def work() -> None:
        for _ in range(STEPS):
            _, batch = next(batches)
            for member in members:
                with train.autocast(how, bench.device):
                    raw_s, rest = batch.raw_s[:, 0], (batch.raw_q, batch.masks, batch.target)
                    loops.descend(bench.backbone, member.head, member.optimizer, raw_s, *rest)

    return work


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


class Peer:
    """ResNet-50 at 321², as the paper trains it: Table 3's rows, of which `one` is the full model."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.how = bench, presets.resolve("shapes", "paper").training
        if bench.setting.preset == "tiny":  # a rehearsal
            self.how = replace(self.how, size=bench.training.size, width=bench.training.width)
        self.backbone = backbones.build("resnet50", None).to(bench.device)
        runs = [replace(run, training=self.how) for run in bench.runs("table3", 1, "flip")]
        self.one = next(run for run in runs if run.variant == Variant())
        channels = self.backbone.channels
        self.heads = {run: train.build_head(run, channels).to(bench.device).eval() for run in runs}

    def images(self, each: int) -> Benchmark:
        """So many images of each tested class, with some episodes per image as the field's lists have them."""
        data = self.bench.data
        some = sorted({i for c in data.tested[0] for i in data.images_of(c, "val")[:each]})
        return replace(data, entries=tuple(data.entries[i] for i in some))

    def network(self) -> DPNet:
        """The full model, for a loop."""
        how = self.how
        network = DPNet(self.backbone, width=how.width, dilations=how.dilations, dropout=0.0).to(self.bench.device)
        network.head = self.heads[self.one]
        return network.eval()


def peer_evaluation(bench: Bench) -> None:
    """An episode with ResNet-50 at 321², against a loop that does what the field's scripts do."""
    peer, on_gpu = Peer(bench), bench.device == "cuda"
    size, small = peer.how.size, peer.images(30 if on_gpu else 2)
    count = round(PER_IMAGE * len(small.entries))
    listed = episodes.test_episodes(small, 0, 1, 0, count)[:2]
    one = {peer.one: [Evaluation(count)]}
    rows = {run: [Evaluation(count)] for run in peer.heads} | {
        peer.one: [Evaluation(count), Evaluation(count, branch="aux")]
    }

    def scene(benchmark: Benchmark) -> evaluate.Scene:
        return evaluate.Scene(benchmark, peer.backbone, size, 0, 0)

    def from_files() -> None:
        with bench.fresh(small.entries) as benchmark:
            evaluate.evaluate(peer.heads, scene(benchmark), one)

    loop = partial(loops.score_one_by_one, peer.network(), small, listed, size, [0.2], "main")
    taken = bench.watch.seconds({"ours": from_files, "loop": loop}, 2)
    rates = count / taken["ours"], "the field's loop", len(listed) / taken["loop"]
    what = f"with ResNet-50 at {size}², {count} episodes of {len(small.entries)} images"
    bench.ratios.append(ratio(f"evaluation {what}, from files", "episodes/s", *rates, 5.0))
    if not on_gpu:
        return
    with bench.fresh(small.entries) as benchmark:
        same = scene(benchmark)
        works = {
            name: partial(evaluate.evaluate, peer.heads, same, wanted)
            for name, wanted in (("one", one), ("rows", rows))
        }
        taken = bench.watch.seconds(works)
    each = 1000 * taken["one"] / count
    bench.ratios.append(ratio(f"an episode {what}, features kept", "ms", each, *goal(each, 0.5)))
    bench.ratios.append(ratio(f"Table 3's four rows {what}", "s", taken["rows"], "one row", taken["one"], 2.0))


def goal(values: np.ndarray, most: float) -> tuple[str, np.ndarray, float]:
    """What a line is compared with where only a number is aimed at."""
    return "the goal", np.full_like(values, most), 1.0


def peer_training(bench: Bench) -> None:
    """A training step with ResNet-50 at 321², against a loop that does what the field's scripts do."""
    peer, on_gpu = Peer(bench), bench.device == "cuda"
    how, network = peer.how, peer.network()
    optimizer = torch.optim.SGD(network.head.parameters(), how.learning_rate, 0.9, weight_decay=how.weight_decay)
    images = torch.randint(0, 256, (2 * how.batch, 3, how.size, how.size), dtype=torch.uint8, device=bench.device)
    target = (torch.rand(2 * how.batch, 1, 21, 21, device=bench.device) < 0.3).float()
    target = torch.nn.functional.interpolate(target, (how.size, how.size))[:, 0].long()
    supports, queries, masks, target = *images.chunk(2), *target.chunk(2)
    loop = partial(loops.train_step, network, optimizer, supports, masks, queries, target)
    count = 50 if on_gpu else 1  # steps per measurement
    few = min(count, 5)
    works = {
        "ours": stepper(bench, [peer.one], peer.backbone, count),
        "loop": lambda: [loop() for _ in range(few)],
    }
    if on_gpu:
        works["three"] = stepper(bench, [*peer.heads], peer.backbone, count)
        works["eager"] = stepper(bench, [peer.one], peer.backbone, count, graph=False)
    taken = bench.watch.seconds(works, 5 if on_gpu else 2)
    taken = {name: 1000 * values / (few if name == "loop" else count) for name, values in taken.items()}
    what = f"training step with ResNet-50 at {how.size}², batch {how.batch}, encoded at each step"
    rates = 1000 / taken["ours"], "the field's loop, fp32", 1000 / taken["loop"]
    bench.ratios.append(ratio(what, "steps/s", *rates, 4.0))
    if on_gpu:
        print({name: spread(values) for name, values in taken.items()}, "ms a step", flush=True)
        bench.ratios.append(ratio(what, "ms", taken["ours"], *goal(taken["ours"], 5.0)))
        bench.ratios.append(
            ratio(f"{what}, as a graph", "ms", taken["ours"], "operation by operation", taken["eager"])
        )
        three = f"{what}, of Table 3's three heads"
        bench.ratios.append(ratio(three, "ms", taken["three"], "one", taken["ours"], 2.0))
    bench.memory[what] = peak(works["ours"], bench.device)


def kinds(bench: Bench) -> None:
    """A training step by kind of operation, beside its arithmetic: with ResNet-50 on a GPU, else Table 3's heads."""
    if bench.device == "cuda":
        peer, count = Peer(bench), 20
        what, runs, backbone = f"training step with ResNet-50 at {peer.how.size}²", [peer.one], peer.backbone
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


def stepper(
    bench: Bench, runs: list[Run], backbone: backbones.Backbone | None = None, count: int = STEPS, graph: bool = True
) -> Callable[[], None]:
    """Some steps of a cohort at a time."""
    backbone = backbone or bench.backbone
    nothing = bench.scratch / "nothing"  # no state from which to go on
    members = [train.begin(r, backbone.channels, nothing, bench.device) for r in runs]
    batches = drawn(bench, runs[0], backbone)
    step_of = train.graphed(members, backbone) if graph else partial(train.descend, members, backbone)

    def work() -> None:
        for _ in range(count):
            step, batch = next(batches)
            train.advance(members, batch, step, step_of)

    return work


def drawn(bench: Bench, run: Run, backbone: backbones.Backbone) -> Iterator[tuple[int, train.Batch]]:
    """The batches of a run."""
    how = run.training
    pools = episodes.training_pools(bench.data, 0, how.novel, how.least)
    positions = sorted({i for pool in pools.values() for i in pool})
    source = train.SOURCES[how.augment](bench.data, backbone, how, positions)
    return train.batches(source, bench.data, pools, run, 0)


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
        peer_evaluation,
        peer_training,
        loading,
        shots,
        sides,
        comparison,
    ),
    "cuda": (peer_training, peer_evaluation, kinds),
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
    write(file.with_suffix(".md"), speed_words.in_words(measured).encode())
    if not options.only:
        speed_plot.plot(measured).savefig(file.with_suffix(".png"), dpi=90, metadata={"Software": None})
    print(f"{speed_words.in_words(measured)}\n{file.name}: written, in words and with its plot, to {file.parent}")


if __name__ == "__main__":
    try:
        main()
    except DPNetError as error:
        sys.exit(f"speed: error: {error}")
