"""The three walks of docs/data.md, command by command: from files in each form to Table 3 and a prediction."""

import re
import shlex
from glob import glob
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from samples import NAMES, drawn, labelmap, make_own, make_own_coco, make_own_voc, photo, prepare_folder, save

from dpnet import cli
from dpnet.data import SPLITS, load
from dpnet.data.index import png

SIDE = 65, 65  # what `tiny` sees
DOCUMENT = (Path(__file__).parents[2] / "docs/data.md").read_text()
*FORMS, AFTERWARDS = re.findall(r"^(?:From|Then).*:\n```\n(dpnet [^`]+)```", DOCUMENT, re.MULTILINE)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The same images in each form are the same benchmark: the first walk trains for all."""
    return tmp_path_factory.mktemp("results")


def write_export(command, labels, splits):
    """The folder `export` that a command reads, as the document's trees have it."""
    if "--voc" in command:
        voc = make_own_voc(Path("export"), labels, cvat=True)
        (voc / "labelmap.txt").write_text(labelmap(in_order=True))
        for split, numbers in splits.items():
            (voc / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"a{i}\n" for i in numbers))
    if "--coco" in command:
        for folder, numbers in zip(("train", "valid"), splits.values(), strict=True):
            of_split = [labels[i] for i in numbers]
            make_own_coco(Path("export") / folder, of_split, "_annotations.coco.json", numbers)


def call(command, capfd):
    words = [glob(word)[0] if "*" in word else word for word in shlex.split(command)]
    assert words[0] == "dpnet"
    code, (out, err) = cli.main(words[1:]), capfd.readouterr()
    assert code == 0, f"{command}: {err}"
    return out


@pytest.mark.parametrize("form", FORMS, ids=lambda command: shlex.split(command)[3])
def test_a_walk_goes_from_files_to_table_3_and_a_prediction(form, results, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPNET_RESULTS", "")
    labels = [drawn(i, SIDE) for i in range(12)]
    (make_own(tmp_path, labels) / "images").rename("photos")
    for i, label in enumerate(labels):  # as those are that are made of the other forms
        Path(f"labels/a{i}.png").write_bytes(png(label))
    plain = prepare_folder(Path("photos"), Path("labels"), Path("names.txt"), Path("plain"), size=65)
    splits = {split: [int(e.id[1:]) for e in plain.entries if e.split == split] for split in SPLITS}
    write_export(form, labels, splits)
    save(photo(1, SIDE), Path("a.jpg"))
    save(photo(2, SIDE), Path("b.jpg"))
    save((labels[1] == 1).astype(np.uint8) * 255, Path("a.png"))
    Path("myresults").symlink_to(results)
    trained = any(results.iterdir())

    out = call(form, capfd)
    assert "9 images to train on, 3 to test; folds: cup, fork; knife, spoon\n" in out
    assert "folder: 12 images of 4 classes are ready\n" in out
    assert load("folder", Path("mydata")).digest == plain.digest
    check, reproduce, predict = AFTERWARDS.splitlines()
    out = call(check, capfd)
    assert all(name in out for name in NAMES)
    assert Path("mydata/folder/contact_sheet.png").exists()
    out = call(reproduce, capfd)
    assert ("all 6 runs are there; nothing to train" if trained else "6 of 6 runs to train") in out
    assert "Table 3. Effect of each component" in out
    table = pd.read_csv(results / "folder-tiny/table3.csv")
    assert table[table.metric == "canet"].query("fold != 'mean'").miou.between(0, 100).sum() == 8
    assert "of the query is foreground" in call(predict, capfd)
    with Image.open("b.png") as answer:
        assert (answer.mode, answer.size) == ("P", SIDE)
        assert set(np.unique(answer)) <= {0, 1}
    with Image.open("b-overlay.png") as overlay:
        assert overlay.size == SIDE
