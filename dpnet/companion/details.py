"""What means do not say: Fig. 3's matches, each class, pairs of classes, the best weights, Fig. 4's episodes."""

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from dpnet.companion import experiments, paper, results
from dpnet.companion.estimates import RESAMPLES, by_image, cell, direction, queries, resampling
from dpnet.companion.experiments import PAPER_METRIC, Experiment
from dpnet.companion.results import MEAN, Scores
from dpnet.metrics import mean_iou

RATES = ("cells", "precision", "recall")  # candidates per episode; on the foreground, of all; of all on it, reached


@cache
def matches(scores: Scores) -> pd.DataFrame:
    """How reliable the matches of frozen features are, one way (cosine) and with the way back (cycle); tidy."""
    cosine, cycle = (
        [_matched(scores, f"matches-{name}", fold) for fold in scores.folds] for name in ("cosine", "cycle")
    )
    lines = []
    both = {"cosine": cosine, "cycle": cycle, "cycle - cosine": [a - b for a, b in zip(cycle, cosine, strict=True)]}
    for name, of_folds in both.items():
        lists = min(map(len, of_folds))
        for fold, part in zip(scores.columns, [*of_folds, np.mean([p[:lists] for p in of_folds], 0)], strict=True):
            line: dict[str, Any] = {"matches": name, "fold": fold}
            for rate, samples in zip(RATES, np.moveaxis(part, 2, 0), strict=True):
                of_rate = cell(samples, rate).items()
                line |= {key if key in (rate, "trainings") else f"{rate}_{key}": value for key, value in of_rate}
            lines.append(line)
    return pd.DataFrame(lines)


def gain(scores: Scores) -> pd.DataFrame:
    """What the way back adds to the precision of the candidates, in the form of `results.effects`."""
    columns = {"precision": "difference"} | {f"precision_{key}": key for key in ("low", "high", "by_training")}
    tidy = matches(scores).query("matches == 'cycle - cosine'").rename(columns=columns)
    status = [direction(row, 1.0) for row in tidy.to_dict("records")]
    unstated = {"metric": PAPER_METRIC, "paper": np.nan, "needed": np.nan}
    runs = " ".join(scores.records(scores.baseline("matches-cycle")).folder)
    return tidy.assign(effect="cycle over cosine matches", status=status, runs=runs, **unstated)


def _matched(scores: Scores, name: str, fold: int) -> np.ndarray:
    """`RATES` for each seed: the value, then its resamples, float64 [S, 1 + R, 3]."""
    lists, pixels = (scores.counts(scores.baseline(of), fold) for of in (name, "prototype"))
    if not (seeds := min(len(lists), len(pixels))):
        return np.empty((0, 1 + RESAMPLES, len(RATES)))
    query, classes, weights = resampling(fold, pixels[:seeds])  # pixels tell queries apart, cells may not
    of_seeds = []
    for (counts, _), own in zip(lists[:seeds], query, strict=True):
        of_image, episodes = by_image(counts, own, len(classes)), np.bincount(own, minlength=len(classes))
        hit, false, missed = (weights @ of_image[:, i, j] for i, j in ((1, 1), (1, 0), (0, 1)))
        rates = [100 * hit / np.maximum(hit + false, 1), 100 * hit / np.maximum(hit + missed, 1)]
        of_seeds.append(np.stack([weights @ of_image[:, 1].sum(1) / (weights @ episodes), *rates], 1))
    return np.stack(of_seeds)


def by_class(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """Each class by itself, in the table's metric (%, mean of seeds): rows, a wrong support, the prototype."""
    columns = {row.label: scores.of_row(row) for row in experiment.rows}
    columns |= {"wrong support": scores.of_row(experiment.best, "wrong"), "prototype": scores.baseline("prototype")}
    lines: list[list[Any]] = []
    about: dict[int, list[Any]] = {}  # class -> its name, fold, images, episodes
    for fold, (column, selection) in product(scores.folds, columns.items()):
        if not (lists := scores.counts(selection, fold)):
            continue
        counts, classes = (np.concatenate(part) for part in zip(*lists, strict=True))
        query = queries(counts, classes)
        for c in np.unique(classes):
            of_class, name = classes == c, scores.about["classes"][c - 1]
            each = [mean_iou(k[own == c], own[own == c], experiment.metric) for k, own in lists]
            of_first = about.setdefault(c, [name, fold, len(np.unique(query[of_class])), int(of_class.sum())])
            lines.append([*of_first, column, float(np.mean(each))])
    keys = ["class", "fold", "images", "episodes"]
    return paper.across(pd.DataFrame(lines, columns=[*keys, "row", "iou"]), keys, "row", "iou").round(1)


def pairs(scores: Scores, experiment: Experiment) -> pd.DataFrame:
    """Which classes the best row tells apart: the same queries with right and wrong supports (%, PFENet metric)."""
    best = experiment.best
    lines: list[list[Any]] = []
    for fold in scores.folds:
        right, wrong = (scores.counts(scores.of_row(best, support), fold) for support in ("right", "wrong"))
        if not right or not wrong:
            continue
        parts = []
        for seed, (counts, classes), (wrong_counts, _) in zip(scores.seeds, right, wrong, strict=False):
            listed = scores.store.episodes(fold, seed, best.shot, scores.setting.episodes)
            wrong_class = np.array([entry[3] for entry in listed])
            asked = wrong_class > 0  # a query that lacks no class of its fold has no wrong support
            parts.append((classes[asked], wrong_class[asked], counts[asked], wrong_counts))
        classes, others, *both = (np.concatenate(part) for part in zip(*parts, strict=True))
        for c, other in np.unique(np.stack([classes, others], 1), axis=0):
            of_pair = (classes == c) & (others == other)
            names = [scores.about["classes"][i - 1] for i in (c, other)]
            on, off = (mean_iou(counts[of_pair], classes[of_pair], "pfenet") for counts in both)
            lines.append([*names, int(of_pair.sum()), on, off, f"{100 * off / on:.0f}%" if on >= 1 else "—"])
    columns = ["query of", "wrong support of", "episodes", "right", "wrong", "wrong of right"]
    return pd.DataFrame(lines, columns=columns).round(1)


def best_weights(scores: Scores) -> dict[str, Any] | None:
    """Where the paper's best pair of loss weights stands among ours; None if a cell was not run."""
    table5 = experiments.get("table5")
    papers = paper.by_row(5, table5.keys)
    best = int(np.argmax([papers[*row.key.values(), MEAN] for row in table5.rows]))
    scores, parts = results.shared(scores, table5), [(1.0, scores.of_row(row)) for row in table5.rows]
    values = np.array([scores.estimate([part], MEAN, PAPER_METRIC).value for part in parts])
    if np.isnan(values).any():
        return None
    rival = int(np.where(np.arange(len(values)) == best, -1, values).argmax())  # the best of the others
    gaps = scores.samples([parts[best], (-1.0, parts[rival][1])], MEAN, PAPER_METRIC)
    gap = cell(gaps, "difference", among=len(values) - 1)  # the rival is picked for its score
    return {
        "theirs": table5.rows[best].label,
        "ours": table5.rows[rival].label,
        "rank": 1 + int((values > values[best]).sum()),
        **gap,
        "status": direction(gap, 1.0),
    }


def qualitative_examples(scores: Scores, experiment: Experiment, fold: int) -> pd.DataFrame:
    """Fig. 4's episodes, by rule: of each class the largest gain, the median, the largest loss (IoU in %)."""
    columns = ["rule", "class", "class_id", "episode", "query", "support", "without", "with", "gain"]
    lists = [scores.counts(scores.of_row(row), fold) for row in experiment.rows]
    lines = []
    if all(lists):
        (before, classes), (after, _) = (of_row[0] for of_row in lists)
        listed = scores.store.episodes(fold, scores.seeds[0], 1, scores.setting.episodes)
        for rule, class_id, episode, without, with_ in experiments.qualitative_examples(before, after, classes):
            _, query, (support, *_), *_ = listed[episode]
            about = [rule, scores.about["classes"][class_id - 1], class_id, episode, query, support]
            lines.append([*about, without, with_, with_ - without])
    return pd.DataFrame(lines, columns=columns).round(1)
