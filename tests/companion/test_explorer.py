"""The explorer's predictions are the network's own, survive storing, and are refused where they are another run's."""

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import drawing
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection

from dpnet import backbones, io
from dpnet import data as benchmarks
from dpnet.companion import examples, explorer, presets
from dpnet.companion.experiments import BETAS
from dpnet.companion.explorer import Predictions
from dpnet.config import Evaluation, Recipe, Run, Variant
from dpnet.episodes import Episode
from dpnet.evaluate import Scene
from dpnet.io import DPNetError
from dpnet.metrics import episode_counts
from dpnet.model import Head, shared_counts
from dpnet.train import build_head

RECIPE = Recipe(size=65, diversity=0.2, train=60, val=60, seed=1)
# fp32: in bf16 a pixel whose two logits are equal may fall either way, as thresholds are decoded together or apart.
TRAINING = dataclasses.replace(presets.resolve("shapes", "tiny").training, width=8, precision="fp32")


class Tiny(NamedTuple):
    head: Head
    scene: Scene
    listed: list[Episode]
    arrays: dict[str, np.ndarray]
    stored: Predictions


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A head that was never trained, whose discriminator is made to decide."""
    data = benchmarks.prepare("shapes", tmp_path_factory.mktemp("data"), RECIPE)
    backbone = backbones.build(TRAINING.backbone)
    head = build_head(Run("shapes", RECIPE, TRAINING, 0, 0, Variant()), backbone.channels).eval()
    assert head.comparison is not None
    with torch.no_grad():
        head.comparison.second.weight *= 30
    scene = Scene(data, backbone, TRAINING.size, 0, 0)
    listed = scene.episodes(1, 30)
    arrays = explorer.predict(head, scene, TRAINING, listed)
    return Tiny(head, scene, listed, arrays, explorer.unpack(pack(arrays)))


def pack(arrays: dict[str, np.ndarray], run: str = "a run", scores: str = "0") -> bytes:
    return explorer.pack({"run": np.array(run), "scores": np.array(scores), **arrays})


def test_each_threshold_is_what_the_network_answers(tiny: Tiny) -> None:
    """The first episodes of each class, against the network's own forward call, threshold by threshold."""
    stored, scene = tiny.stored, tiny.scene
    ids = [e.class_id for e in tiny.listed]
    first_three = [[n for n, k in enumerate(ids) if k == c][:3] for c in sorted(set(ids))]
    assert stored.numbers.tolist() == [n for three in first_three for n in three]
    chosen = [tiny.listed[n] for n in stored.numbers]
    raw_s, soft = scene.supports(chosen, "right")
    raw_q, features_of = scene.raw([e.query for e in chosen]), scene.backbone.features
    counts = shared_counts(scene.backbone, raw_s, raw_q, soft, "cycle")
    for t, beta in enumerate(BETAS):
        with torch.inference_mode():
            output = tiny.head(features_of(raw_s), soft, features_of(raw_q), counts, beta)
        assert np.array_equal(stored.candidates, output.candidates[:, 0])
        assert np.array_equal(stored.selected[:, t], output.selected[:, 0])
        both = torch.stack(examples.predictions(tiny.head, scene, TRAINING, chosen, beta)).numpy() == 1
        assert np.array_equal(stored.alone, both[:, 0])
        assert np.array_equal(stored.masks[:, t], both[:, 1])
    assert (stored.candidates & ~stored.selected[:, -1]).any()  # the discriminator does discard some
    assert (stored.masks != stored.masks[:, :1]).any()  # and that does change an answer


def test_candidates_are_the_ends_of_cycles(tiny: Tiny) -> None:
    """Eq. 1 and 2 as two loops over the affinity."""
    stored, comparison = tiny.stored, tiny.scene.backbone.comparison
    for i, number in enumerate(stored.numbers):
        episode = tiny.listed[number]
        pair = (comparison(tiny.scene.raw([n])).float().flatten(2)[0] for n in (episode.supports[0], episode.query))
        F_s, F_q = (torch.nn.functional.normalize(cells, dim=0) for cells in pair)
        affinity, foreground = (F_s.T @ F_q).numpy(), stored.foreground[i].ravel()
        forward, backward = affinity.argmax(1).tolist(), affinity.argmax(0).tolist()
        closed = [s for s in range(len(forward)) if foreground[s] and foreground[backward[forward[s]]]]
        assert np.flatnonzero(stored.closes[i]).tolist() == closed
        assert set(np.flatnonzero(stored.candidates[i])) == {forward[s] for s in closed}


def test_storing_loses_nothing_but_pixels_and_gives_the_same_bytes(tiny: Tiny) -> None:
    again = explorer.predict(tiny.head, tiny.scene, TRAINING, tiny.listed)
    assert pack(again) == pack(tiny.arrays)
    for name, array in tiny.arrays.items():
        there = np.asarray(getattr(tiny.stored, name))
        assert there.shape == array.shape
        if name == "images":
            assert np.abs(there.astype(int) - array).mean() < 10  # JPEG
        else:
            assert np.array_equal(there, array), name


def test_words_tables_and_pictures_count_what_is_stored(tiny: Tiny) -> None:
    stored, episode = tiny.stored, 1
    table, truth = drawing.episode_scores(stored, stored.betas), stored.target[episode] == 1
    candidates, closes = stored.candidates[episode], stored.closes[episode]
    for t, beta in enumerate(stored.betas):
        words, line = drawing.in_words(stored, episode, beta), table.iloc[episode]
        selected = stored.selected[episode, t]
        number = int(selected.sum())
        overlap, before = (100 * (m & truth).sum() / (m | truth).sum() for m in stored.masks[episode, [t, 0]])
        assert f": {candidates.sum()} candidate" in words
        assert f"{candidates.sum() - number} discarded at β = {beta:.2f}" in words
        assert (f"mean of the {number} selected" in words) is (number > 0)
        assert ("P_q = P" in words) is (number == 0)
        assert f"IoU {overlap:.1f} % (without filtering {before:.1f} %" in words
        assert line[f"selected at {beta:g}"] == number
        assert line[f"IoU at {beta:g}"] == round(overlap, 1)
        support, query, answer = drawing.explored(stored, episode, beta).axes
        for axis, marks in ((support, (closes, stored.foreground[episode] & ~closes)),
                            (query, (selected, candidates & ~selected))):  # fmt: skip
            drawn = [c for c in axis.collections if isinstance(c, PathCollection)]
            assert [len(c.get_offsets()) for c in drawn] == [cells.sum() for cells in marks]
        assert answer.get_title() == f"answer: IoU {overlap:.1f} % (without filtering {before:.1f} %)"
        drawing.plt.close()


# ---- the file in the results


def test_the_stored_predictions_are_those_that_were_scored() -> None:
    """Against the counts that the run's own evaluation wrote, at each of Fig. 5's thresholds."""
    of = explorer.cohort("shapes", "quick", io.ROOT / "results")
    stored = explorer.load(of)
    assert (of.store.root / explorer.FILE).stat().st_size < 600_000
    for t, beta in enumerate(stored.betas):
        counts, _ = of.store.counts(of.example_run, Evaluation(of.usual.episodes, beta=beta).id)
        masks = torch.from_numpy(stored.masks[:, t])
        assert np.array_equal(episode_counts(masks, torch.from_numpy(stored.target)), counts[stored.numbers])


def test_only_predictions_of_this_training_are_shown(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The committed run's scores beside some stored predictions, no checkpoint."""
    of = explorer.cohort("shapes", "quick", io.ROOT / "results")
    run, scores, about = of.example_run.id, explorer.load(of).scores, f"runs/{of.example_run.id}/metrics.json"
    root = tmp_path / of.store.root.name
    for name in (about, "benchmark.json"):
        io.write(root / name, (of.store.root / name).read_bytes())
    there, good = explorer.cohort("shapes", "quick", tmp_path), pack(tiny.arrays, run, scores)
    assert not explorer.keep(there)
    for message, content in {
        "no stored predictions": None,
        "of another run or training": pack(tiny.arrays, "another", scores),
        f"expected {run}": pack(tiny.arrays, run, "another"),
        "corrupt": good[:-100],
    }.items():
        if content is not None:
            (root / explorer.FILE).write_bytes(content)
            assert explorer.keep(there)
        with pytest.raises(DPNetError, match=rf"(?s){re.escape(message)}.*make reproduce-table3.*make explore"):
            explorer.load(there)
    monkeypatch.setenv("DPNET_RESULTS", str(tmp_path))
    assert list(explorer.sources("shapes", "quick")) == ["published"]
    assert "yours: not shown: " in capsys.readouterr().out
    (root / explorer.FILE).write_bytes(good)
    assert explorer.load(there).run == run
    both = explorer.sources("shapes", "quick")  # one's own beside the published
    assert list(both) == ["published", "yours"]
    assert np.array_equal(both["yours"].masks, tiny.stored.masks)
    for root in (tmp_path / "none", io.ROOT / "results"):
        monkeypatch.setenv("DPNET_RESULTS", str(root))
        assert list(explorer.sources("shapes", "quick")) == ["published"]
    with pytest.raises(DPNetError, match="no results of folder at tiny"):
        explorer.sources("folder", "tiny")
    with pytest.raises(DPNetError, match=r"no results.*run `make reproduce-table3 BENCHMARK=coco PRESET=paper`"):
        explorer.cohort("coco", "paper", io.ROOT / "results")


@pytest.mark.skipif(not (io.ROOT / ".git").exists(), reason="not a checkout of git")
def test_no_photographs_are_committed() -> None:
    git = {"capture_output": True, "text": True, "cwd": io.ROOT, "check": False}
    listed = subprocess.run(["git", "ls-files", "results/*/explore.npz"], **git)
    assert {p.split("/")[1].rsplit("-", 1)[0] for p in listed.stdout.split()} <= set(examples.RENDERED)
    ignored = subprocess.run(["git", "check-ignore", "results/pascal-part-quick/explore.npz"], **git)
    assert ignored.returncode == 0
