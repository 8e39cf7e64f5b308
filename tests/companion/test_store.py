"""Run ids, and the store: what is written is what comes back, and what is not whole is named."""

import gzip
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from invented import BENCHMARK, TINY

from dpnet.companion import presets, store
from dpnet.companion.store import COUNTS, Store
from dpnet.config import BENCHMARKS, Evaluation, Variant, fingerprint
from dpnet.episodes import Episode
from dpnet.io import DPNetError, read_json, write

RUN = TINY.run(Variant(), 0, 0)
EPISODES = [Episode(1, 0, (1,)), Episode(1, 1, (2,)), Episode(2, 2, (0,))]
TABLE = np.arange(18).reshape(3, 2, 3)


# ---- run ids


def test_a_runs_id_changes_with_what_changes_its_result() -> None:
    changes = [{"fold": 1}, {"seed": 1}, {"benchmark": "pascal"}, {"variant": Variant(lambda_1=0.5)}]
    changes += [{"training": replace(RUN.training, steps=31)}, {"recipe": replace(RUN.recipe, diversity=0.5)}]
    assert len({RUN.id, *(replace(RUN, **change).id for change in changes)}) == 1 + len(changes)
    assert replace(RUN).id == RUN.id


def test_a_new_reading_at_its_default_renames_nothing() -> None:
    @dataclass(frozen=True)
    class Later(Variant):
        kind = "Variant"
        reading: str = "as before"

    assert fingerprint(Later()) == fingerprint(Variant())
    assert fingerprint(Later(reading="new")) != fingerprint(Variant())


def test_slugs_are_readable() -> None:
    assert Variant().slug == "pim+msf+ccm"
    assert Variant(pim=False, msf=False, pseudo="none").slug == "base"
    assert Variant(lambda_1=0.5, dis_over="C'").slug == "pim+msf+ccm-lambda_1=0.5-dis_over=Cp"
    assert Evaluation(1000).id == "main-right-1shot-beta0.2-x1-1000ep"
    assert len({e.id for e in (Evaluation(10), Evaluation(10, beta=0.3), Evaluation(10, scales=(0.7, 1.0)))}) == 3


def test_every_preset_is_there() -> None:
    for benchmark, preset in product(BENCHMARKS, presets.PRESETS):
        setting = presets.resolve(benchmark, preset)
        assert setting.training.size % 8 == 1  # a grid whose cells lie on pixels 0, 8, ...
        assert setting.episodes >= 40


def test_the_papers_setting() -> None:
    paper = presets.resolve("pascal", "paper").training
    assert (paper.size, paper.learning_rate, paper.decay, paper.batch) == (321, 0.0025, 0.0, 4)
    assert (paper.backbone, paper.width, paper.dilations) == ("resnet50", 256, (6, 12, 18))


# ---- the store


def finish(store: Store, **tables: np.ndarray) -> Path:
    folder = store.folder(RUN) if store.folder(RUN).exists() else store.begin(RUN)
    store.finish(RUN, tables, dict.fromkeys(tables, EPISODES), BENCHMARK)
    return folder


def test_counts_come_back_and_the_order_of_finishing_leaves_no_trace(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    finish(one, a=TABLE, b=TABLE + 1)
    assert one.missing(RUN, ["c", "a"]) == ["c"]
    assert one.missing(RUN, ["a"], data="of other data") == ["a"]
    finish(one, c=TABLE)
    finish(other, c=TABLE, b=TABLE + 1, a=TABLE)
    for file in ("metrics.json", COUNTS, "run.json"):
        assert (one.folder(RUN) / file).read_bytes() == (other.folder(RUN) / file).read_bytes()
    counts, classes = one.counts(RUN, "b")
    assert counts.dtype == np.int64
    assert np.array_equal(counts, TABLE + 1)
    assert classes.tolist() == [1, 1, 2]
    assert {file.name for file in one.begin(RUN).iterdir()} == {"run.json"}  # a new training has no scores yet


CORRUPT = {
    "truncated": ("metrics.json", lambda whole: whole[:-20]),
    "not json": ("metrics.json", lambda _: b"\xff\x00"),
    "another run's": ("metrics.json", lambda _: b'{"id": "x", "evaluations": {}}'),
    "counts truncated": (COUNTS, lambda whole: whole[:-8]),
    "counts gone": (COUNTS, None),
}


def test_a_file_that_may_not_be_read_is_not_called_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    for read in (read_json, store._read):
        with pytest.raises(PermissionError):
            read(tmp_path / "counts.npz")


@pytest.mark.parametrize("kind", CORRUPT)
def test_corrupt_files_are_named_with_the_way_out(kind: str, tmp_path: Path) -> None:
    name, spoil = CORRUPT[kind]
    folder = finish(Store(tmp_path), a=TABLE)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if spoil:
        (folder / name).write_bytes(spoil(content))
    message = rf"{re.escape(name)}: corrupt .* remove the folder {re.escape(str(folder))}"
    with pytest.raises(DPNetError, match=message):
        Store(tmp_path).counts(RUN, "a")


def test_what_queries_show_is_stored_once_and_made_again_where_it_is_lost(tmp_path: Path) -> None:
    store, other = Store(tmp_path), replace(RUN, seed=7)
    finish(store, a=TABLE)
    store.begin(other)
    store.finish(other, {"b": TABLE[:, ::-1]}, {"b": EPISODES}, BENCHMARK)  # other predictions, the same list
    (file,) = (tmp_path / "targets").iterdir()
    assert np.array_equal(store.counts(other, "b")[0], TABLE[:, ::-1])
    content = file.read_bytes()
    file.write_bytes(content[:-8])
    with pytest.raises(DPNetError, match=rf"{re.escape(file.name)}: corrupt"):
        store.counts(RUN, "a")
    file.unlink()
    assert (store.missing(RUN, ["a"]), store.missing(other, ["b"])) == (["a"], ["b"])
    finish(store, a=TABLE)
    assert file.read_bytes() == content
    assert (store.missing(RUN, ["a"]), store.missing(other, ["b"])) == ([], [])


@pytest.mark.parametrize("spoil", [lambda whole: whole[:-9], lambda whole: whole[:20] + b"x" * 9, lambda _: b"[]"])
def test_a_list_of_episodes_is_compressed_alike_and_read_whole(
    spoil: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    one, text = Store(tmp_path), '[\n[1, "q", ["s"], 2, ["w"]]\n]\n'
    for _ in range(2):
        one.write_episodes(0, 0, 1, 1, text)
        (file,) = (tmp_path / "episodes").iterdir()
        content = file.read_bytes()
        assert content == gzip.compress(text.encode(), mtime=0)  # the same bytes at any hour
    assert gzip.decompress(content).decode() == text
    assert one.episodes(0, 0, 1, 1) == [[1, "q", ["s"], 2, ["w"]]]
    file.write_bytes(spoil(content))
    with pytest.raises(DPNetError, match=rf"{re.escape(file.name)}: corrupt .* remove the folder"):
        one.episodes(0, 0, 1, 1)


def test_metrics_are_written_last_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[str] = []
    whole = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (replaced.append(Path(b).name), whole(a, b)))
    folder = finish(Store(tmp_path), a=TABLE)
    assert replaced[-1] == "metrics.json"
    monkeypatch.setattr(os, "replace", mock.Mock(side_effect=OSError(28, "No space left on device")))
    before = (folder / "metrics.json").read_bytes()
    with pytest.raises(DPNetError, match="No space left on device"):
        write(folder / "metrics.json", b"new")
    write(folder / "metrics.json", before)  # the same bytes are not written again
    assert (folder / "metrics.json").read_bytes() == before
    assert not list(folder.glob(".*.part"))


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a", b"x")
    with pytest.raises(DPNetError, match=r"cannot be written.*RESULTS="):
        write(tmp_path / "a" / "inside", b"x")
