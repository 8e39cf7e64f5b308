"""Counts on disk -> the paper's tables beside ours, with intervals; nothing here trains or needs the data."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dpnet import io
from dpnet.companion import experiments, paper, presets
from dpnet.companion.experiments import PAPER_METRIC, Experiment, Row
from dpnet.companion.store import Store
from dpnet.config import Baselines, Evaluation, Run, Variant
from dpnet.io import DPNetError, read_json
from dpnet.metrics import METRICS, Metric, bootstrap, draws, intersection_union, interval, mean_iou, queries

MEAN = "mean"
YARDSTICKS = {
    "prototype": "training-free prototype",
    "prototype-wrong": "training-free prototype, wrong support",
    "objects": "all labelled objects",
    "ceiling": "ground truth at feature resolution",
}


@dataclass(frozen=True)
class Scored:
    """What is scored: an evaluation of a variant, or (variant None) a yardstick by its name."""

    variant: Variant | None
    evaluation: str
    shot: int = 1
    diversity: float | None = None


class Samples(NamedTuple):
    """A value and its bootstrap resamples [R]; those of one fold draw the same query images."""

    value: float
    resamples: np.ndarray


def combined(parts: Iterable[tuple[float, Samples | None]]) -> Samples | None:
    """A weighted sum of paired samples: 1 and -1 give a paired difference; None if any part is missing."""
    value, resamples = 0.0, np.zeros(1)
    for weight, part in parts:
        if part is None:
            return None
        value, resamples = value + weight * part.value, resamples + weight * part.resamples
    return Samples(value, resamples)


class Reader:
    """Reads one benchmark's results at one preset.

    Arguments:
        benchmark: its name.
        preset: its sizes.
        results: the folder of all results; None: the project's.
        seeds: how many, from 0, or which; None: as many as the full model was scored with on all folds.

    Raises:
        DPNetError: nothing is there.
    """

    def __init__(
        self, benchmark: str, preset: str, results: str | Path | None = None, seeds: int | range | None = None
    ) -> None:
        self.setting = presets.resolve(benchmark, preset)
        self.benchmark, self.preset = benchmark, preset
        self.store = Store(Path(results or io.places().results) / f"{benchmark}-{preset}")
        self._seeds = range(seeds) if isinstance(seeds, int) else seeds
        self._cache: dict[tuple[Scored, int | str, Metric], Samples | None] = {}

    @cached_property
    def seeds(self) -> range:
        """Those that are read; at least one, so that what is not run is said of a seed."""
        if self._seeds is not None:
            return self._seeds
        way, seed = Evaluation(self.setting.episodes).id, 0
        full = Scored(Variant(), way)
        while not any(self.store.missing(self.thing(full, f, seed), [way]) for f in self.folds):
            seed += 1
        return range(max(1, seed))

    def of_seed(self, seed: int) -> "Reader":
        """The same results, of one seed alone."""
        return Reader(self.benchmark, self.preset, self.store.root.parent, range(seed, seed + 1))

    @cached_property
    def about(self) -> dict[str, Any]:
        """What `benchmark.json` says: class names, folds, tested classes, numbers of images."""
        file = self.store.root / "benchmark.json"
        if not file.exists():
            raise DPNetError(
                f"no results of {self.benchmark} at {self.preset} ({file.parent.name}/ is not in the results "
                f"folder): run `make reproduce-table3 BENCHMARK={self.benchmark} PRESET={self.preset}`"
            )
        return read_json(file)

    @property
    def folds(self) -> list[int]:
        """The folds that the benchmark tests."""
        return [f for f, classes in enumerate(self.about["tested"]) if classes]

    @property
    def columns(self) -> list[int | str]:
        """The folds, then their mean."""
        return [*self.folds, MEAN]

    def comparable(self, experiment: Experiment) -> bool:
        """Whether absolute values may be held against the paper's: its data, at its own schedule."""
        return self.preset == "paper" and self.benchmark == ("coco" if experiment.table == 2 else "pascal")

    def thing(self, scored: Scored, fold: int, seed: int) -> Run | Baselines:
        """Whose counts they are."""
        setting = self.setting.at(scored.diversity)
        if scored.variant is None:
            return setting.baselines(fold, seed, scored.shot)
        return setting.run(scored.variant, fold, seed)

    def of_row(self, row: Row, support: Literal["right", "wrong"] = "right") -> Scored:
        """What a table's row is, with right or wrong supports."""
        return Scored(row.variant, row.evaluation(self.setting.episodes, support).id, row.shot, row.diversity)

    def yardstick(self, name: str, row: Row) -> Scored:
        """A yardstick on the same episodes as a row."""
        return Scored(None, name, row.shot, row.diversity)

    def samples(self, scored: Scored, fold: int | str, metric: Metric) -> Samples | None:
        """Value and resamples of a cell.

        Arguments:
            scored: what.
            fold: a number, or "mean" over all folds of the benchmark.
            metric: "canet" or "pfenet".

        Returns:
            None where a run, or for the mean any run, is missing.
        """
        key = (scored, fold, metric)
        if key not in self._cache:
            self._cache[key] = self._mean(scored, metric) if fold == MEAN else self._fold(scored, int(fold), metric)
        return self._cache[key]

    def _mean(self, scored: Scored, metric: Metric) -> Samples | None:
        parts = [p for p in (self.samples(scored, f, metric) for f in self.folds) if p is not None]
        if len(parts) < len(self.folds):
            return None
        return Samples(float(np.mean([p.value for p in parts])), np.mean([p.resamples for p in parts], 0))

    def _fold(self, scored: Scored, fold: int, metric: Metric) -> Samples | None:
        found = []
        for seed in self.seeds:
            thing = self.thing(scored, fold, seed)
            if self.store.missing(thing, [scored.evaluation]):
                return None
            counts, classes = self.store.counts(thing, scored.evaluation)
            if not len(classes):
                return None
            found.append((counts, classes))
        weights = _draws(fold, found)
        values = [mean_iou(counts, classes, metric) for counts, classes in found]
        stacked = np.stack(
            [bootstrap(*of_seed, metric, drawn) for of_seed, drawn in zip(found, weights, strict=True)]
        )
        if len(stacked) > 1:  # several seeds: they are resampled too
            drawn = np.random.default_rng(fold).integers(len(stacked), size=stacked.shape)
            stacked = np.take_along_axis(stacked, drawn, 0)
        return Samples(float(np.mean(values)), stacked.mean(0))

    @cached_property
    def parameters(self) -> float:
        """Of the whole network, backbone and auxiliary head included, in millions; counted, not typed."""
        from dpnet.model import DPNet

        t = self.setting.training
        model = DPNet(t.backbone, None, width=t.width, dilations=t.dilations)
        return round(sum(p.numel() for p in model.parameters()) / 1e6, 1)

    def run_ids(self, scored: Scored, fold: int | str) -> str:
        """Ids of the runs behind a cell, joined by spaces."""
        folds = self.folds if fold == MEAN else [int(fold)]
        return " ".join(self.thing(scored, f, s).id for f in folds for s in self.seeds)

    def missing_folds(self, scored: Scored) -> list[int]:
        """The folds that keep a mean from existing."""
        return [f for f in self.folds if self.samples(scored, f, PAPER_METRIC) is None]


def _draws(fold: int, lists: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """How often each resample draws each episode, for each seed's counts and classes: all draw the same images."""
    counts, classes = (np.concatenate(part) for part in zip(*lists, strict=True))
    weights = draws(classes, queries(counts, classes), fold)
    return np.split(weights, np.cumsum([len(own) for _, own in lists])[:-1], axis=1)


def table(
    number: int,
    benchmark: str = "shapes",
    preset: str = "quick",
    results: str | Path | None = None,
    seeds: int | None = None,
) -> pd.DataFrame:
    """A table of the paper, ours beside it, from the runs on disk.

    Arguments:
        number: of the paper's table.
        benchmark: its name.
        preset: its sizes.
        results: the folder of all results; None: the project's.
        seeds: how many, from 0; None: as many as are there.

    Returns:
        tidy: the columns that name the row, then fold (a number or "mean"), metric, miou, low, high (95 %),
        paper, delta, status, runs.

    Raises:
        DPNetError: unknown names, or nothing is there.
    """
    return rows(Reader(benchmark, preset, results, seeds), experiments.get(f"table{number}"))


def rows(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """The tidy table of an experiment (see `table`); Tables 1 and 2 also say backbone and parameters."""
    printed = _printed(experiment)
    model = {"backbone": reader.setting.training.backbone, "params_m": reader.parameters}
    found = []
    for row in experiment.rows:
        scored = reader.of_row(row)
        for fold in reader.columns:
            for metric in _metrics(row):
                theirs = np.nan
                if metric == (row.metric or experiment.metric):
                    theirs = printed.get((*row.key.values(), str(fold)), np.nan)
                cell = _cell(reader.samples(scored, fold, metric))
                found.append(
                    {
                        **row.key,
                        **(model if experiment.table in (1, 2) else {}),
                        "fold": str(fold),
                        "metric": metric,
                        **cell,
                        "paper": theirs,
                        **_against_paper(cell, theirs, reader.comparable(experiment)),
                        "runs": reader.run_ids(scored, fold),
                    }
                )
    return pd.DataFrame(found)


def printed(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """Our values in exactly the columns of the paper's table, the paper's metric, one decimal."""
    tidy = of_metric(rows(reader, experiment), experiment, experiment.metric)
    assert experiment.table is not None
    return paper.printed(experiment.table, tidy.assign(miou=tidy.miou.round(1)))


def effects(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """What the table is meant to show, as sums over the same episodes; then our best rows over no training.

    Arguments:
        reader: the results.
        experiment: its effects, and the rows that it holds against the training-free prototype.

    Returns:
        tidy: effect, fold, metric, difference, low, high (95 %), paper, status, runs. The paper's value is
        compared in direction only.
    """
    printed = _printed(experiment)
    found = []

    def add(
        name: str,
        metrics: tuple[Metric, ...],
        parts: list[tuple[float, Scored]],
        theirs: dict[str, float],
        claimed: bool = False,
    ) -> None:
        for fold in reader.columns:
            for metric in metrics:
                cell = _cell(combined((w, reader.samples(scored, fold, metric)) for w, scored in parts))
                cell["difference"] = cell.pop("miou")
                stated = theirs.get(str(fold), np.nan) if metric == experiment.metric or len(metrics) == 1 else np.nan
                found.append(
                    {
                        "effect": name,
                        "fold": str(fold),
                        "metric": metric,
                        **{k: cell[k] for k in ("difference", "low", "high")},
                        "paper": stated,
                        # A claim without a number is one that the effect is positive.
                        "status": direction(cell, 1.0 if claimed and np.isnan(stated) else stated),
                        "runs": " - ".join(reader.run_ids(scored, fold) for _, scored in parts),
                    }
                )

    for effect in experiment.effects:
        pairs = [(w, experiment.rows[i]) for i, w in effect.weights.items()]
        theirs = {
            str(fold): round(sum(w * printed.get((*row.key.values(), str(fold)), np.nan) for w, row in pairs), 1)
            for fold in reader.columns
        }
        if effect.stated is not None:
            theirs[MEAN] = effect.stated["coco" if reader.benchmark == "coco" else "pascal"]
        add(
            effect.name,
            _metrics(pairs[0][1]),
            [(w, reader.of_row(row)) for w, row in pairs],
            theirs,
            bool(effect.claim),
        )
    for row in experiment.controlled_rows:
        name = f"{row.label} over {YARDSTICKS['prototype']}"
        parts = [(1.0, reader.of_row(row)), (-1.0, reader.yardstick("prototype", row))]
        add(name, _metrics(row), parts, {})
    return pd.DataFrame(found)


def yardsticks(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """What stands below the table: training-free, wrong support, all labelled objects, the ceiling.

    Arguments:
        reader: the results.
        experiment: the rows that it holds against them are repeated, with right and with wrong supports.

    Returns:
        tidy: yardstick, fold, metric, miou, low, high.
    """
    lines: dict[str, tuple[Scored, tuple[Metric, ...]]] = {}
    held = experiment.controlled_rows
    contexts = dict.fromkeys((row.shot, row.diversity) for row in held)
    for context in contexts:
        rows = [row for row in held if (row.shot, row.diversity) == context]
        for row in rows:
            lines[row.label] = reader.of_row(row), _metrics(row)
            lines[f"{row.label}, wrong support"] = reader.of_row(row, "wrong"), _metrics(row)
        for name, label in YARDSTICKS.items():
            lines[label + suffix(experiment, rows[0])] = reader.yardstick(name, rows[0]), METRICS
    return pd.DataFrame(
        {
            "yardstick": label,
            "fold": str(fold),
            "metric": metric,
            **_cell(reader.samples(scored, fold, metric)),
        }
        for label, (scored, metrics) in lines.items()
        for fold in reader.columns
        for metric in metrics
    )


def suffix(experiment: Experiment, row: Row) -> str:
    """What tells a row's yardsticks from those of other shots or diversities in the same table."""
    if len({(r.shot, r.diversity) for r in experiment.controlled_rows}) == 1:
        return ""
    return f", {row.shot} shot" if row.diversity is None else f", diversity {row.diversity:g}"


def _metrics(row: Row) -> tuple[Metric, ...]:
    return METRICS if row.metric is None else (row.metric,)


def _printed(experiment: Experiment) -> dict[tuple[Any, ...], float]:
    """The paper's cells: (values that name the row, fold) -> mIoU; empty where it prints none."""
    if experiment.table is None:
        return {}
    found = paper.cells(experiment.table).set_index([*experiment.keys, "fold"])["miou"].to_dict()
    return dict(found)


def of_metric(tidy: pd.DataFrame, experiment: Experiment, metric: Metric) -> pd.DataFrame:
    """The rows of one metric; where each row of the table has its own, all."""
    own = any(row.metric for row in experiment.rows)
    return tidy if own else tidy[tidy.metric == metric]


def papers_pair(reader: Reader, experiment: Experiment) -> list[Reader]:
    """The reader; and of the paper's two benchmarks the other one, if its runs are there too."""
    other = {"pascal": "coco", "coco": "pascal"}.get(reader.benchmark)
    if other is None or not (reader.store.root.parent / f"{other}-{reader.preset}" / "benchmark.json").exists():
        return [reader]
    second = Reader(other, reader.preset, reader.store.root.parent, len(reader.seeds))
    whole = not any(second.missing_folds(second.of_row(row)) for row in experiment.rows)
    return [reader, second] if whole else [reader]


def matches(reader: Reader) -> pd.DataFrame:
    """How reliable the matches of frozen features are, one way (cosine) and with the way back (cycle).

    Arguments:
        reader: the results.

    Returns:
        tidy: matches ("cosine", "cycle", "cycle - cosine"), fold, cells (candidates per episode), precision (% of
        them on the query's foreground, void left out), recall (% of its foreground cells), each with low and
        high (95 %).
    """
    parts: dict[str, list[np.ndarray | None]] = {
        name: [_matched(reader, f"matches-{name}", fold) for fold in reader.folds] for name in ("cosine", "cycle")
    }
    both = zip(parts["cycle"], parts["cosine"], strict=True)
    parts["cycle - cosine"] = [None if a is None or b is None else a - b for a, b in both]
    found = []
    for name, of_folds in parts.items():
        there = [p for p in of_folds if p is not None]
        mean = np.mean(there, 0) if len(there) == len(of_folds) else None
        for fold, part in zip(reader.columns, [*of_folds, mean], strict=True):
            found.append({"matches": name, "fold": str(fold), **_rates(part)})
    return pd.DataFrame(found)


def _matched(reader: Reader, name: str, fold: int) -> np.ndarray | None:
    """Cells per episode, precision and recall: the value, then its resamples, float64 [1 + R, 3]."""
    things = [reader.setting.baselines(fold, seed) for seed in reader.seeds]
    if any(reader.store.missing(thing, [name, "prototype"]) for thing in things):
        return None
    found = []
    lists = [reader.store.counts(thing, "prototype") for thing in things]  # pixels tell queries apart, cells may not
    for thing, drawn in zip(things, _draws(fold, lists), strict=True):
        counts, classes = reader.store.counts(thing, name)
        weights = np.concatenate([np.ones((1, len(classes))), drawn])
        hit, false, missed = (weights @ counts[:, i, j] for i, j in ((1, 1), (1, 0), (0, 1)))
        rates = [100 * hit / np.maximum(hit + false, 1), 100 * hit / np.maximum(hit + missed, 1)]
        found.append(np.stack([weights @ counts[:, 1].sum(1) / weights.sum(1), *rates], 1))
    return np.asarray(np.mean(found, 0))


def _rates(samples: np.ndarray | None) -> dict[str, float]:
    cells: dict[str, float] = {}
    for i, name in enumerate(("cells", "precision", "recall")):
        cell = _cell(None if samples is None else Samples(float(samples[0, i]), samples[1:, i]))
        cells |= {name: cell["miou"], f"{name}_low": cell["low"], f"{name}_high": cell["high"]}
    return cells


def by_class(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """What a fold's mean hides: each class by itself.

    Arguments:
        reader: the results.
        experiment: whose rows.

    Returns:
        tidy: class, fold, images (distinct queries), episodes, row, iou (%, the table's metric, mean of seeds).
    """
    columns = ["class", "fold", "images", "episodes", "row", "iou"]
    found: list[list[Any]] = []
    for fold in reader.folds:
        for row in experiment.rows:
            scored = reader.of_row(row)
            if reader.samples(scored, fold, experiment.metric) is None:
                continue
            lists = [reader.store.counts(reader.thing(scored, fold, s), scored.evaluation) for s in reader.seeds]
            counts, classes = (np.concatenate(part) for part in zip(*lists, strict=True))
            asked = queries(counts, classes)
            for c in np.unique(classes):
                mine = classes == c
                each = [mean_iou(k[own == c], own[own == c], experiment.metric) for k, own in lists]
                about = [reader.about["classes"][c - 1], fold, len(np.unique(asked[mine])), int(mine.sum())]
                found.append([*about, row.label, float(np.mean(each))])
    return pd.DataFrame(found, columns=columns)


def pairs(reader: Reader, experiment: Experiment) -> pd.DataFrame:
    """Which classes the best row tells apart: the same queries, asked for by a support of theirs and by a wrong one.

    Arguments:
        reader: the results.
        experiment: whose best row.

    Returns:
        class (of the query), support (the wrong one's class), episodes, right, wrong (IoU in %, PFENet metric, all
        seeds together); empty if either was not run.
    """
    right, wrong = reader.of_row(experiment.best), reader.of_row(experiment.best, "wrong")
    found: list[list[Any]] = []
    for fold in reader.folds:
        if None in (reader.samples(scored, fold, "pfenet") for scored in (right, wrong)):
            continue
        parts = []
        for seed in reader.seeds:
            listed = reader.store.episodes(fold, seed, right.shot, reader.setting.episodes)
            wrong_class = np.array([entry[3] for entry in listed])
            asked = wrong_class > 0  # a query that lacks no class of its fold has no wrong support
            (a, classes), (b, _) = (
                reader.store.counts(reader.thing(s, fold, seed), s.evaluation) for s in (right, wrong)
            )
            parts.append((classes[asked], wrong_class[asked], a[asked], b))
        classes, others, *both = (np.concatenate(part) for part in zip(*parts, strict=True))
        for c, other in np.unique(np.stack([classes, others], 1), axis=0):
            mine = (classes == c) & (others == other)
            names = [reader.about["classes"][i - 1] for i in (c, other)]
            found.append([*names, int(mine.sum()), *(mean_iou(k[mine], classes[mine], "pfenet") for k in both)])
    return pd.DataFrame(found, columns=["class", "support", "episodes", "right", "wrong"])


def best_weights(reader: Reader) -> dict[str, Any] | None:
    """Where the paper's best pair of loss weights stands among ours: what pairwise effects do not say.

    Arguments:
        reader: the results.

    Returns:
        theirs and ours (labels of the paper's best cell and of ours), rank (of theirs among ours), miou and highest
        (of both), difference (theirs - ours) with low and high (95 %), status; None if a cell was not run.
    """
    table5 = experiments.get("table5")
    cells = [reader.samples(reader.of_row(row), MEAN, PAPER_METRIC) for row in table5.rows]
    there = [cell for cell in cells if cell is not None]
    if len(there) < len(cells):
        return None
    printed = _printed(table5)
    values = np.array([cell.value for cell in there])
    ours, theirs = int(values.argmax()), int(np.argmax([printed[*r.key.values(), MEAN] for r in table5.rows]))
    cell = _cell(combined([(1, there[theirs]), (-1, there[ours])]))
    cell["difference"] = cell.pop("miou")
    return {
        "theirs": table5.rows[theirs].label,
        "ours": table5.rows[ours].label,
        "rank": 1 + int((values > values[theirs]).sum()),
        "miou": values[theirs],
        "highest": values[ours],
        **cell,
        "status": "same direction" if ours == theirs else direction(cell, 1.0),
    }


def looks(reader: Reader, experiment: Experiment, fold: int) -> pd.DataFrame:
    """The episodes that Fig. 4 shows, by rule: of each class the largest gain, the median, the largest loss.

    Arguments:
        reader: the results; its first seed is used.
        experiment: two rows, without and with the pseudo-prototype.
        fold: whose classes.

    Returns:
        rule, class, class_id, episode (its position in the list), query and support (image ids), without, with
        (IoU in %, CANet metric), gain; empty if the fold has not been run.
    """
    columns = ["rule", "class", "class_id", "episode", "query", "support", "without", "with", "gain"]
    pair = [reader.of_row(row) for row in experiment.rows]
    if any(reader.samples(scored, fold, PAPER_METRIC) is None for scored in pair):
        return pd.DataFrame(columns=columns)
    (before, classes), (after, _) = (
        overlaps(reader.store, reader.thing(scored, fold, 0), scored.evaluation) for scored in pair
    )
    listed = reader.store.episodes(fold, 0, 1, reader.setting.episodes)
    found = []
    for rule, class_id, episode in experiments.qualitative_examples(before, after, classes):
        _, query, supports, *_ = listed[episode]
        name = reader.about["classes"][class_id - 1]
        a, b = before[episode], after[episode]
        found.append([rule, name, class_id, episode, query, supports[0], a, b, b - a])
    return pd.DataFrame(found, columns=columns).round(1)


def overlaps(store: Store, thing: Run | Baselines, evaluation: str) -> tuple[np.ndarray, np.ndarray]:
    """IoU of each episode (%, CANet metric), float [E], and its class, int [E]."""
    counts, classes = store.counts(thing, evaluation)
    hit, union = intersection_union(counts, PAPER_METRIC)
    return 100 * hit / np.maximum(union, 1), classes


def tables(reader: Reader, experiment: Experiment) -> dict[str, pd.DataFrame]:
    """What is written beside an executed notebook: suffix of the CSV's name -> its content."""
    if not experiment.rows:
        return {"": matches(reader)}
    found = {suffix: make(reader, experiment) for suffix, make in TABLES.items()}
    if experiment.table is not None:
        found["_printed"] = printed(reader, experiment)
    if experiment.name == "fig4":
        found["_looks"] = pd.concat([looks(reader, experiment, f).assign(fold=f) for f in reader.folds])
    return found


def _cell(samples: Samples | None) -> dict[str, float]:
    if samples is None:
        return {"miou": np.nan, "low": np.nan, "high": np.nan}
    low, high = interval(samples.resamples)
    return {"miou": round(samples.value, 2), "low": round(low, 2), "high": round(high, 2)}


def _against_paper(cell: dict[str, float], theirs: float, comparable: bool) -> dict[str, Any]:
    if np.isnan(cell["miou"]):
        return {"delta": np.nan, "status": "not run"}
    if not comparable or np.isnan(theirs):
        return {"delta": np.nan, "status": "not comparable"}
    inside = cell["low"] <= theirs <= cell["high"]
    return {"delta": round(cell["miou"] - theirs, 2), "status": "reproduced" if inside else "differs"}


def direction(cell: dict[str, float], theirs: float) -> str:
    """In words how a difference, with its interval, lies to zero, and to what the paper has."""
    if np.isnan(cell["difference"]):
        return "not run"
    ours = 1 if cell["low"] > 0 else -1 if cell["high"] < 0 else 0
    if np.isnan(theirs) or not theirs:  # the paper has no direction there
        return {1: "positive", -1: "negative", 0: "undecided"}[ours]
    if not ours:
        return "undecided"
    return "same direction" if ours == np.sign(theirs) else "opposite direction"


TABLES = {"": rows, "_effects": effects, "_yardsticks": yardsticks}
