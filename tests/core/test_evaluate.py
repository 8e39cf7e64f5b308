"""One-pass evaluation (invariant 3) and baselines."""

import dataclasses
from typing import Literal

import loops
import numpy as np
import pytest
import torch
from tiny import BASE, FULL, RECIPE, TRAINING, balance, run

from dpnet import evaluate, train
from dpnet.backbones import Backbone
from dpnet.companion import baselines
from dpnet.config import Baselines, Evaluation, Pseudo, Run
from dpnet.data.index import Benchmark
from dpnet.metrics import mean_iou
from dpnet.model import DPNet, Head, Matched, hard_masks


@pytest.fixture(scope="module")
def scene(data: Benchmark, backbone: Backbone) -> evaluate.Scene:
    return evaluate.Scene(data, backbone, 65, 0, 0)


@pytest.fixture(scope="module")
def heads(scene: evaluate.Scene) -> dict[Run, Head]:
    """Untrained, and balanced."""
    heads = {run(v): train.build_head(run(v), scene.backbone.channels).eval() for v in (BASE, FULL)}
    balance(heads.values(), scene)
    return heads


def test_one_pass_gives_what_separate_passes_give(heads: dict[Run, Head], scene: evaluate.Scene) -> None:
    low, usual, high, scaled, aux, more, wrong = ways = [
        *(Evaluation(24, beta=beta) for beta in (0.0, 0.2, 0.5)),
        Evaluation(24, scales=(0.7, 1.0, 1.3)), Evaluation(24, branch="aux"), Evaluation(24, shot=6),
        Evaluation(24, support="wrong"),
    ]  # fmt: skip
    whole, lists = evaluate.evaluate(heads, scene, dict.fromkeys(heads, ways))
    for one in heads:
        for way in ways:
            ((key, alone),) = evaluate.evaluate(heads, scene, {one: [way]})[0].items()
            assert key == (one, way)
            assert np.array_equal(whole[key], alone)
            assert alone.shape == (len(lists[way]), 2, 3)
    assert len({len(e.supports) for e in lists[more]}) > 1  # batches of unlike episodes, back in order
    unlike = dict(zip(heads, ([scaled], [high]), strict=True))  # heads that are scored in different ways
    assert all(np.array_equal(c, whole[key]) for key, c in evaluate.evaluate(heads, scene, unlike)[0].items())
    # Each way matters, or the test shows nothing.
    full = {way: whole[run(FULL), way] for way in ways}
    answered = [bool(e.wrong_class) for e in lists[usual]]
    assert not np.array_equal(full[low], full[high])
    assert not np.array_equal(full[usual], full[aux])
    assert not np.array_equal(full[usual][answered], full[wrong])


@pytest.mark.parametrize(("shot", "branch"), [(1, "aux"), (6, "main")])
def test_the_pass_equals_the_fields_loop(
    heads: dict[Run, Head], scene: evaluate.Scene, shot: int, branch: Literal["main", "aux"]
) -> None:
    """No banks, no batches, no shared work: one episode, one threshold and one file at a time, in fp32."""
    exact = run(FULL, precision="fp32")
    ways = [Evaluation(12, shot=shot, beta=beta, branch=branch) for beta in (0.0, 0.2, 0.5)]
    counts, lists = evaluate.evaluate({exact: heads[run(FULL)]}, scene, {exact: ways})
    network = DPNet(scene.backbone, width=8, dilations=TRAINING.dilations).eval()
    network.head = heads[run(FULL)]
    plain = loops.score_one_by_one(network, scene.benchmark, lists[ways[0]], 65, [w.beta for w in ways], branch)
    for expected, way in zip(plain, ways, strict=True):
        assert np.abs(expected - counts[exact, way]).sum() < 24  # features in half precision turn a pixel or two


@pytest.mark.parametrize("pseudo", ["cycle", "cosine", "none"])
def test_each_distinct_selection_is_decoded_once_and_as_alone(pseudo: Pseudo) -> None:
    B, K, h = 5, 2, 5
    variant = dataclasses.replace(FULL, pseudo=pseudo)
    head = Head(16, variant, 8, (1, 2, 3), 0.0, torch.Generator().manual_seed(1)).eval()
    counts = torch.randint(0, 3, (B, K, h * h)) * (torch.rand(B, K, h * h) < 0.2)
    counts[1] = counts[0]  # equal cells of unlike episodes
    scores = torch.randn(B, K, h * h) if pseudo == "cycle" else None
    matched = Matched(torch.rand(B, 8, h, h), torch.rand(B, K, 8), counts, scores)
    betas = [i / 10 for i in range(9)]
    asked = [(beta, "main") for beta in betas] + [(0.2, "aux")]
    with torch.no_grad():
        alone = {beta: head.segment(matched, beta) for beta in betas}
        rows = {head.decoder: 0, head.aux_decoder: 0}
        for decoder in rows:
            decoder.register_forward_hook(lambda of, _, logits: rows.update({of: rows[of] + len(logits)}))
        together = evaluate.decode_distinct(head, matched, asked)
    distinct = {(e, tuple(alone[b].selected[e].flatten().tolist())) for b in betas for e in range(B)}
    assert [*rows.values()] == [len(distinct), B]
    assert len(distinct) == B or pseudo == "cycle"
    for beta, branch in asked:
        logits = alone[beta].logits if branch == "main" else alone[beta].aux_logits
        torch.testing.assert_close(together[beta, branch], logits[:, 1] - logits[:, 0])


def test_baselines_lie_where_they_must(scene: evaluate.Scene) -> None:
    wanted = Baselines("shapes", RECIPE, 0, 0, "efficientnet_lite0", 65, 24)
    counts, lists = baselines.measure(scene, wanted)
    assert set(counts) == set(wanted.names) == set(wanted.measured)
    five = dataclasses.replace(wanted, shot=5)
    assert set(wanted.names) - set(five.measured) == {"matches-cosine", "matches-cycle"}  # of one support each
    assert (counts["objects"][:, 0, 1] == 0).all()  # all objects hold the class's own
    assert (counts["objects"][:, 1, 1] > 0).all()
    score = {name: mean_iou(c, np.array([e.class_id for e in lists[name]]), "pfenet") for name, c in counts.items()}
    assert score["ceiling"] > score["objects"] > 0
    assert score["prototype"] > score["prototype-wrong"]


def test_matches_are_counted_on_the_grid(scene: evaluate.Scene) -> None:
    """What is behind Fig. 3 against a plain loop; the cycle leaves a part of what the cosine reaches."""
    cosine, cycle = names = "matches-cosine", "matches-cycle"
    counts, lists = baselines.measure(scene, Baselines("shapes", RECIPE, 0, 0, "", 65, 8, names=names))
    for row, e in zip(counts[cycle], lists[cycle], strict=True):
        F_s, F_q = scene.backbone.comparison(scene.raw([e.supports[0], e.query])).numpy()
        y_s = hard_masks(scene.supports([e], "right")[1])[0, 0].numpy().astype(int)
        C, _ = loops.confidence_set(F_s, F_q, y_s)
        expected = np.zeros((2, 3), int)
        for cell, label in enumerate(scene.target(e)[::8, ::8].flatten().tolist()):  # cells lie on pixels 0, 8, …
            expected[int(cell in C), {0: 0, 1: 1, 255: 2}[label]] += 1
        assert row.tolist() == expected.tolist()
    assert counts[cycle][:, 1].sum() < counts[cosine][:, 1].sum()
