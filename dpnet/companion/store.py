"""Runs on disk. A folder with `metrics.json` is finished; anything less is begun again, or resumed."""

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from dpnet import episodes
from dpnet.config import Baselines, Run, kind_of
from dpnet.data.index import Benchmark
from dpnet.episodes import Episode
from dpnet.io import DPNetError, corrupt, read_json, to_json, write
from dpnet.metrics import METRICS, mean_iou

Record = Run | Baselines
COUNTS = "counts.npz"
Counts = dict[str, np.ndarray]  # evaluation (or baseline) -> int64 [E, 2, 3]


class Store:
    """The results of one benchmark at one preset; `root` is `results/<benchmark>-<preset>`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, record: Record) -> Path:
        """Where a run, or baselines, are stored."""
        return self.root / "runs" / record.id

    def missing(self, record: Record, wanted: list[str], data: str | None = None) -> list[str]:
        """Which of the wanted evaluations are still to be made; those of other data than `data`, if given, count."""
        evaluations = self.metrics(record)["evaluations"]
        there = {n: about for n, about in evaluations.items() if self._target(about["target"]).exists()}
        return [n for n in wanted if n not in there or data not in (None, there[n].get("data", data))]

    def metrics(self, record: Record) -> dict[str, Any]:
        """What a run's `metrics.json` says; without evaluations if there is none."""
        file = self.folder(record) / "metrics.json"
        if not file.exists():
            return {"evaluations": {}}
        metrics = read_json(file)
        if not isinstance(metrics, dict) or metrics.get("id") != record.id or "evaluations" not in metrics:
            raise corrupt(file, "it is not this run's")
        return metrics

    def counts(self, record: Record, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The counts of one evaluation, int64 [E, 2, 3], and the class of each episode, int64 [E]."""
        entry = self.metrics(record)["evaluations"].get(name)
        if entry is None:
            raise DPNetError(f"{self.folder(record)}: no evaluation {name}: run `make reproduce-…` again")
        file = self.folder(record) / COUNTS
        archives = _read(self._target(entry["target"])), _read(file, name)
        target, predicted = (array.astype(np.int64) for archive in archives for array in archive.values())
        if _digest(target, predicted) != entry["counts"]:
            raise corrupt(file, "its content is not what metrics.json recorded")
        return np.stack([target[:, 1:] - predicted, predicted], 1), target[:, 0]

    def _target(self, digest: str) -> Path:
        """Class and pixels of each query of a list, int [E, 4]: stored once for all that were scored on it."""
        return self.root / "targets" / f"{digest}.npz"

    def write_episodes(self, fold: int, seed: int, shot: int, count: int, text: str) -> None:
        """Store an episode list, as JSON from `episodes.to_json`."""
        write(self.list_file(fold, seed, shot, count), gzip.compress(text.encode(), mtime=0))

    def episodes(self, fold: int, seed: int, shot: int, count: int) -> list[list[Any]]:
        """An episode list by image ids: class, query, supports, wrong class, wrong supports."""
        return read_json(self.list_file(fold, seed, shot, count))

    def list_file(self, fold: int, seed: int, shot: int, count: int) -> Path:
        """Where an episode list is stored."""
        return self.root / "episodes" / f"fold{fold}-seed{seed}-{shot}shot-{count}.json.gz"

    def history(self, record: Record) -> list[list[float]]:
        """A trained run's loss curve: rows of step, L_seg, L_aux, L_dis, averaged since the row before."""
        return read_json(self.folder(record) / "history.json")

    def clean(self, records: Sequence[Record]) -> None:
        """Remove what a process that was killed in the middle of writing some runs left."""
        for part in (part for record in records for part in self.folder(record).rglob(".*.part")):
            part.unlink(missing_ok=True)

    def begin(self, record: Record) -> Path:
        """Make a run's folder, with its configuration; scores of an earlier training go, `metrics.json` first."""
        folder = self.folder(record)
        for name in ("metrics.json", "examples.npz", COUNTS):
            (folder / name).unlink(missing_ok=True)
        write(folder / "run.json", to_json({"id": record.id, "kind": kind_of(record), **asdict(record)}))
        return folder

    def finish(
        self, record: Record, counts: Counts, lists: Mapping[str, Sequence[Episode]], benchmark: Benchmark
    ) -> None:
        """Store counts of evaluations, then `metrics.json`, last and atomically; `lists` are their episodes."""
        metrics = {"id": record.id, **self.metrics(record)}
        file = self.folder(record) / COUNTS
        arrays = _read(file) if metrics["evaluations"] else {}
        for name, values in counts.items():
            classes = np.array([e.class_id for e in lists[name]], np.int64)
            target, predicted = np.concatenate([classes[:, None], values.sum(1)], 1), values[:, 1]
            arrays[name] = predicted
            write(self._target(_digest(target)), _compressed(target=target))
            scores = {str(m): round(mean_iou(values, classes, m), 4) if len(values) else None for m in METRICS}
            metrics["evaluations"][name] = {
                "counts": _digest(target, predicted),
                "target": _digest(target),
                "episodes": hashlib.sha256(episodes.to_json(benchmark, lists[name]).encode()).hexdigest()[:16],
                "data": benchmark.digest[:16],
                **scores,
            }
        write(file, _compressed(**arrays))
        write(self.folder(record) / "metrics.json", to_json(metrics))


def _read(file: Path, *names: str) -> Counts:
    """Arrays of an archive, in the order of their names; all of them if none is named."""
    try:
        with np.load(BytesIO(file.read_bytes())) as archive:
            return {name: archive[name] for name in names or archive.files}
    except (PermissionError, MemoryError):  # it may be whole
        raise
    except Exception as error:  # whatever a broken archive makes numpy, zipfile and zlib raise
        raise corrupt(file, " ".join(str(error).split()) or type(error).__name__) from error


def _compressed(**arrays: np.ndarray) -> bytes:
    # In int32 where it holds them: half the bytes.
    small = {n: a.astype(np.int32) if a.max(initial=0) < 2**31 else a for n, a in sorted(arrays.items())}
    np.savez_compressed(buffer := BytesIO(), **small)  # type: ignore[arg-type]
    return buffer.getvalue()


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(a.astype("<i8").tobytes() for a in arrays)).hexdigest()[:16]
