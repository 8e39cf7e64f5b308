"""What `make speed` says: the table, the clock, and the committed measurement. The end-to-end test runs it."""

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dpnet.companion import figures, speed

COMMITTED = sorted((Path(__file__).parents[1] / "results" / "speed").glob("*.json"))


def line(ours: list[float], against: list[float], budget: float | None, more: bool) -> dict[str, object]:
    return speed._ratio(
        "a thing", np.array(ours), np.array(against), unit="s", reference="one", budget=budget, more=more
    )


@pytest.mark.parametrize(
    ("budget", "more", "met"),
    [(2.0, True, "yes"), (2.1, True, "no"), (2.0, False, "yes"), (1.9, False, "no"), (None, True, "—")],
)
def test_a_ratio_is_of_the_same_turn_and_held_against_its_budget(budget: float | None, more: bool, met: str) -> None:
    # Ratios of the turns are 2, 1 and 3; that of the medians would be 4 / 3.
    found = line([2.0, 4.0, 9.0], [1.0, 4.0, 3.0], budget, more)
    assert found["ratio"] == [2.0, 1.0, 3.0]
    (row,) = speed.table({"ratios": [found]}).to_dict("records")
    assert row["met"] == met
    assert row["ratio"] == "2 [1, 3]"
    assert row["ours"] == "4 s"
    assert row["against"] == "3 s (one)"


def test_the_clock_counts_each_second_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))  # a second between any two looks
    room = SimpleNamespace(inner=lambda: None)
    room.outer = lambda: room.inner()
    bench = SimpleNamespace(wait=lambda: None)
    with speed._clock(bench, {"inside": [(room, "inner")], "around": [(room, "outer")]}) as spent:  # type: ignore[arg-type]
        room.outer()
    # rest | outer begins | inner begins | inner ends | outer ends | rest
    assert spent == {"inside": 1.0, "around": 2.0, "other": 2.0}
    room.outer()
    assert next(ticks) == 6  # begun once, switched five times; outside nothing is timed any more


@pytest.mark.parametrize("file", COMMITTED, ids=lambda f: f.stem)
def test_a_committed_measurement_is_whole_and_can_be_drawn(file: Path) -> None:
    found = json.loads(file.read_text())
    assert found["device"] == file.stem
    assert found["preset"] == "quick"
    assert file.with_suffix(".png").exists()
    assert len([r for r in found["ratios"] if r["budget"] is not None]) == 5
    assert found["checks"]["pixels that differ (%)"] <= 100 * speed.DIFFER
    assert found["checks"]["mIoU that differs (points)"] <= 0.1
    assert len(speed.table(found)) == len(found["ratios"])
    drawn = figures.speed(found)
    assert all(axis.get_xlabel() and axis.get_title() for axis in drawn.axes)


def test_something_was_measured() -> None:
    assert COMMITTED
