"""Images of your own: segmented as in the evaluation, refused in one line, and by a program that runs alone."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import RECIPE

import dpnet
from dpnet import cli, evaluate, predict, train
from dpnet import data as benchmarks
from dpnet.companion import examples, presets
from dpnet.companion.store import Store
from dpnet.config import Run, Variant
from dpnet.data import checks
from dpnet.episodes import Episode
from dpnet.io import DPNetError

SIZES = presets.resolve("shapes", "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose head is random, and decides for about half of each image."""
    store = Store(tmp_path_factory.mktemp("results"))
    run = Run("shapes", SIZES.recipe, SIZES.training, fold=0, seed=0, variant=Variant())
    head = train.build_head(run, 152)
    save_file(head.state_dict(), store.begin(run) / "checkpoint.safetensors")
    return store.folder(run)


@pytest.fixture
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    return np.array(rough.resize((120, 90), Image.Resampling.BICUBIC))


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((90, 120), np.uint8)
    mask[20:60, 30:80] = 1
    return mask


def test_an_object_that_the_network_cannot_see_is_no_support(folder: Path, photo: np.ndarray) -> None:
    large, speck = np.kron(photo, np.ones((8, 8, 1), np.uint8)), np.zeros((720, 960), np.uint8)
    speck[301:304, 401:404] = 1
    with pytest.raises(DPNetError, match=r"mask 2: what it marks is less than a pixel at the network's 65x65: cut"):
        dpnet.segment(photo, [large, large], [speck + (large[..., 0] > 0), speck], folder)
    speck[301:340, 401:440] = 1
    assert dpnet.segment(photo, [large], [speck], folder)[0].shape == (90, 120)


def test_bad_input_is_named(photo: np.ndarray, mask: np.ndarray, folder: Path, tmp_path: Path) -> None:
    for supports, masks, beta, message in (
        ([photo], [], 0.2, "1 supports and 0 masks"),
        ([photo], [mask[1:]], 0.2, "120 x 89 pixels, but its support has 120 x 90"),
        ([photo], [mask * 0], 0.2, "no foreground"),
        ([tmp_path / "no.jpg"], [mask], 0.2, r"no\.jpg: no such file"),
        ([photo], [mask], 2, "beta=2: must lie between 0"),
    ):
        with pytest.raises(DPNetError, match=message):
            dpnet.segment(photo, supports, masks, folder, beta)


def test_a_folder_without_a_trained_run_is_named(folder: Path, tmp_path: Path) -> None:
    about = json.loads((folder / "run.json").read_text())
    narrow = {**about["training"], "width": about["training"]["width"] + 1}
    for i, (content, message) in enumerate((
        ([], "not a training's"), ({"kind": "Run"}, "KeyError: 'training'"),
        ({**about, "training": 7}, "TypeError: "), ({**about, "training": narrow}, "RuntimeError: "),
        ({**about, "variant": {"no": 1}}, "TypeError: "),
    )):  # fmt: skip
        shutil.copytree(folder, tmp_path / f"run{i}")
        (tmp_path / f"run{i}" / "run.json").write_text(json.dumps(content))
        with pytest.raises(DPNetError, match=rf"run{i}.run\.json: .*{message}") as caught:
            predict.load(tmp_path / f"run{i}")
        assert "\n" not in str(caught.value)
    with pytest.raises(DPNetError, match=r"nowhere.run\.json: missing"):
        predict.load(tmp_path / "nowhere")
    shutil.copytree(folder, tmp_path / "published")
    (tmp_path / "published" / "checkpoint.safetensors").unlink()
    with pytest.raises(DPNetError, match=r"published: no checkpoint.*make reproduce-table3 BENCHMARK=shapes"):
        predict.load(tmp_path / "published")


def test_your_own_image_is_segmented_as_in_the_evaluation(folder: Path, tmp_path: Path) -> None:
    data = benchmarks.prepare("shapes", tmp_path, RECIPE)
    class_id, trained = 7, predict.load(folder)
    first, second = data.images_of(class_id, "val")[:2]
    episode = Episode(class_id, first, (second,))
    query, support = data.entries[episode.query], data.entries[episode.supports[0]]
    mask = (data.label(support) == class_id).astype(np.uint8)
    answer, probability = dpnet.segment(data.path(query.image), [data.path(support.image)], [mask], trained)
    again, _ = dpnet.segment(data.image(query), [data.image(support)], [Image.fromarray(mask * 9)], folder)
    assert answer.shape == probability.shape == query.size
    assert np.array_equal(answer, again)
    assert np.array_equal(answer == 1, probability > 0.5)
    scene = evaluate.Scene(data, trained.model.backbone, trained.size, 1, 0)
    exact = dataclasses.replace(SIZES.training, precision="fp32")
    expected = examples.predictions(trained.model.head, scene, exact, [episode], beta=0.2)[0][1].numpy()
    assert 0.1 < answer.mean() < 0.9
    assert (answer != expected).mean() < 0.02  # there the features are stored in fp16


def test_the_command_line_writes_mask_overlay_and_probability(
    photo: np.ndarray, mask: np.ndarray, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, array in (("s1", photo), ("s2", photo[:, ::-1]), ("m1", mask * 255), ("m2", mask[:, ::-1] * 9),
                        ("q", photo[::-1])):  # fmt: skip
        Image.fromarray(np.ascontiguousarray(array)).save(tmp_path / f"{name}.png")
    arguments = [
        "predict", "--support", "s1", "--mask", "m1", "--support", "s2", "--mask", "m2", "--query", "q",
        "--out", "o", "--overlay", "v", "--probability", "p",
    ]  # fmt: skip
    paths = [a if a.startswith("--") or a == "predict" else str(tmp_path / f"{a}.png") for a in arguments]
    assert cli.main([*paths, "--checkpoint", str(folder)]) == 0
    answer, levels, coloured = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "opv")
    expected, probability = dpnet.segment(
        photo[::-1], [photo, photo[:, ::-1]], [mask, mask[:, ::-1]], predict.load(folder)
    )
    assert np.array_equal(answer, expected)
    assert np.abs(levels / 65535 - probability).max() < 1e-5
    assert np.array_equal(coloured, np.asarray(checks.overlay(np.ascontiguousarray(photo[::-1]), expected)))
    assert cli.main([*paths, "--checkpoint", str(tmp_path / "no")]) == 1
    assert cli.main([*paths, "--checkpoint", str(folder / "checkpoint.safetensors")]) == 0
    capsys.readouterr()
    before = (tmp_path / "q.png").read_bytes()
    for out, message in (("q.png", "one of the images that are read"), ("o.jpg", "name it o.png")):
        arguments = [str(tmp_path / out) if a == str(tmp_path / "o.png") else a for a in paths]
        assert cli.main([*arguments, "--checkpoint", str(folder)]) == 1
        assert message in capsys.readouterr().err
    assert (tmp_path / "q.png").read_bytes() == before
    for twice in ("v", "p"):
        arguments = [str(tmp_path / "o.png") if a == str(tmp_path / f"{twice}.png") else a for a in paths]
        assert cli.main([*arguments, "--checkpoint", str(folder)]) == 1
        assert re.search(r"--(overlay|probability) .*o\.png: is what --out writes", capsys.readouterr().err)


def test_an_export_overwrites_nothing_else(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.jpg").write_text("a photograph")
    for out, beta, message in (("photo.jpg", "0.2", "name it photo.pt2"), ("a.pt2", "2", "beta=2: must lie between")):
        given = ["--checkpoint", str(folder), "--out", str(tmp_path / out), "--beta", beta]
        assert cli.main(["export", *given]) == 1
        assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]
    assert (tmp_path / "photo.jpg").read_text() == "a photograph"


ALONE = """
import sys, torch
assert "dpnet" not in sys.modules
program = torch.export.load(sys.argv[1]).module()
probability = program(*torch.load(sys.argv[2], weights_only=True))
assert not any(name.split(".")[0] == "dpnet" for name in sys.modules)
torch.save(probability, sys.argv[3])
"""


@pytest.mark.parametrize("shots", [1, 2])
def test_an_exported_program_runs_alone_and_gives_the_same(
    shots: int, photo: np.ndarray, mask: np.ndarray, folder: Path, tmp_path: Path
) -> None:
    program = tmp_path / "model.pt2"
    assert cli.main(["export", "--checkpoint", str(folder), "--out", str(program), "--shots", str(shots)]) == 0
    S = SIZES.training.size
    image = Image.fromarray(photo).resize((S, S))
    marked = np.array(Image.fromarray(mask).resize((S, S), Image.Resampling.NEAREST))
    seen = predict.square(image, S)
    others = [seen.roll(9 * k, 2) for k in range(shots)]
    inputs = [torch.stack(others)[None], torch.tensor(marked).expand(1, shots, S, S).clone(), seen.flip(2)[None]]
    torch.save(inputs, tmp_path / "inputs.pt")
    subprocess.run(
        [sys.executable, "-I", "-c", ALONE, program, tmp_path / "inputs.pt", tmp_path / "out.pt"],
        check=True,
        cwd=tmp_path,
    )
    theirs = torch.load(tmp_path / "out.pt", weights_only=True)[0].numpy()
    supports = [o.permute(1, 2, 0).numpy() for o in others]
    ours, probability = dpnet.segment(
        seen.flip(2).permute(1, 2, 0).numpy().copy(), supports, [marked] * shots, folder
    )
    assert np.array_equal(theirs > 0.5, ours == 1)
    assert np.abs(theirs - probability).max() < 1e-6
