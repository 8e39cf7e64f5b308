"""The explorer's numbers: what is kept is the network's own, what is said follows from it, clicks find their cell."""

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from dpnet import backbones, evaluate, io
from dpnet import data as benchmarks
from dpnet.companion import controls, cycles, explorer, presets, views
from dpnet.companion.experiments import BETAS
from dpnet.companion.explorer import Kept
from dpnet.companion.runner import RENDERED
from dpnet.config import Evaluation, Recipe, Run, Variant
from dpnet.episodes import Episode
from dpnet.evaluate import Scene
from dpnet.io import DPNetError
from dpnet.metrics import episode_counts
from dpnet.model import Head, shared_counts
from dpnet.train import autocast, build_head

RECIPE = Recipe(size=65, diversity=0.2, train=60, val=60, seed=1)
# fp32: in bf16 a pixel whose two logits are equal may fall either way, as thresholds are decoded together or apart.
TRAINING = dataclasses.replace(presets.resolve("shapes", "tiny").training, width=8, precision="fp32")
ROOT = Path(__file__).parents[1]


class Tiny(NamedTuple):
    head: Head
    scene: Scene
    listed: list[Episode]
    found: dict[str, np.ndarray]
    kept: Kept


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A head that was never trained, whose discriminator has opinions."""
    data = benchmarks.prepare("shapes", tmp_path_factory.mktemp("data"), RECIPE)
    backbone = backbones.build(TRAINING.backbone)
    head = build_head(Run("shapes", RECIPE, TRAINING, 0, 0, Variant()), backbone.channels).eval()
    assert head.comparison is not None
    with torch.no_grad():
        head.comparison.second.weight *= 30
    scene = Scene(data, backbone, TRAINING.backbone, TRAINING.size, 0, 0, "cpu")
    listed = scene.episodes(1, 30)
    found = explorer.predicted(head, scene, TRAINING, listed, explorer.first_of_each(listed, 2))
    return Tiny(head, scene, listed, found, explorer.unpacked(pack(found)))


def pack(found: dict[str, np.ndarray], run: str = "mine", scores: str = "0") -> bytes:
    return explorer.packed({"run": np.array(run), "scores": np.array(scores), **found})


# ---- what is kept


def test_the_first_episodes_of_each_class_are_kept(tiny: Tiny) -> None:
    listed = [e.class_id for e in tiny.listed]
    numbers = tiny.kept.numbers.tolist()
    for c in set(listed):
        mine = [n for n in numbers if listed[n] == c]
        assert mine == [n for n, k in enumerate(listed) if k == c][:2]
    assert len(numbers) == 2 * len(set(listed))


def test_it_is_what_the_network_says_at_each_threshold(tiny: Tiny) -> None:
    """Against the network's own forward call and `evaluate.predictions`, threshold by threshold."""
    kept, scene = tiny.kept, tiny.scene
    chosen = [tiny.listed[n] for n in kept.numbers]
    raw_s, soft = scene.supports(chosen, "right")
    raw_q = scene.raw([e.query for e in chosen])
    counts = shared_counts(scene.backbone, raw_s, raw_q, soft, "cycle")
    features_of = scene.backbone.features
    dropped = 0
    for beta in BETAS:
        with torch.inference_mode(), autocast(TRAINING, "cpu"):
            output = tiny.head(features_of(raw_s), soft, features_of(raw_q), counts, beta)
        masks = evaluate.predictions(tiny.head, scene, TRAINING, chosen, beta)
        assert output.scores is not None
        assert np.allclose(kept.probability, output.scores[:, 0].float().sigmoid(), atol=1e-3)
        for i in range(len(chosen)):
            seen = explorer.state(kept, i, beta, (0, 0))
            assert np.array_equal(seen.candidates, output.candidates[i, 0])
            assert np.array_equal(seen.selected, output.selected[i, 0])
            assert np.array_equal(seen.mask, masks[i][1])
            assert np.array_equal(kept.alone[i], masks[i][0])
            dropped += int((seen.candidates & ~seen.selected).sum())
    assert dropped
    assert (kept.masks != kept.masks[:, :1]).any()  # the threshold does change an answer


def test_candidates_are_the_ends_of_cycles(tiny: Tiny) -> None:
    """Eq. 1 and 2 as two loops over the kept matches."""
    kept = tiny.kept
    for i in range(len(kept.numbers)):
        foreground = kept.foreground[i].ravel()
        forward, backward = kept.forward[i].tolist(), kept.backward[i].tolist()
        reached = {forward[s] for s in range(len(forward)) if foreground[s] and foreground[backward[forward[s]]]}
        assert set(np.flatnonzero(kept.candidates[i])) == reached


def test_a_cycle_is_that_of_fig_3(tiny: Tiny) -> None:
    chosen = [tiny.listed[n] for n in tiny.kept.numbers]
    pair = cycles.find(tiny.scene.benchmark, tiny.scene.backbone, tiny.scene.size, chosen)
    assert len(pair) == 2
    for cycle in pair:
        seen = explorer.state(tiny.kept, cycle.episode, 0.2, cycle.cells[0])
        assert seen.cells == cycle.cells
        assert seen.starts
        assert seen.ends is cycle.succeeds
        assert seen.lands == cycle.lands
        verdict = "is a candidate" if cycle.succeeds else "is no candidate"
        assert f"Q1 {verdict}" in seen.words[1]


def test_packing_loses_nothing_but_pixels_and_gives_the_same_bytes(tiny: Tiny) -> None:
    again = explorer.predicted(tiny.head, tiny.scene, TRAINING, tiny.listed, tiny.kept.numbers.tolist())
    assert pack(again) == pack(tiny.found)
    for name, array in tiny.found.items():
        there = np.asarray(getattr(tiny.kept, name))
        assert there.shape == array.shape
        if name == "images":
            assert np.abs(there.astype(int) - array).mean() < 10  # JPEG
        else:
            assert np.array_equal(there, array), name


# ---- what is said


def test_words_count_what_is_seen(tiny: Tiny) -> None:
    kept = tiny.kept
    for t, beta in enumerate(kept.betas):
        words, _ = explorer.state(kept, 1, beta, kept.start(1)).words
        candidates, selected = int(kept.candidates[1].sum()), int(kept.selected[1, t].sum())
        assert f"{candidates} candidate" in words
        assert f"{candidates - selected} discarded at β = {beta:.2f}" in words
        assert (f"P_q is the mean of {selected}" in words) is (selected > 0)
        assert ("P_q = P" in words) is (selected == 0)
        hit = (kept.masks[1, t] & (kept.target[1] == 1)).sum()
        union = (kept.masks[1, t] | (kept.target[1] == 1)).sum()
        assert f"IoU {100 * hit / union:.1f} (" in words


def test_the_start_lies_on_the_object(tiny: Tiny) -> None:
    assert all(tiny.kept.foreground[i][tiny.kept.start(i)] for i in range(len(tiny.kept.numbers)))


# ---- clicks and controls


def test_clicks_find_their_cell_and_others_are_ignored(tiny: Tiny) -> None:
    kept = tiny.kept
    for row in range(kept.grid[0]):
        for column in range(kept.grid[1]):
            assert views.cell_at(kept, *views.point_of(kept, (row, column))) == (row, column)
    for x, y in ((0.0, 0.5), (0.2, 0.0), (0.2, 0.99), (0.5, 0.4), (0.9, 0.4), (-1.0, 2.0)):
        assert views.cell_at(kept, x, y) is None


@pytest.mark.parametrize("said", [False, True])
def test_cells_lie_in_the_picture_where_clicks_find_them(said: bool, tiny: Tiny) -> None:
    kept = tiny.kept
    figure = views.picture(kept, 0, explorer.state(kept, 0, 0.2, kept.start(0)), said)
    width, height = figure.get_size_inches() * figure.dpi
    for cell in ((0, 0), (3, 5), (kept.grid[0] - 1, kept.grid[1] - 1)):
        last = kept.target.shape[1] - 1
        pixel = [at * last / (n - 1) for at, n in zip(cell[::-1], kept.grid[::-1], strict=True)]
        across, up = figure.axes[0].transData.transform(pixel)
        if not said:  # with words below, it is a picture to look at
            assert views.cell_at(kept, across / width, 1 - up / height) == cell
        assert 0 < across < width / 3
    texts = [t for t in figure.findobj(lambda a: hasattr(a, "get_fontsize")) if t.get_text()]
    assert min(t.get_fontsize() for t in texts) >= 9


def test_controls_follow_and_draw_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, drawn = tiny.kept, []
    picture = views.picture
    monkeypatch.setattr(views, "picture", lambda *a, **k: drawn.append(1) or picture(*a, **k))
    explorer = controls.Explorer(kept)

    def says(episode: int, beta: float, cell: explorer.Cell) -> bool:
        words = list(explorer.state(kept, episode, beta, cell).words)
        return explorer.picture.words == words and (explorer.row.value, explorer.column.value) == cell

    assert says(0, Evaluation.beta, kept.start(0))
    explorer.episode.value = 3
    assert says(3, Evaluation.beta, kept.start(3))
    explorer.beta.value = 0.6
    explorer.click(*views.point_of(kept, (2, 7)))
    assert says(3, 0.6, (2, 7))
    assert len(drawn) == 4
    explorer.click(0.9, 0.4)
    assert says(3, 0.6, (2, 7))
    assert len(drawn) == 4


def test_without_a_kernel_a_picture_stands_in_its_place(tiny: Tiny) -> None:
    explorer = controls.Explorer(tiny.kept)
    bundle = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == "\n".join(explorer.picture.words)
    assert Image.open(explorer.io.BytesIO(controls.base64.b64decode(bundle["image/jpeg"]))).width > 900


# ---- the file in the results


def test_the_kept_predictions_are_those_that_were_scored() -> None:
    """Against the counts that the run's own evaluation wrote, at each of Fig. 5's thresholds."""
    of = explorer.cohort("shapes", "quick")
    kept = explorer.load(of)
    assert explorer.place(of).stat().st_size < 600_000
    count = presets.resolve("shapes", "quick").episodes
    for t, beta in enumerate(kept.betas):
        counts, _ = of.store.counts(of.pictured, Evaluation(count, beta=beta).id)
        mine = episode_counts(torch.from_numpy(kept.masks[:, t]), torch.from_numpy(kept.target))
        assert np.array_equal(mine, counts[kept.numbers])


def results_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> explorer.Cohort:
    """The committed run's scores beside some kept predictions, no checkpoint."""
    of = explorer.cohort("shapes", "quick")
    folder = tmp_path / of.store.root.name
    run = folder / "runs" / of.pictured.id
    run.mkdir(parents=True)
    (run / "metrics.json").write_bytes((of.store.folder(of.pictured) / "metrics.json").read_bytes())
    (folder / "benchmark.json").write_bytes((of.store.root / "benchmark.json").read_bytes())
    if content:
        (folder / "explore.npz").write_bytes(content)
    monkeypatch.setenv("DPNET_RESULTS", str(tmp_path))
    return explorer.cohort("shapes", "quick")


@pytest.mark.parametrize("what", ["none", "run", "scores", "torn"])
def test_what_is_not_this_runs_is_refused(
    what: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = explorer.cohort("shapes", "quick")
    mine = {"run": of.pictured.id, "scores": explorer.load(of).scores}
    content = {
        "none": b"",
        "run": pack(tiny.found, "another", mine["scores"]),
        "scores": pack(tiny.found, mine["run"], "another"),
        "torn": pack(tiny.found, **mine)[:-100],
    }[what]
    message = {
        "none": "no kept predictions",
        "run": f"of run another, expected {mine['run']}",
        "scores": "of another training",
        "torn": "corrupt",
    }[what]
    there = results_with(tmp_path, monkeypatch, content)
    for call in (explorer.load, explorer.keep):
        with pytest.raises(DPNetError, match=rf"(?s){re.escape(message)}.*make reproduce-table3.*make explore"):
            call(there)
    results_with(tmp_path / "good", monkeypatch, pack(tiny.found, **mine))
    assert explorer.keep(explorer.cohort("shapes", "quick")).run == mine["run"]


def test_no_photographs_are_committed() -> None:
    listed = subprocess.run(["git", "ls-files", "results/*/explore.npz"], capture_output=True, text=True, cwd=ROOT)
    assert {p.split("/")[1].rsplit("-", 1)[0] for p in listed.stdout.split()} <= set(RENDERED)
    ignored = subprocess.run(["git", "check-ignore", "results/pascal-mini-quick/explore.npz"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    assert io.places().results
