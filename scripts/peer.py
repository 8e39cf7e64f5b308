"""ResNet-50 at 321² beside a loop that does what the field's scripts do, and beside the goals for a GPU."""

from dataclasses import replace
from functools import partial

import loops
import numpy as np
import torch
from bench import Bench, stepper
from instruments import peak, ratio, spread

from dpnet import backbones, episodes, evaluate, train
from dpnet.companion import presets
from dpnet.config import Evaluation, Variant
from dpnet.data.index import Benchmark
from dpnet.model import DPNet

PER_IMAGE = 2.5  # episodes of a list per image: 1,000 over the 400 or so of a PASCAL fold


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


def evaluation(bench: Bench) -> None:
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


def training(bench: Bench) -> None:
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


def goal(values: np.ndarray, most: float) -> tuple[str, np.ndarray, float]:
    """What a line is compared with where only a number is aimed at."""
    return "the goal", np.full_like(values, most), 1.0
