"""Photographs and support masks: read as a viewer shows them, by one rule, or refused in one line."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as Outline
from PIL import Image, ImageDraw, ImageFilter
from samples import SIZE, fails, labelme, photo, save, save_noted

from dpnet.data import checks, images
from dpnet.data.images import mask, photograph

WH = SIZE[::-1]
SQUARE = np.zeros(SIZE, np.uint8)
SQUARE[10:30, 15:40] = 1


def same(image, array):
    return image.mode == "RGB" and np.array_equal(np.asarray(image), array)


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(images) == (0, doctest.testmod(images).attempted)
    assert doctest.testmod(images).attempted >= 2


# --- photographs


def test_a_photograph_from_every_kind_of_source(tmp_path):
    pixels = photo(0)
    save(pixels, tmp_path / "a.png")
    tensor = torch.from_numpy(pixels)
    fractions = pixels / np.float32(255)
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, tensor]
    sources += [tensor.permute(2, 0, 1), tensor.permute(2, 0, 1) / 255, fractions, fractions.transpose(2, 0, 1)]
    sources += [pixels.astype(int), pixels.astype(np.uint16) * 257, np.dstack([pixels, np.full(SIZE, 255, "u1")])]
    assert all(same(photograph(source), pixels) for source in sources)
    grey = np.repeat(pixels[..., :1], 3, 2)
    assert all(same(photograph(s), grey) for s in (pixels[..., 0], pixels[..., :1], tensor[None, ..., 0]))


def test_a_photograph_of_any_mode_is_what_a_viewer_shows(tmp_path):
    for mode in ("1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"):
        file = tmp_path / f"{mode}.{'tif' if mode in ('CMYK', 'YCbCr') else 'png'}"
        Image.fromarray(photo(0)).convert(mode).save(file)
        assert same(photograph(file), np.asarray(Image.open(file).convert("RGB")))


def test_many_bits_are_scaled_by_the_range_that_they_use(tmp_path):
    for bits in (8, 10, 12, 16):
        values = np.linspace(0, 2**bits - 1, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE)
        save(values, tmp_path / "a.png")
        grey = np.asarray(photograph(tmp_path / "a.png"))[..., 0]
        assert np.abs(grey - values / (2**bits - 1) * 255).max() < 1
        assert np.array_equal(grey, np.asarray(photograph(values))[..., 0])


def test_what_is_transparent_is_white(tmp_path):
    clear = np.dstack([photo(0), np.where(np.arange(SIZE[1]) < 20, 0, 255) * np.ones(SIZE, int)]).astype(np.uint8)
    save(clear, tmp_path / "a.png")
    shown = np.asarray(photograph(tmp_path / "a.png"))
    assert (shown[:, :20] == 255).all()
    assert np.array_equal(shown[:, 20:], photo(0)[:, 20:])


def test_a_rotation_that_exif_notes_is_done(tmp_path):
    pixels = photo(0)
    turned = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels), 7: np.rot90(pixels.transpose(1, 0, 2), 2), 8: np.rot90(pixels, -1),
    }  # fmt: skip
    for note, lying in turned.items():
        save_noted(lying, tmp_path / "a.png", note)
        assert same(photograph(tmp_path / "a.png"), pixels)


def test_the_overlay_colours_the_object_and_draws_its_outline():
    pixels = photo(0)
    over = np.asarray(checks.overlay(pixels, SQUARE))
    assert np.array_equal(over[SQUARE == 0], pixels[SQUARE == 0])
    assert (over[10, 15:40] == checks.MARK).all()
    assert np.abs(over[20, 25] - (0.55 * pixels[20, 25] + 0.45 * np.array(checks.MARK))).max() <= 0.5


# --- masks


@given(arrays.arrays(np.uint16, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 9)))
def test_ids_are_foreground_and_255_beside_them_is_void(blocks):
    """Any number of ids, in areas of three pixels or more: in every kind of array and file the same answer."""
    label = np.kron(blocks, np.ones((4, 4), int))
    label[label == 9] = 255
    size = label.shape[::-1]
    ids = np.unique(label[(label > 0) & (label < 255)])
    expected = np.where((label == 255) & (len(ids) > 0), 255, label > 0)
    if not (expected == 1).any():
        return
    assert np.array_equal(mask(label.astype(np.uint8), size), expected)
    assert np.array_equal(mask(torch.from_numpy(label), size), expected)
    palette = Image.fromarray(label.astype(np.uint8))
    palette.putpalette(images.voc_colours())
    assert np.array_equal(mask(palette, size), expected)
    assert np.array_equal(mask(np.repeat(label.astype(np.uint8)[..., None], 3, 2), size), expected)


def test_instance_masks_have_as_many_ids_as_they_like(tmp_path):
    for count in (2, 16, 17, 40, 300):
        label = np.zeros((120, 160), np.uint16)
        for i in range(count):
            label[6 * (i // 20) : 6 * (i // 20) + 5, 8 * (i % 20) : 8 * (i % 20) + 6] = i + 1
        save(label if count > 255 else label.astype(np.uint8), tmp_path / "m.png")
        assert np.array_equal(mask(tmp_path / "m.png", (160, 120)), label > 0)


def test_binary_masks_of_every_kind(tmp_path):
    tensor = torch.from_numpy(SQUARE)
    kinds = [SQUARE, SQUARE * 255, SQUARE * 7, SQUARE > 0, SQUARE.astype(np.int64), SQUARE.astype(np.float32)]
    kinds += [SQUARE.astype(np.uint16) * 65535, tensor, tensor[None].float()]
    for kind in kinds:
        for soft in (False, True) if kind is not kinds[2] else (False,):
            assert np.array_equal(mask(kind, WH, soft=soft), SQUARE)
    white = Image.fromarray(SQUARE * 255)
    cut_out = Image.fromarray(np.dstack([photo(0), SQUARE * 255]))
    for i, image in enumerate((white.convert("1"), white.convert("RGB"), white.convert("RGBA"), cut_out,
                               white.convert("RGB").quantize(2), white.convert("RGB").convert("P"))):  # fmt: skip
        image.save(tmp_path / f"{i}.png")
        assert np.array_equal(mask(tmp_path / f"{i}.png", WH), SQUARE)


SHADES = {
    "blurred": lambda white: white.filter(ImageFilter.GaussianBlur(2)),
    "three levels": lambda white: white.resize((25, 20), Image.Resampling.BOX),
    "faint": lambda white: white.filter(ImageFilter.GaussianBlur(1)).point(lambda v: v * 2 // 3),
    "a trimap": lambda white: Image.fromarray(np.maximum(np.asarray(white), SQUARE[::-1] * 128)),
}


@pytest.mark.parametrize("kind", SHADES)
def test_shades_are_refused_or_halved_with_soft(kind, tmp_path):
    shape = Image.new("L", WH)
    ImageDraw.Draw(shape).ellipse((11, 7, 36, 27), fill=255)
    image = SHADES[kind](shape)
    image.save(tmp_path / "m.png")
    fails("m.png", "--soft", call=lambda: mask(tmp_path / "m.png", image.size))
    assert np.array_equal(mask(tmp_path / "m.png", image.size, soft=True), np.asarray(image) > 127.5)
    image.convert("RGB").quantize(64).save(tmp_path / "p.png")
    fails("p.png", call=lambda: mask(tmp_path / "p.png", image.size))
    fractions = np.asarray(image) / 255
    fails("mask 2", "--soft", call=lambda: mask(fractions, image.size, name="mask 2"))
    assert np.array_equal(mask(fractions, image.size, soft=True), fractions > 0.5)


def test_a_jpeg_has_shades(tmp_path):
    Image.fromarray(SQUARE * 255).save(tmp_path / "m.jpg", quality=95)
    fails("m.jpg", "has shades", "--soft", call=lambda: mask(tmp_path / "m.jpg", WH))
    assert np.array_equal(mask(tmp_path / "m.jpg", WH, soft=True), SQUARE)
    ids = np.kron(np.eye(5, dtype=np.uint8) * 7, np.ones((8, 8), np.uint8))  # blocks that JPEG happens to leave alone
    Image.fromarray(ids).save(tmp_path / "m.jpg", quality=100)
    assert np.unique(np.asarray(Image.open(tmp_path / "m.jpg"))).tolist() == [0, 7]
    fails("m.jpg", "has shades", call=lambda: mask(tmp_path / "m.jpg", (40, 40)))


# --- LabelMe


def test_polygons_fill_what_matplotlib_calls_inside(tmp_path):
    corners = [[[10.0, 5.0], [45.0, 10.0], [30.0, 36.0]], [[3.0, 20.0], [20.0, 20.0], [12.0, 39.0]]]
    cells = np.stack(np.meshgrid(np.arange(50), np.arange(40)), -1).reshape(-1, 2)
    inside = sum(Outline([*c, c[0]]).contains_points(cells) for c in corners).reshape(40, 50) > 0
    both = labelme(tmp_path / "m.json", [("cup", "polygon", c) for c in corners])
    both.write_bytes(b"\xef\xbb\xbf" + both.read_bytes())  # as Windows' editors begin a file
    marked = mask(both, WH) == 1
    assert (marked & inside).sum() / (marked | inside).sum() > 0.9  # they differ in pixels on the border


def test_rectangles_circles_and_other_sizes(tmp_path):
    box = labelme(tmp_path / "m.json", [("cup", "rectangle", [[40, 30], [10, 10]])])
    assert mask(box, WH).sum() == 31 * 21
    assert mask(box, (100, 80)).sum() == 61 * 41
    round_ = labelme(tmp_path / "m.json", [("cup", "circle", [[25, 20], [35, 20]])])
    assert abs(mask(round_, WH).sum() - np.pi * 10.5**2) < 10


@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_of_a_mask_is_one_mask(channels):
    marked = np.zeros((*SIZE, channels), np.uint8)
    marked[:9] = 255
    (one,) = images.several(marked, 2)
    assert mask(one, WH).sum() == 9 * SIZE[1]
    assert len(images.several(np.stack([marked] * 2), 2)) == len(images.several(np.zeros((2, *SIZE)), 2)) == 2


def test_one_label_of_several(tmp_path):
    shapes = [("cup", "rectangle", [[0, 0], [9, 9]]), ("table", "rectangle", [[20, 20], [29, 29]])]
    file = labelme(tmp_path / "m.json", [*shapes, ("cup", "rectangle", [[40, 0], [49, 9]])])
    fails("the labels cup, table", "--label", call=lambda: mask(file, WH))
    fails("the labels cup, table", call=lambda: mask(file, WH, label="fork"))
    assert mask(file, WH, label="cup").sum() == 200
    assert mask(file, WH, label="table")[20:30, 20:30].all()
    fails("mask", "LabelMe", call=lambda: mask(SQUARE, WH, label="cup"))
