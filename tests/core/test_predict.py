"""Images of your own: segmented as in the evaluation, refused in one line, and by a program that runs alone."""

import dataclasses
import doctest
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
from dpnet import cli, evaluate, heads, predict, train
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
    run = Run("shapes", SIZES.recipe, SIZES.training, fold=0, seed=0, variant=Variant())
    folder = Store(tmp_path_factory.mktemp("results")).begin(run)
    save_file(train.build_head(run, 152).state_dict(), folder / "checkpoint.safetensors")
    return folder


@pytest.fixture
def photo() -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return np.array(Image.fromarray(rough).resize((120, 90), Image.Resampling.BICUBIC))


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((90, 120), np.uint8)
    mask[20:60, 30:80] = 1
    return mask


def test_bad_input_is_named(photo: np.ndarray, mask: np.ndarray, folder: Path, tmp_path: Path) -> None:
    large, speck = np.kron(photo, np.ones((8, 8, 1), np.uint8)), np.zeros((720, 960), np.uint8)
    speck[301:304, 401:404] = 1
    for supports, masks, beta, message in (
        ([photo], [], 0.2, "1 supports and 0 masks"),
        ([photo], [mask[1:]], 0.2, "120 x 89 pixels, but its support has 120 x 90"),
        ([photo], [mask * 0], 0.2, "no foreground"),
        ([tmp_path / "no.jpg"], [mask], 0.2, r"no\.jpg: no such file"),
        ([photo], [mask], 2, "beta=2: must lie between 0"),
        ([photo], [mask], "0.2", "beta='0.2': must lie between 0"),
        ([photo], [mask], float("nan"), "beta=nan: must lie between 0"),
        ([large] * 2, [large[..., 0] > 0, speck], 0.2, "mask 2: .* less than a pixel at the network's 65x65: cut"),
    ):
        with pytest.raises(DPNetError, match=message):
            dpnet.segment(photo, supports, masks, folder, beta)


def test_the_examples_of_the_docstring(
    photo: np.ndarray, mask: np.ndarray, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, pixels in (("a.jpg", photo), ("b.jpg", photo[::-1].copy()), ("a.png", mask * 255)):
        Image.fromarray(pixels).save(file)
    shape = {"label": "cup", "shape_type": "rectangle", "points": [[10, 10], [90, 70]]}
    Path("a.json").write_text(json.dumps({"shapes": [shape, {**shape, "label": "fork"}]}))
    example = doctest.DocTestFinder().find(predict.segment, globs={**vars(predict), "run": folder})[0]
    assert doctest.DocTestRunner().run(example) == (0, 4)


def test_a_folder_without_a_trained_run_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    narrow = {**about["training"], "width": about["training"]["width"] + 1}
    for content, message in (
        ([], "missing, or not a training's"), ({"kind": "Run"}, "KeyError: 'training'"),
        ({**about, "training": narrow}, "RuntimeError: "), ({**about, "variant": {"no": 1}}, "TypeError: "),
    ):  # fmt: skip
        (tmp_path / "run" / "run.json").write_text(json.dumps(content))
        with pytest.raises(DPNetError, match=rf"^.*run.run\.json: .*{message}.*$"):
            heads.load(tmp_path / "run")
    shutil.copytree(folder, tmp_path / "published", ignore=lambda *_: ["checkpoint.safetensors"])
    with pytest.raises(DPNetError, match=r"published: no checkpoint.*make reproduce-table3 BENCHMARK=shapes"):
        heads.load(tmp_path / "published")


def test_your_own_image_is_segmented_as_in_the_evaluation(folder: Path, tmp_path: Path) -> None:
    data = benchmarks.prepare("shapes", tmp_path, RECIPE)
    class_id, trained = 7, heads.load(folder)
    first, second = data.images_of(class_id, "val")[:2]
    episode = Episode(class_id, first, (second,))
    query, support = data.entries[first], data.entries[second]
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
    photo: np.ndarray, mask: np.ndarray, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    upside = np.ascontiguousarray(photo[::-1])
    for name, array in (("s1", photo), ("s2", photo[:, ::-1]), ("m1", mask * 255), ("m2", mask[:, ::-1] * 9)):
        Image.fromarray(np.ascontiguousarray(array)).save(f"{name}.png")
    Image.fromarray(upside).save("q.png")

    pairs = ["--support", "s1.png", "--mask", "m1.png", "--support", "s2.png", "--mask", "m2.png", "--query", "q.png"]

    def command(**changed: str) -> int:
        options = {"out": "o.png", "overlay": "v.png", "probability": "p.png", "checkpoint": str(folder), **changed}
        return cli.main(
            ["predict", *pairs, *(word for key, value in options.items() for word in (f"--{key}", value))]
        )

    assert command() == command(checkpoint=str(folder / "checkpoint.safetensors")) == 0
    answer, levels, coloured = (np.asarray(Image.open(f"{name}.png")) for name in "opv")
    expected, probability = dpnet.segment(upside, [photo, photo[:, ::-1]], [mask, mask[:, ::-1]], folder)
    assert np.array_equal(answer, expected)
    assert np.abs(levels / 65535 - probability).max() < 1e-5
    assert np.array_equal(coloured, np.asarray(checks.overlay(upside, expected)))
    before = Path("q.png").read_bytes()
    for changed, message in (
        ({"checkpoint": "no"}, r"no: missing: give a folder of results"),
        ({"out": "q.png"}, "one of the images that are read"),
        ({"out": "o.jpg"}, r"name it o\.png"),
        ({"overlay": "o.png"}, r"--overlay .*o\.png: is what --out writes"),
        ({"probability": "o.png"}, r"--probability .*o\.png: is what --out writes"),
    ):
        assert command(**changed) == 1
        assert re.search(message, capsys.readouterr().err)
    assert Path("q.png").read_bytes() == before


def test_an_export_overwrites_nothing_else(folder: Path, tmp_path: Path) -> None:
    for out, beta, message in (("photo.jpg", 0.2, "name it photo.pt2"), ("a.pt2", 2, "beta=2: must lie between")):
        with pytest.raises(DPNetError, match=message):
            predict.export(folder, tmp_path / out, beta=beta)
    assert not [*tmp_path.iterdir()]


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
    arguments = [program, tmp_path / "inputs.pt", tmp_path / "out.pt"]
    subprocess.run([sys.executable, "-I", "-c", ALONE, *arguments], check=True, cwd=tmp_path)
    theirs = torch.load(tmp_path / "out.pt", weights_only=True)[0].numpy()
    query, *supports = (square.permute(1, 2, 0).numpy().copy() for square in (seen.flip(2), *others))
    ours, probability = dpnet.segment(query, supports, [marked] * shots, folder)
    assert np.array_equal(theirs > 0.5, ours == 1)
    assert np.abs(theirs - probability).max() < 1e-6
