"""What is fast: this package against the field's habits, measured side by side in one run, as ratios."""

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dpnet import backbones, episodes, evaluate, io, modules, train
from dpnet import data as benchmarks
from dpnet.backbones import Backbone
from dpnet.companion import experiments, presets
from dpnet.companion.store import Counts, Store
from dpnet.config import Evaluation, Run, Variant
from dpnet.data import cache
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.io import DPNetError, progress, to_json, write
from dpnet.metrics import mean_iou
from dpnet.model import DPNet, Head, shared_counts, soft_masks

Work = Callable[[], Any]
Spread = list[float]  # median, least, most

PRACTICE = 200  # steps that the heads are trained, so that their discriminator has something to say
FEW = 20  # episodes and images that the slow reference is given: its cost per episode does not change
STEPS = 4  # of a training, per measurement
COUNTS = (25, 100, 400)  # episodes of a list
SHOTS = (1, 2, 5)
SIDES = (161, 241, 321)  # pixels of an image
GRIDS = (21, 31, 41, 61, 81)  # cells of a side: 161², 241², 321², 481² and 641² pixels
DIFFER = 1e-3  # share of pixels in which features kept in half precision may turn the answer


class Bench:
    """Heads, data and backbone that all measurements share.

    Arguments:
        preset: sizes, of `shapes`.
        device: "cpu" or "cuda".
        repeats: of each measurement.
    """

    def __init__(self, preset: str, device: str, repeats: int) -> None:
        self.device, self.repeats, self.preset = device, repeats, preset
        self.sizes = presets.resolve("shapes", preset)
        self.training, self.episodes = self.sizes.training, self.sizes.episodes
        self.data: Benchmark = benchmarks.prepare("shapes", io.places().data, self.sizes.recipe)
        self.backbone: Backbone = backbones.build(self.training.backbone).to(device)
        self.reference = _reference()
        self.folder = tempfile.TemporaryDirectory(prefix="dpnet-speed-")
        self.store = Store(Path(self.folder.name) / "runs")
        self.heads: dict[str, Head] = {}

    def runs(self, target: str, steps: int, augment: Literal["flip", "geometric"]) -> list[Run]:
        """What a table trains on fold 0, shortened."""
        t = replace(self.training, steps=steps, augment=augment)
        variants = dict.fromkeys(row.variant for row in experiments.get(target).rows)
        return [Run("shapes", self.sizes.recipe, t, 0, 0, v) for v in variants]

    def scene(self, data: Benchmark | None = None) -> evaluate.Scene:
        """Fold 0, with features that are kept, or with `data` whose features are not."""
        t = self.training
        return evaluate.Scene(data or self.data, self.backbone, t.size, 0, 0)

    def full(self) -> tuple[str, Head]:
        """The full model's name and head."""
        return next((name, head) for name, head in self.heads.items() if head.variant == Variant())

    def rows(self, count: int) -> dict[str, list[Evaluation]]:
        """Table 3's four rows: three heads, and the auxiliary branch of the full one."""
        ways = {name: [Evaluation(count)] for name in self.heads}
        ways[self.full()[0]].append(Evaluation(count, branch="aux"))
        return ways

    def network(self, head: Head) -> DPNet:
        """A head with the backbone, as the reference takes it."""
        network = DPNet(self.backbone, width=self.training.width, dilations=self.training.dilations)
        network.head = head
        return network.to(self.device).eval()

    def listed(self, shot: int = 1) -> list[Episode]:
        """The few episodes that the reference scores."""
        return episodes.test_episodes(self.data, 0, shot, 0, self.episodes)[:FEW]

    @contextmanager
    def anew(self) -> Iterator[Benchmark]:
        """The same files, of which nothing has been computed yet."""
        with tempfile.TemporaryDirectory(dir=self.folder.name) as folder:
            for name in ("images", "labels"):
                (Path(folder) / name).symlink_to((self.data.root / name).resolve())
            yield replace(self.data, root=Path(folder))

    def seconds(self, works: Mapping[str, Work], repeats: int | None = None) -> dict[str, np.ndarray]:
        """Seconds of some works, each in turn, as often as `repeats`; a first turn does not count."""
        taken: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(1 + (repeats or self.repeats)):
            for name, work in works.items():
                self.wait()
                begun = time.perf_counter()
                work()
                self.wait()
                if turn:
                    taken[name].append(time.perf_counter() - begun)
        return {name: np.array(values) for name, values in taken.items()}

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def measure(preset: str = "quick", device: str = "cpu", repeats: int = 3) -> dict[str, Any]:
    """Measure everything.

    Arguments:
        preset: sizes, of `shapes`.
        device: "cpu" or "cuda".
        repeats: of each measurement.

    Returns:
        what `results/speed/<device>.json` holds: ratios, checks, growth, and where the time goes.

    Raises:
        DPNetError: the two sides disagree in their results, or the reference is not there.
    """
    bench = Bench(preset, device, repeats)
    with bench.folder:
        runs = bench.runs("table3", min(PRACTICE, bench.training.steps), "flip")
        bench.heads = train.train(runs, bench.data, bench.store, device, bench.backbone)
        parts = (_checks, _evaluation, _thresholds, _training, _loading, _shots, _sides, _comparison, _where)
        found: dict[str, Any] = {"ratios": [], "growth": {}}
        for part in progress(parts, "measuring", "part"):
            for key, value in part(bench).items():
                if key == "ratios":
                    found["ratios"] += value
                elif key == "growth":
                    found["growth"] |= value
                else:
                    found[key] = value
    about = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "backbone": bench.training.backbone,
        "size": bench.training.size,
        "preset": preset,
        "repeats": repeats,
    }
    return about | found


def run(preset: str, device: str) -> None:
    """Measure, print the table, and write `results/speed/<device>.json` and its plot.

    Arguments:
        preset: sizes, of `shapes`.
        device: "cpu" or "cuda".
    """
    found = measure(preset, device)
    name = io.places().results / "speed" / found["device"]
    write(name.with_suffix(".json"), to_json(found))
    print(table(found).to_string(index=False), "\n\n" + in_words(found), sep="")
    if importlib.util.find_spec("seaborn") is None:
        print(f"{name.name}.json: written; no plot, since seaborn is not installed")
        return
    from dpnet.companion import figures

    figures.speed(found).savefig(name.with_suffix(".png"), dpi=90, metadata={"Software": None})
    print(f"{name.name}.json: written, with its plot, to {name.parent}")


def table(found: dict[str, Any]) -> pd.DataFrame:
    """The ratios for people: columns what, ours, against, ratio (median of turns, least to most), budget, met."""
    lines = []
    for line in found["ratios"]:
        middle, least, most = line["ratio"]
        budget, more = line["budget"], line["more is better"]
        met = "" if budget is None else "yes" if (middle >= budget if more else middle <= budget) else "no"
        lines.append(
            {
                "what": line["what"],
                "ours": f"{_number(line['ours'][0])} {line['unit']}",
                "against": f"{_number(line['against'][0])} {line['unit']} ({line['reference']})",
                "ratio": f"{middle:.3g} [{least:.3g}, {most:.3g}]",
                "budget": "—" if budget is None else f"{'≥' if more else '≤'} {budget:g}",
                "met": met or "—",
            }
        )
    return pd.DataFrame(lines)


def in_words(found: dict[str, Any]) -> str:
    """What the ratios rest on: that both sides answer the same, and what half precision costs."""
    checks = found["checks"]
    return (
        f"The reference's answers are ours: {checks['pixels that differ (%)']:.3g} % of pixels differ (features are "
        f"kept in fp16), {checks['pixels that differ, three scales (%)']:.3g} % with three scales. "
        f"{checks['precision']} against fp32: at most {checks['mIoU that differs (points)']:.2g} points of mIoU in "
        f"any of {checks['rows']} rows over {checks['episodes']} episodes."
    )


def device_name(device: str) -> str:
    """What a device's files are called: the GPU's name, or the number of cores."""
    if device == "cuda":
        return "-".join("".join(c if c.isalnum() else " " for c in torch.cuda.get_device_name().lower()).split())
    return f"cpu-{os.cpu_count()}-cores"


def _checks(bench: Bench) -> dict[str, Any]:
    """Both sides give the same answers, or no timing is worth anything; and what half precision changes."""
    exact = replace(bench.training, precision="fp32")
    ways = bench.rows(bench.episodes)
    name, _ = bench.full()
    three = Evaluation(bench.episodes, scales=experiments.SCALES)
    ways[name].append(three)
    scene = bench.scene()
    in_fp32, lists = evaluate.evaluate(bench.heads, scene, exact, ways)
    in_half, _ = evaluate.evaluate(bench.heads, scene, bench.training, ways)

    def differ(asked: str, way: Evaluation) -> float:
        plain = _one_by_one(bench, bench.heads[asked], way)
        return float(np.abs(plain - in_fp32[asked][way.id][:FEW]).sum() / 2 / plain.sum())

    once = max(differ(n, w) for n, ws in ways.items() for w in ws if w != three)
    thrice = differ(name, three)
    if max(once, thrice) > DIFFER:
        raise DPNetError(
            f"reference and shared pass differ in {max(once, thrice):.2%} of the pixels: no timing is worth that"
        )

    def miou(counts: dict[str, Counts], asked: str, way: Evaluation) -> float:
        return mean_iou(counts[asked][way.id], np.array([e.class_id for e in lists[way.id]]), "canet")

    points = [abs(miou(in_half, n, w) - miou(in_fp32, n, w)) for n, ws in ways.items() for w in ws]
    return {
        "checks": {
            "rows": len(points),
            "episodes": bench.episodes,
            "steps trained": min(PRACTICE, bench.training.steps),
            "precision": bench.training.precision,
            "pixels that differ (%)": round(100 * once, 4),
            "pixels that differ, three scales (%)": round(100 * thrice, 4),
            "mIoU that differs (points)": round(max(points), 4),
        }
    }


def _evaluation(bench: Bench) -> dict[str, Any]:
    """Table 3's four rows: one pass over all episodes, against one episode and one variant at a time."""
    t, count = bench.training, bench.episodes

    def ours(episodes_scored: int) -> None:
        with bench.anew() as data:
            evaluate.evaluate(bench.heads, bench.scene(data), t, bench.rows(episodes_scored))

    def theirs() -> None:
        for name, ways in bench.rows(count).items():
            for way in ways:
                _one_by_one(bench, bench.heads[name], way)

    kept = bench.scene()
    taken = bench.seconds(
        {
            "ours": lambda: ours(count),
            "kept": lambda: evaluate.evaluate(bench.heads, kept, t, bench.rows(count)),
            "theirs": theirs,
        }
    )
    counts = [c for c in COUNTS if c < count]
    growth = {c: bench.seconds({"ours": partial(ours, c)}, 1)["ours"] for c in counts} | {count: taken["ours"]}
    what = f"evaluation of Table 3's four rows, {count} episodes"
    line = partial(_ratio, against=FEW / taken["theirs"], unit="episodes/s", reference="one at a time", more=True)
    return {
        "ratios": [
            line(f"{what}, from files", count / taken["ours"], budget=4.0),
            line(f"{what}, features and labels kept", count / taken["kept"]),
        ],
        "growth": {
            "episodes": {
                "x": list(growth),
                "ours (s)": [_spread(v) for v in growth.values()],
                "reference (s)": [_spread(c * taken["theirs"] / FEW) for c in growth],
            }
        },
    }


def _thresholds(bench: Bench) -> dict[str, Any]:
    """Nine thresholds from one match, against one."""
    name, head = bench.full()
    scene, count = bench.scene(), bench.episodes

    def score(betas: tuple[float, ...]) -> Work:
        ways = {name: [Evaluation(count, beta=beta) for beta in betas]}
        return lambda: evaluate.evaluate({name: head}, scene, bench.training, ways)

    taken = bench.seconds({"one": score((0.2,)), "nine": score(experiments.BETAS)})
    what = f"nine thresholds β over {count} episodes"
    return {"ratios": [_ratio(what, taken["nine"], taken["one"], unit="s", reference="one", budget=2.2)]}


def _training(bench: Bench) -> dict[str, Any]:
    """A step of one head, of Table 3's four rows (three heads) and of Table 5's sixteen, in lockstep."""
    found: dict[str, Any] = {"ratios": [], "growth": {}}
    ways: dict[Literal["geometric", "flip"], str] = {"geometric": "encoded at each step", "flip": "features kept"}
    for augment, how in ways.items():
        three, sixteen = bench.runs("table3", 10_000, augment), bench.runs("table5", 10_000, augment)
        alone = [run for run in three if run.variant == Variant()]
        cohorts = {"1": alone, "three": three, "4": sixteen[:4], "16": sixteen}
        taken = bench.seconds({name: _stepper(bench, runs) for name, runs in cohorts.items()})
        taken = {name: 1000 * values / STEPS for name, values in taken.items()}
        for name, what, budget in (("three", "Table 3's four rows", 2.0), ("16", "Table 5's sixteen", 9.0)):
            found["ratios"].append(
                _ratio(
                    f"training step of {what}, {how}",
                    taken[name],
                    taken["1"],
                    unit="ms",
                    reference="one alone",
                    budget=budget if augment == "geometric" else None,
                )
            )
        found["growth"][f"variants, {how}"] = {
            "x": [1, 4, 16],
            "ours (ms)": [_spread(taken[n]) for n in ("1", "4", "16")],
            "reference (ms)": [_spread(n * taken["1"]) for n in (1, 4, 16)],
        }
    return found


def _stepper(bench: Bench, runs: list[Run]) -> Work:
    """Some steps of a cohort at a time."""
    members = [train.begin(run, bench.backbone.channels, bench.store, bench.device) for run in runs]
    pools = episodes.training_pools(bench.data, 0, runs[0].training.novel, runs[0].training.least)
    batches = train.stream(bench.data, bench.backbone, runs[0], pools, bench.device, 0)

    def work() -> None:
        for _ in range(STEPS):
            step, batch = next(batches)
            train.advance(members, bench.backbone, batch, step)

    return work


def _loading(bench: Bench) -> dict[str, Any]:
    """Images and labels from the memory-mapped store, against decoding and resizing files."""
    size = bench.training.size
    images, labels, row_of = cache.pixels(bench.data, "train", size)
    chosen = [list(row_of)[i % len(row_of)] for i in range(0, 37 * FEW, 37)]
    rows = [row_of[i] for i in chosen]
    taken = bench.seconds(
        {
            "ours": lambda: (torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])),
            "theirs": lambda: [bench.reference.decoded(bench.data, i, 1, size) for i in chosen],
        },
        10,
    )
    rates = FEW / taken["ours"], FEW / taken["theirs"]
    what = f"loading images with labels at {size}²"
    return {"ratios": [_ratio(what, *rates, unit="images/s", reference="decoded and resized", budget=5.0, more=True)]}


def _shots(bench: Bench) -> dict[str, Any]:
    """Evaluation of the full model by number of supports; each side from files."""
    name, head = bench.full()
    ours, theirs = [], []
    for shot in SHOTS:
        way = Evaluation(bench.episodes, shot=shot)

        def work(way: Evaluation = way) -> None:
            with bench.anew() as data:
                evaluate.evaluate({name: head}, bench.scene(data), bench.training, {name: [way]})

        taken = bench.seconds({"ours": work, "theirs": partial(_one_by_one, bench, head, way, FEW // 4)}, 1)
        ours.append(_spread(1000 * taken["ours"] / bench.episodes))
        theirs.append(_spread(1000 * taken["theirs"] / (FEW // 4)))
    return {"growth": {"shots": {"x": list(SHOTS), "ours (ms)": ours, "reference (ms)": theirs}}}


def _sides(bench: Bench) -> dict[str, Any]:
    """One training step of the full model by size of the image, in its three parts."""
    t = bench.training
    (run,) = (run for run in bench.runs("table3", 10_000, "flip") if run.variant == Variant())
    member = train.begin(run, bench.backbone.channels, bench.store, bench.device)
    generator = torch.Generator().manual_seed(0)
    parts: dict[str, list[Spread]] = {"backbone (ms)": [], "comparison (ms)": [], "head (ms)": []}
    for side in SIDES:
        images = torch.randint(0, 256, (2 * t.batch, 3, side, side), generator=generator, dtype=torch.uint8)
        target = torch.randint(0, 2, (t.batch, side // 8, side // 8), generator=generator)
        target = torch.nn.functional.interpolate(target[:, None].float(), (side, side))[:, 0].long().to(bench.device)
        images = images.to(bench.device)
        raw = _encoded(bench, images)
        masks = soft_masks(target[:, None], raw.shape[-2:])
        batch = train.Batch(raw[t.batch :, None], raw[: t.batch], masks, target)

        taken = bench.seconds(
            {
                "backbone (ms)": partial(_encoded, bench, images),
                "comparison (ms)": partial(
                    shared_counts, bench.backbone, raw[t.batch :, None], raw[: t.batch], masks, "cycle"
                ),
                "head (ms)": partial(train.advance, [member], bench.backbone, batch, 0),
            }
        )
        taken["head (ms)"] = taken["head (ms)"] - taken["comparison (ms)"]  # a step compares, too
        for name, values in taken.items():
            parts[name].append(_spread(1000 * values))
    return {"growth": {"image size": {"x": list(SIDES), **parts}}}


def _encoded(bench: Bench, images: torch.Tensor) -> torch.Tensor:
    """Backbone features as a training step makes them."""
    with torch.no_grad(), train.autocast(bench.training, bench.device):
        return bench.backbone(images).float()


def _comparison(bench: Bench) -> dict[str, Any]:
    """Time and memory of the cycle comparison against the grid, whole and in blocks."""
    found: dict[str, Any] = {"channels": 1024, "block": modules.BLOCK, "x": list(GRIDS)}
    generator = torch.Generator().manual_seed(0)
    for name in ("whole", "blocks"):
        found[f"{name} (ms)"], found[f"{name}, largest tensor beside the features (MiB)"] = [], []
        for side in GRIDS:
            block = modules.BLOCK if name == "blocks" else side**2
            F_s, F_q = (torch.randn(1, 1024, side**2, generator=generator).to(bench.device) for _ in range(2))

            work = partial(modules.cycle_matches, F_s, F_q, block)
            found[f"{name} (ms)"].append(_spread(1000 * bench.seconds({"": work}, 2)[""]))
            with _Largest(F_s.shape) as largest:
                work()
            found[f"{name}, largest tensor beside the features (MiB)"].append(round(largest.bytes / 2**20, 1))
    return {"comparison": found}


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that comes into being, but for those of a known shape."""

    def __init__(self, known: torch.Size) -> None:
        super().__init__()
        self.known, self.bytes = known, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.numel() != self.known.numel():
                self.bytes = max(self.bytes, leaf.numel() * leaf.element_size())
        return result


def _where(bench: Bench) -> dict[str, Any]:
    """Where the time goes: seconds in the backbone, the comparison, the heads, data and scoring."""
    whole = bench.runs("table3", 10_000, "geometric")
    step = _stepper(bench, whole)
    step()
    shared = {"backbone": [(type(bench.backbone), "forward")]}
    with _clock(bench, shared | {
        "data": [(cache, "resized_images"), (cache, "resized_labels"), (evaluate.Scene, "load_labels"),
                 (cache.FeatureBank, "__call__")],
        "comparison": [(evaluate, "shared_counts")],
        "heads": [(Head, "prototypes"), (Head, "match"), (evaluate, "decode_distinct")],
        "scoring": [(evaluate, "score")],
    }) as scoring, bench.anew() as data:  # fmt: skip
        evaluate.evaluate(bench.heads, bench.scene(data), bench.training, bench.rows(bench.episodes))
    with _clock(
        bench, shared | {"comparison": [(train, "shared_counts")], "heads": [(train, "_update")]}, rest="data"
    ) as training:
        step()
    return {
        "where the time goes": {
            "evaluation of Table 3's four rows (s)": {k: round(v, 3) for k, v in scoring.items()},
            "training step of Table 3's four rows (ms)": {k: round(1000 * v / STEPS, 2) for k, v in training.items()},
        }
    }


@contextmanager
def _clock(
    bench: Bench, places: Mapping[str, list[tuple[Any, str]]], rest: str = "other"
) -> Iterator[dict[str, float]]:
    """Seconds inside some functions, each second counted once, for the innermost; and the rest."""
    spent = dict.fromkeys([*places, rest], 0.0)
    stack, last = [rest], time.perf_counter()

    def switch() -> None:
        nonlocal last
        bench.wait()
        now = time.perf_counter()
        spent[stack[-1]] += now - last
        last = now

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            switch()
            stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                switch()
                stack.pop()

        return call

    with ExitStack() as patches:
        for part, functions in places.items():
            for owner, name in functions:
                patches.enter_context(patch.object(owner, name, timed(getattr(owner, name), part)))
        yield spent
        switch()


def _one_by_one(bench: Bench, head: Head, way: Evaluation, few: int = FEW) -> np.ndarray:
    """The reference's counts of a few episodes, int64 [E, 2, 3]."""
    listed, size = bench.listed(way.shot)[:few], bench.training.size
    network = bench.network(head)
    score: Callable[..., np.ndarray] = bench.reference.score_one_by_one
    return score(network, bench.data, listed, size, [way.beta], way.branch, way.scales)[0]


def _ratio(
    what: str,
    ours: np.ndarray,
    against: np.ndarray,
    *,
    unit: str,
    reference: str,
    budget: float | None = None,
    more: bool = False,
) -> dict[str, Any]:
    """A line of the table: what was measured in the same turn is divided, then the median is taken."""
    return {
        "what": what,
        "unit": unit,
        "ours": _spread(ours),
        "reference": reference,
        "against": _spread(against),
        "ratio": _spread(ours / against),
        "budget": budget,
        "more is better": more,
    }


def _spread(values: np.ndarray) -> Spread:
    return [float(f"{v:.4g}") for v in (np.median(values), values.min(), values.max())]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _reference() -> ModuleType:
    """The plain loops of `tests/reference.py`."""
    file = io.ROOT / "tests" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", file)
    if not file.exists() or spec is None or spec.loader is None:
        raise DPNetError(f"{file}: missing: `speed` needs the project's checkout")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
