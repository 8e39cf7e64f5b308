"""Images of your own: any mode and size, masks of any kind, and a program that runs without this package."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import save_file

import dpnet
from dpnet import cli, predict, train
from dpnet.companion import presets
from dpnet.companion.store import Store
from dpnet.config import Run, Variant
from dpnet.data import images
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


@pytest.mark.parametrize("kind", ["soft", "jpeg", "cut-out", "white on white"])
def test_a_mask_with_shades_or_transparency_marks_what_is_meant(
    kind: str, photo: np.ndarray, mask: np.ndarray, tmp_path: Path
) -> None:
    """What painting programs, JPEG, and a phone that cuts things out make of the same mask."""
    white, opaque = Image.fromarray(mask * 255), (mask * 255)[..., None]
    file = tmp_path / ("m.jpg" if kind == "jpeg" else "m.png")
    if kind == "soft":
        white.resize((360, 270)).filter(ImageFilter.GaussianBlur(4)).resize((120, 90)).save(file)
    elif kind == "jpeg":
        white.convert("RGB").save(file, quality=60)
    else:
        under = photo if kind == "cut-out" else np.full_like(photo, 255)
        Image.fromarray(np.dstack([under, opaque])).save(file)
    found = images.marked(file, (120, 90))
    assert set(np.unique(found)) == {0, 1}
    assert (found != mask).sum() <= (0 if kind in ("cut-out", "white on white") else 150)  # an edge has 180 pixels


def test_an_object_that_the_network_cannot_see_is_no_support(folder: Path, photo: np.ndarray) -> None:
    large, speck = np.kron(photo, np.ones((8, 8, 1), np.uint8)), np.zeros((720, 960), np.uint8)
    speck[301:304, 401:404] = 1
    with pytest.raises(DPNetError, match=r"mask 2: what it marks is less than a pixel at the network's 65x65: cut"):
        dpnet.segment(photo, [large, large], [speck + (large[..., 0] > 0), speck], folder)
    speck[301:340, 401:440] = 1
    assert dpnet.segment(photo, [large], [speck], folder)[0].shape == (90, 120)


def rim(ids: np.ndarray, width: int) -> np.ndarray:
    """Where ids differ from one `width` pixels away, as VOC draws its void."""
    around = [np.roll(ids, (y, x), (0, 1)) for y in (-width, 0, width) for x in (-width, 0, width)]
    return np.any([ids != other for other in around], 0)


@pytest.mark.parametrize(
    "kind", ["sharp jpeg", "resized", "reduced", "resized palette", "quantized", "web palette", "thin"]
)
def test_white_on_black_is_never_taken_for_void(kind: str, mask: np.ndarray, tmp_path: Path) -> None:
    """Few shades beside white are soft edges; and a palette's indices are an encoder's."""
    meant, file = mask, tmp_path / ("m.jpg" if kind == "sharp jpeg" else "m.png")
    white = Image.fromarray(mask * 255)
    if kind == "resized palette" or kind == "resized":
        white = white.resize((240, 180), Image.Resampling.BILINEAR)
        meant = np.kron(mask, np.ones((2, 2), np.uint8))
        white = white.convert("RGB").quantize(8) if kind == "resized palette" else white
    elif kind in ("reduced", "thin"):
        drawn = Image.new("L", (240, 180))
        for i in range(1 if kind == "reduced" else 5):
            box = (40, 30, 200, 150) if kind == "reduced" else (20 + 43 * i, 30, 29 + 43 * i, 150)
            ImageDraw.Draw(drawn).ellipse(box, fill=255)
        white = drawn.resize((120, 90), Image.Resampling.BOX)
        meant = (np.asarray(white) > 127).astype(np.uint8)
    elif kind == "quantized":
        white = white.convert("RGB").quantize(2)
        assert white.getpalette()[:3] == [255, 255, 255]
    elif kind == "web palette":
        white = white.convert("RGB").convert("P")
    white.save(file, **({"quality": 95} if kind == "sharp jpeg" else {}))
    shades = len(np.unique(np.asarray(Image.open(file).convert("L"))))
    assert shades == 2 if kind in ("quantized", "web palette") else 2 < shades <= images.IDS
    found = images.marked(file, meant.shape[::-1])
    assert set(np.unique(found)) == {0, 1}
    assert (found != meant).sum() <= 0.01 * meant.size


def test_ids_with_void_borders_stay_ids(mask: np.ndarray, tmp_path: Path) -> None:
    """As VOC has them, also where an object is so small that its border is larger than itself; and quantized."""
    for size in (40, 6):
        ids = np.zeros((90, 120), np.uint8)
        ids[30 : 30 + size, 40 : 40 + size], ids[30 : 30 + size, 90 : 90 + size] = 15, 3
        expected = np.where(void := rim(ids, 3) & (ids == 0), 255, ids > 0)
        ids[void] = 255
        assert size == 40 or (ids == 255).sum() > (expected == 1).sum()
        assert np.array_equal(images.marked(ids, (120, 90)), expected)
        Image.fromarray(ids).convert("RGB").quantize(4).save(tmp_path / "m.png")
        assert np.array_equal(images.marked(tmp_path / "m.png", (120, 90)), expected)


def test_masks_that_may_mean_either_are_refused(mask: np.ndarray, tmp_path: Path) -> None:
    both = mask * 255
    both[25:35, 85:100] = 90
    ramp = Image.fromarray(np.where(mask, 3, 0).astype(np.uint8))  # ids made visible, or shades of an encoder?
    ramp.paste(2, (85, 5, 119, 89))
    ramp.paste(1, (85, 30, 119, 60))
    red = Image.fromarray(mask).convert("P")
    red.putpalette([0, 0, 0, 255, 0, 0])
    assert np.array_equal(images.marked(red, (120, 90)), mask)
    ramp.putpalette([v for i in range(5) for v in [63 * i] * 3])  # more than are there: ids
    assert np.array_equal(images.marked(ramp, (120, 90)) == 1, np.asarray(ramp) > 0)
    other = Image.fromarray(1 - mask).convert("P")
    other.putpalette([255, 0, 0, 0, 0, 0])
    ramp.putpalette([v for i in range(4) for v in [85 * i] * 3])
    for bad, line in (
        (both, "holds 255 beside 90: shades"),
        (ramp, "holds 255 beside 85: "),
        (other, "has colours"),
    ):
        with pytest.raises(DPNetError, match=line):
            images.marked(bad, (120, 90))


def same(a: Image.Image, b: np.ndarray) -> bool:
    return a.mode == "RGB" and np.array_equal(np.asarray(a), b)


def test_an_image_is_read_in_any_mode(photo: np.ndarray, tmp_path: Path) -> None:
    grey = np.array(Image.fromarray(photo).convert("L"))
    three = np.repeat(grey[..., None], 3, 2)
    assert same(images.photograph(photo), photo)
    assert same(images.photograph(grey), three)
    for mode in ("L", "P", "1", "LA", "RGBA", "CMYK", "YCbCr"):
        suffix = "png" if mode in ("L", "P", "1", "LA", "RGBA") else "tif"
        Image.fromarray(photo).convert(mode).save(tmp_path / f"{mode}.{suffix}")
        assert images.photograph(tmp_path / f"{mode}.{suffix}").mode == "RGB"
    assert same(images.photograph(tmp_path / "L.png"), three)
    assert same(images.photograph(tmp_path / "RGBA.png"), photo)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    assert same(images.photograph(tmp_path / "16.png"), three)
    assert same(images.photograph(grey[..., None]), three)
    assert same(images.photograph(photo.astype(np.uint16) * 257), photo)
    clear = np.dstack([photo, np.where(np.arange(120) < 60, 0, 255) * np.ones((90, 1))]).astype(np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    found = np.asarray(images.photograph(tmp_path / "clear.png"))
    assert (found[:, :60] == 255).all()
    assert np.array_equal(found[:, 60:], photo[:, 60:])


@pytest.mark.parametrize("note", range(1, 9))
def test_a_rotation_that_exif_notes_is_done(note: int, photo: np.ndarray, tmp_path: Path) -> None:
    """As a camera writes it: turned, with a note how to turn it back."""
    turned = {
        1: photo, 2: photo[:, ::-1], 3: photo[::-1, ::-1], 4: photo[::-1], 5: photo.transpose(1, 0, 2),
        6: np.rot90(photo), 7: np.rot90(photo.transpose(1, 0, 2), 2), 8: np.rot90(photo, -1),
    }[note]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = note
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.png", exif=exif)
    assert same(images.photograph(tmp_path / "a.png"), photo)


def test_a_mask_is_read_in_any_kind(mask: np.ndarray, tmp_path: Path) -> None:
    size = (120, 90)
    kinds = {
        "bool": mask > 0, "id": mask * 7, "white": mask * 255, "colour": np.repeat(mask[..., None] * 255, 3, 2),
        "16": mask.astype(np.uint16) * 1000,
    }  # fmt: skip
    for kind in kinds.values():
        assert np.array_equal(images.marked(kind, size), mask)
    palette = Image.fromarray(mask * 3)
    palette.putpalette([0] * 9 + [200, 10, 10])
    palette.save(tmp_path / "p.png")
    assert np.array_equal(images.marked(tmp_path / "p.png", size), mask)
    void = mask * 2
    void[:5] = 255
    assert np.array_equal(images.marked(void, size), np.where(void == 255, 255, mask))


@pytest.mark.parametrize("labelme", [True, False])
def test_polygons(labelme: bool, tmp_path: Path) -> None:
    corners = [[[10.0, 5.0], [100.0, 20.0], [60.0, 80.0]], [[90.0, 60.0], [119.0, 60.0], [119.0, 89.0], [90.0, 89.0]]]
    content = {"shapes": [{"label": "a", "points": c} for c in corners]} if labelme else corners
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = images.marked(tmp_path / "a.json", (120, 90))
    cells = np.stack(np.meshgrid(np.arange(120), np.arange(90)), -1).reshape(-1, 2)
    expected = sum(Outline([*c, c[0]]).contains_points(cells) for c in corners).reshape(90, 120) > 0
    both = (found & expected).sum()
    assert both / (found | expected).sum() > 0.95  # they differ in pixels on the border


def test_the_overlay_colours_what_was_found(photo: np.ndarray, mask: np.ndarray) -> None:
    shown = np.asarray(images.overlay(photo, mask))
    assert np.array_equal(shown[mask == 0], photo[mask == 0])
    assert (shown[20, 30:80] == images.MARK).all()
    assert (shown[40, 40:70] != photo[40, 40:70]).any()
    assert np.abs(shown[40, 50] - (0.55 * photo[40, 50] + 0.45 * np.array(images.MARK))).max() <= 0.5


def test_bad_input_is_named(photo: np.ndarray, mask: np.ndarray, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(photo).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    for name, content in (("not", "{"), ("none", "[]"), ("other", '{"a": 1}'), ("two", "[[[1, 2], [3, 4]]]"),
                          ("far", "[[[500, 500], [600, 500], [600, 600]]]")):  # fmt: skip
        (tmp_path / f"{name}.json").write_text(content)
    coloured = np.dstack([mask, mask * 2, mask * 3])
    for supports, masks, message in (
        ([photo], [], "1 supports and 0 masks"),
        ([photo], [mask[1:]], "120 x 89 pixels, but its support has 120 x 90"),
        ([photo], [mask * 0], "no foreground"),
        ([photo], [coloured], "has colours"),
        ([photo], [mask.astype(np.float32)], "an array of float32"),
        ([photo[None]], [mask], r"an array of shape \(1, 90, 120, 3\): give \[H, W\]"),
        ([tmp_path / "no.jpg"], [mask], r"no\.jpg: no such file"),
        ([tmp_path / "text.png"], [mask], r"text\.png: cannot be decoded \(not an image\)"),
        ([tmp_path / "torn.png"], [mask], r"torn\.png: cannot be decoded"),
        ([photo], [tmp_path / "no.json"], r"no\.json: no such file"),
        ([photo], [tmp_path / "not.json"], r"not\.json: not JSON"),
        ([photo], [tmp_path / "none.json"], "no polygon lies inside"),
        ([photo], [tmp_path / "other.json"], "holds no polygons"),
        ([photo], [tmp_path / "two.json"], "fewer than three corners"),
        ([photo], [tmp_path / "far.json"], "no polygon lies inside the image, 120 x 90"),
    ):
        with pytest.raises(DPNetError, match=message):
            dpnet.segment(photo, supports, masks, folder)
    with pytest.raises(DPNetError, match=r"run\.json"):
        dpnet.segment(photo, [photo], [mask], tmp_path / "nowhere")
    with pytest.raises(DPNetError, match="beta=2: must lie between 0"):
        dpnet.segment(photo, [photo], [mask], folder, beta=2)
    about = json.loads((folder / "run.json").read_text())
    lacking = {key: value for key, value in about.items() if key != "training"}
    narrow = {**about, "training": {**about["training"], "width": about["training"]["width"] + 1}}
    for i, (content, message) in enumerate((
        ([], "not a training's"), ({"kind": "Run"}, "KeyError: 'training'"), (lacking, "KeyError: 'training'"),
        ({**about, "variant": {"no": 1}}, "TypeError: "), ({**about, "training": 7}, "TypeError: "),
        (narrow, "RuntimeError: "),
    )):  # fmt: skip
        shutil.copytree(folder, tmp_path / f"run{i}")
        (tmp_path / f"run{i}" / "run.json").write_text(json.dumps(content))
        with pytest.raises(DPNetError, match=rf"run{i}.run\.json: .*{message}") as caught:
            predict.load(tmp_path / f"run{i}")
        assert "\n" not in str(caught.value)
    shutil.copytree(folder, tmp_path / "published")
    (tmp_path / "published" / "checkpoint.safetensors").unlink()
    with pytest.raises(DPNetError, match=r"published: no checkpoint.*make reproduce-table3 BENCHMARK=shapes"):
        dpnet.segment(photo, [photo], [mask], tmp_path / "published")


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
    found, levels, shown = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "opv")
    expected, probability = dpnet.segment(
        photo[::-1], [photo, photo[:, ::-1]], [mask, mask[:, ::-1]], predict.load(folder)
    )
    assert np.array_equal(found, expected)
    assert np.abs(levels / 65535 - probability).max() < 1e-5
    assert np.array_equal(shown, np.asarray(images.overlay(np.ascontiguousarray(photo[::-1]), expected)))
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
    (tmp_path / "photo.jpg").write_text("mine")
    for out, beta, message in (("photo.jpg", "0.2", "name it photo.pt2"), ("a.pt2", "2", "beta=2: must lie between")):
        given = ["--checkpoint", str(folder), "--out", str(tmp_path / out), "--beta", beta]
        assert cli.main(["export", *given]) == 1
        assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]
    assert (tmp_path / "photo.jpg").read_text() == "mine"


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
