"""From a few labelled pictures to a labelled folder: what is written is read back, and a killed run goes on."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO

from dpnet import cli, heads, label, predict, train
from dpnet.companion import presets
from dpnet.config import Run, Variant
from dpnet.data import forms, images, index
from dpnet.predict import Segmenter

sys.path.append(str(Path(__file__).parents[1] / "data"))
from samples import NAMES, change_json, contents, drawn, make_own_coco, make_own_voc, photo, save

SIZES = presets.resolve("shapes", "tiny")
RUN = Run("shapes", SIZES.recipe, SIZES.training, 0, 0, Variant())


@pytest.fixture(autouse=True)
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random head in the place of the one that comes with the package."""
    file = tmp_path / "package" / "head.safetensors"
    heads.save(file, train.build_head(RUN, 152), {"kind": "Run", **dataclasses.asdict(RUN)})
    monkeypatch.setattr(heads, "HEAD", file)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(5):
        save(photo(100 + i, (60 + i, 80)), tmp_path / "photos" / ("more" if i > 3 else "") / f"p{i}.jpg")
    return tmp_path / "photos"


def pngs(where: Path) -> Path:
    """Form a, of two pictures."""
    for i in range(2):
        save(photo(i), where / "photos" / f"a{i}.jpg")
        save(drawn(i), where / "labels" / f"a{i}.png")
    (where / "names.txt").write_text("\n".join(NAMES))
    return where


def run(*words: object) -> int:
    return cli.main(["label", *map(str, words)])


def test_the_packaged_head_answers_where_no_other_is_named(packaged: Path, tmp_path: Path) -> None:
    one, another = predict.Segmenter(), predict.Segmenter(packaged)
    mask = drawn(0) == 1
    with pytest.raises(heads.DPNetError, match=r"no class yet: call support\(images, masks\) first"):
        one.segment(photo(1))
    for of in (one, another):
        of.support(photo(0), mask)
    np.testing.assert_array_equal(one.probabilities(photo(1)), another.probabilities(photo(1)))
    packaged.unlink()
    with pytest.raises(heads.DPNetError, match=r"head\.safetensors: missing: give a folder"):
        predict.Segmenter()


def test_classes_together_are_each_alone_and_the_most_probable_one_counts() -> None:
    masks = [drawn(0) == c for c in (1, 2, 3)]
    together, query = Segmenter(), photo(9, (70, 90))
    for mask in masks:
        together.support(photo(0), mask)
    every = together.probabilities(query)
    assert every.shape == (3, 70, 90)
    for probability, mask in zip(every, masks, strict=True):
        np.testing.assert_allclose(predict.segment(query, photo(0), mask)[1], probability, atol=1e-5)
    threshold = float(np.median(every.max(0)))
    answer, highest = together.segment(query, threshold)
    for c in range(4):
        expected = (every.argmax(0) == c - 1) & (every.max(0) > threshold) if c else every.max(0) <= threshold
        np.testing.assert_array_equal(answer == c, expected)
    np.testing.assert_array_equal(highest, every.max(0))
    scaled = Segmenter(scales=(1.0, 1.5)).support(photo(0), masks[0]).probabilities(query)
    larger = Segmenter(scales=(1.5,)).support(photo(0), masks[0]).probabilities(query)
    np.testing.assert_allclose(scaled[0], (every[0] + larger[0]) / 2, atol=1e-5)


def test_supports_are_the_same_in_every_form(tmp_path: Path) -> None:
    labels = [drawn(i) for i in range(2)]
    voc, cvat = (make_own_voc(tmp_path / f"voc{coloured}", labels, coloured) for coloured in (False, True))
    coco = make_own_coco(tmp_path / "coco", labels)
    change_json(coco, lambda content: content["categories"].append({"id": 99, "name": "not drawn"}))
    exported = tmp_path / "export" / "annotations" / "instances_default.json"  # as CVAT lays it out
    exported.parent.mkdir(parents=True)
    shutil.copy(coco, exported)
    shutil.copytree(coco.parent, exported.parents[1] / "images" / "default")
    for source in (pngs(tmp_path / "pngs"), voc, cvat, coco, exported):
        pairs = forms.supports(source)
        assert sorted(pairs) == sorted(NAMES)
        for c, name in enumerate(NAMES, 1):
            for (image, mask), i in zip(pairs[name], range(2), strict=True):
                assert image.shape == (*mask.shape, 3)
                np.testing.assert_array_equal(mask == 1, drawn(i) == c)
                np.testing.assert_array_equal(mask == 255, drawn(i) == 255)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools 2.0.11 under numpy 2
def test_a_folder_is_labelled_and_read_back(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supports, out = pngs(tmp_path / "supports"), tmp_path / "out"
    assert run(photos, "--support", supports, "--out", out, "--threshold", 0.3) == 0
    assert "the head that comes with the package" in capsys.readouterr().out
    segmenter = Segmenter()
    for pairs in forms.supports(supports).values():
        segmenter.support([image for image, _ in pairs], [mask for _, mask in pairs])
    keys = ["more/p4", "p0", "p1", "p2", "p3"]
    coco = COCO(str(out / "instances.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(NAMES)
    areas, total, sums = dict.fromkeys(NAMES, 0), 0, dict.fromkeys(NAMES, 0.0)
    for number, key in enumerate(keys, 1):
        expected, probability = segmenter.segment(photos / f"{key}.jpg", 0.3)
        np.testing.assert_array_equal(index.decode(out / "SegmentationClass" / f"{key}.png", mask=True), expected)
        back = np.zeros_like(expected)
        for one in coco.loadAnns(coco.getAnnIds([number])):
            back[coco.annToMask(one) == 1] = one["category_id"]
        np.testing.assert_array_equal(back, expected)
        assert (photos / coco.imgs[number]["file_name"]).is_file()
        total += expected.size
        for c, name in enumerate(NAMES, 1):
            areas[name] += int((expected == c).sum())
            sums[name] += float(probability[expected == c].sum())
    table = pd.read_csv(out / "table.csv").set_index("class")
    assert table["share of area"].to_dict() == pytest.approx({n: a / total for n, a in areas.items()}, abs=1e-4)
    means = {name: sums[name] / area for name, area in areas.items() if area}
    assert table["mean confidence"].dropna().to_dict() == pytest.approx(means, abs=1e-3)
    assert images.photograph(out / "contact_sheet.png").width == 1200
    # VOC's layout is own data again.
    words = ["prepare", "folder", "--voc", str(out), "--root", str(tmp_path / "data"), "--preset", "tiny"]
    cli.main(words)
    assert "SegmentationClass" not in capsys.readouterr().err


def test_killed_it_goes_on_to_the_same_end(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [photos, "--support", pngs(tmp_path / "supports"), "--out"]
    assert run(*words, tmp_path / "whole") == 0
    segment, asked = Segmenter.segment, []

    def dies(self: Segmenter, query: Path, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        asked.append(query)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return segment(self, query, threshold)

    monkeypatch.setattr(label.index.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(Segmenter, "segment", dies)
    assert run(*words, tmp_path / "again") == 130
    assert not (tmp_path / "again" / "table.csv").exists()
    assert run(*words, tmp_path / "again") == 0
    assert len(asked) == 6  # each of five once, and the one that was killed again

    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    capsys.readouterr()
    assert run(*words, tmp_path / "whole", "--threshold", 0.9) == 1
    others = r"its labels are of other photographs or supports, or were made with another head or threshold: choose"
    assert re.search(others, capsys.readouterr().err)
    save(photo(7, (50, 70)), tmp_path / "others" / "p0.jpg")  # of a name that is labelled already
    assert run(tmp_path / "others", *words[1:], tmp_path / "whole") == 1
    assert re.search(others, capsys.readouterr().err)
    (tmp_path / "whole" / "settings.json").unlink()  # somebody's own labels
    assert run(*words, tmp_path / "whole") == 1
    assert re.search(others, capsys.readouterr().err)


def test_bad_input_is_one_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supports, plain = pngs(tmp_path / "supports"), tmp_path / "plain"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    save(photo(0), plain / "a.jpg")
    speck = np.zeros((60, 80), np.uint8)
    speck[0, 0] = 1
    save(photo(0, speck.shape), tmp_path / "specks" / "photos" / "a.png")
    save(speck, tmp_path / "specks" / "labels" / "a.png")
    (tmp_path / "specks" / "names.txt").write_text("cup")
    broken = tmp_path / "broken"
    save(photo(0), broken / "a.jpg")
    (broken / "b.jpg").write_bytes((broken / "a.jpg").read_bytes()[:700])
    for of, by, out, message in (
        (tmp_path / "empty", supports, "o", r"empty: no photograph in it"),
        (tmp_path / "no", supports, "o", r"no: no such folder"),
        (photos, plain, "o", r"plain: holds a\.jpg, and no masks that can be read: expected photos, labels"),
        (photos, tmp_path / "specks", "o", r"specks: no picture shows enough of cup"),
        (photos, supports, "file/o", r"settings\.json: cannot be written .*--out"),
        (photos, tmp_path / "no", "o", r"no: no such file or folder"),
        (photos, supports, "photos/more/o", r"o: lies in the folder of the photographs: choose another with --out"),
        (broken, supports, "o", r"b\.jpg: cannot be decoded"),
    ):
        assert run(of, "--support", by, "--out", tmp_path / out) == 1
        line = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert len(line) == 1
        assert re.search(message, line[0])
    assert json.loads((tmp_path / "o" / "settings.json").read_text())["threshold"] == 0.5
    assert [file.name for file in (tmp_path / "o" / "SegmentationClass").iterdir()] == [
        "a.png"
    ]  # the others are done


@pytest.mark.parametrize("threshold", ["nan", "50", "-0.1", "half"])
def test_a_threshold_is_a_share(threshold: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("photos", "--support", "supports", "--out", "out", "--threshold", threshold)
    assert f"{threshold!r} is not a number from 0 to 1" in capsys.readouterr().err
