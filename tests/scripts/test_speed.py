"""What `make speed` measures: ratios, the stopwatch, the guard, and the committed measurement."""

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import bench
import instruments
import loops
import matplotlib.pyplot as plt
import numpy as np
import pytest
import speed
import speed_plot
import speed_words
import torch

from dpnet.companion import presets
from dpnet.io import ROOT, DPNetError, Places

COMMITTED = sorted((ROOT / "results" / "speed").glob("*.json"))


@pytest.mark.parametrize(
    ("budget", "unit", "met"),
    [(2.0, "images/s", "yes"), (2.1, "images/s", "no"), (2.0, "s", "yes"), (1.9, "s", "no"), (None, "s", "—")],
)
def test_a_ratio_is_of_the_same_turn_and_compared_with_its_budget(budget: float | None, unit: str, met: str) -> None:
    # Ratios of the turns are 2, 1 and 3; that of the medians would be 4 / 3.
    ours, against = np.array([2.0, 4.0, 9.0]), np.array([1.0, 4.0, 3.0])
    line = instruments.ratio("a step", unit, ours, "one", against, budget)
    assert line["ratio"] == [2.0, 1.0, 3.0]
    (row,) = speed_words.ratios({"ratios": [line]}).to_dict("records")
    assert (row["met"], row["ratio [least, most]"]) == (met, "2 [1, 3]")
    assert (row["ours"], row["against"]) == (f"4 {unit}", f"3 {unit} (one)")


def test_the_stopwatch_counts_each_second_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))  # a second between any two looks
    calls = SimpleNamespace(inner=lambda: None)
    calls.outer = lambda: calls.inner()
    watch = instruments.Stopwatch("cpu", 2)
    with watch.shares({"inside": [(calls, "inner")], "around": [(calls, "outer")]}, "other") as spent:
        calls.outer()
    # rest | outer begins | inner begins | inner ends | outer ends | rest
    assert spent == {"inside": 1.0, "around": 2.0, "other": 2.0}
    calls.outer()
    assert next(ticks) == 6  # begun once, switched five times; outside nothing is timed any more
    done: list[str] = []
    taken = watch.seconds({name: lambda name=name: done.append(name) for name in ("a", "b")})
    assert done == ["a", "b"] * 3  # in turn, and a first turn that does not count
    assert {name: values.tolist() for name, values in taken.items()} == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_the_largest_tensor_is_seen() -> None:
    features = torch.ones(30, 7)  # larger than what is made of them, but known
    with instruments.Largest(features.shape) as largest:
        (features.T @ features).argmax(1)
    assert largest.bytes == 7 * 7 * 4


def test_what_answers_otherwise_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(bench, "PRACTICE", 1)
    at = Places(tmp_path_factory.mktemp("data"), tmp_path, "cpu")
    at_tiny = bench.Bench("tiny", at, tmp_path, 1)
    speed.check(at_tiny)
    checks = at_tiny.measured["checks"]
    assert checks["rows"] == 5
    assert checks["episodes"] == presets.resolve("shapes", "tiny").episodes
    honest = loops.score_one_by_one
    monkeypatch.setattr(loops, "score_one_by_one", lambda *asked: honest(*asked)[:, :, ::-1])
    with pytest.raises(DPNetError, match="no timing is worth that"):
        speed.check(at_tiny)


def test_growth_is_a_power_of_what_cost_depends_on() -> None:
    curves = {
        "episodes": {
            "x": [25, 100, 400],
            "ours (s)": [[1, 1, 1], [2, 2, 2], [4, 4, 4]],
            "reference (s)": [[9] * 3] * 3,
        },
        "image size": {
            "x": [161, 322],
            "comparison (ms)": [[1, 1, 1], [16, 16, 16]],
            "head (ms)": [[1] * 3, [4] * 3],
        },
    }
    lines = speed_words.growth(curves).set_index("cost against")
    assert lines.power.to_dict() == {
        "episodes": "0.50", "image size, comparison": "2.00", "image size, head": "1.00"
    }  # fmt: skip
    assert lines["linear or better"].str[:3].tolist() == ["yes", "no:", "yes"]
    assert lines.loc["episodes", ["from", "to"]].tolist() == ["25: 1 s", "400: 4 s"]


def test_operations_products_and_memory_are_counted() -> None:
    image, weight = torch.randn(1, 8, 64, 64), torch.randn(8, 8, 3, 3)
    spent = instruments.by_kind(lambda: torch.conv2d(image, weight).flatten(1) @ torch.ones(8 * 62 * 62, 4), "cpu")
    assert {"3×3 convolutions", "matrix products"} <= spent.keys() <= instruments.KINDS.keys()
    counted = instruments.arithmetic(lambda: torch.conv2d(image, weight), "cpu")
    assert counted["GFLOP"] == pytest.approx(2e-9 * 62 * 62 * 8 * 8 * 9)
    assert counted["GFLOP/s"] > 1
    small, large = (instruments.peak(lambda n=n: torch.ones(n * 2**18).sum(), "cpu") for n in (1, 300))
    assert 250 < large - small < 350  # MiB


@pytest.mark.parametrize("file", COMMITTED, ids=lambda f: f.stem)
def test_a_committed_measurement_is_whole_and_can_be_drawn(file: Path) -> None:
    measured = json.loads(file.read_text())
    assert (measured["device"], measured["preset"]) == (file.stem, "quick")
    assert file.with_suffix(".png").exists()
    on_gpu = "checks" not in measured
    assert len([line for line in measured["ratios"] if line["budget"] is not None]) == (6 if on_gpu else 10)
    assert on_gpu or measured["checks"]["pixels that differ (%)"] <= 100 * speed.DIFFER
    assert on_gpu or measured["checks"]["mIoU that differs (points)"] <= 0.1
    assert all(len(line["ratio"]) == 3 for line in measured["ratios"])
    assert file.with_suffix(".md").read_text() == speed_words.in_words(measured)
    picture = speed_plot.plot(measured)
    assert all(axis.get_xlabel() and axis.get_title() for axis in picture.axes)
    plt.close(picture)


def test_something_was_measured() -> None:
    assert COMMITTED
