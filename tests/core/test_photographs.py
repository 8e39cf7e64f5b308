"""A fold of a few photographs of VOC 2012, from its own layout to scores and a labelled folder."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dpnet import cli
from dpnet.data import index, load, pascal

VOC = Path(__file__).parents[3] / "shared" / "data" / "voc"
EACH = {"train": 4, "val": 3}  # photographs of each class


@pytest.mark.skipif(not VOC.is_dir(), reason=f"no photographs of VOC 2012 at {VOC}: nothing is trained on real ones")
def test_a_fold_is_trained_and_labels_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, results = tmp_path / "data", tmp_path / "results"
    data.mkdir()
    (data / "VOCdevkit").symlink_to(VOC / "VOCdevkit")
    amounts: dict[tuple[str, int], int] = {}
    few = []
    for key, split, _, label in pascal.items(data / "VOCdevkit/VOC2012", "pascal-part", ""):
        if min(amounts.get((split, c), 0) for c in range(1, 21)) == EACH[split]:
            continue
        mask = index.decode(label, mask=True)
        shows = [c for c, n in index.count(mask).items() if c < 21 and n >= index.least(*mask.shape)]
        if any(amounts.get((split, c), 0) < EACH[split] for c in shows):
            few.append(f"{split} {key[:4]} {int(key[5:])}\n")
            amounts |= {(split, c): amounts.get((split, c), 0) + 1 for c in shows}
    monkeypatch.setattr(pascal, "PART", tmp_path / "few.txt")
    pascal.PART.write_text("".join(few))
    where = ["--benchmark", "pascal-part", "--preset", "tiny", "--data", str(data), "--results", str(results)]
    assert cli.main(["train", "table3", "--variant", "pim+msf+ccm", "--fold", "1", *where]) == 0
    assert "main-wrong-1shot" in capsys.readouterr().out
    # Its head labels photographs from one of a class that it never saw.
    benchmark = load("pascal-part", data)
    assert all(len(benchmark.images_of(c, s)) >= n for s, n in EACH.items() for c in range(1, 21))
    cat = benchmark.classes.index("cat") + 1
    first, *others = (benchmark.entries[i] for i in benchmark.images_of(cat, "val"))
    for name, entries in (("photos", others), ("supports/photos", [first])):
        (tmp_path / name).mkdir(parents=True)
        for entry in entries:
            (tmp_path / name / f"{entry.id}.jpg").symlink_to(benchmark.path(entry.image))
    (tmp_path / "supports/labels").mkdir()
    Image.fromarray((benchmark.label(first) == cat).astype(np.uint8)).save(
        tmp_path / f"supports/labels/{first.id}.png"
    )
    (tmp_path / "supports/names.txt").write_text("cat")
    (run,) = results.glob("pascal-part-tiny/runs/fold1-*-pim+msf+ccm-*")
    asked = [tmp_path / "photos", "--support", tmp_path / "supports", "--out", tmp_path / "out", "--checkpoint", run]
    assert cli.main(["label", *map(str, asked), "--threshold", "0.1"]) == 0
    table = pd.read_csv(tmp_path / "out" / "table.csv").set_index("class")
    assert 1 <= table.loc["cat", "images"] <= len(others)
    stored = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert len(stored["annotations"]) == table.loc["cat", "images"]
    for entry in others:
        mask = np.array(Image.open(tmp_path / f"out/SegmentationClass/{entry.id}.png"))
        assert mask.shape == entry.size
        assert {*np.unique(mask)} <= {0, 1}
