"""A measurement in words: what stands in `docs/speed.md` and on the site."""

import math
from typing import Any

import pandas as pd

from dpnet.companion.tables import markdown

# Why a cost grows faster than what it depends on.
REASONS = {
    "image size, comparison": "no: every cell is compared with every cell",
    "threads, evaluation": "one thread is the default",
    "threads, training": "one thread is the default",
}


def in_words(measured: dict[str, Any]) -> str:
    """A measurement as Markdown: ratios, growth, memory, where the time goes, and what the two sides agree on."""
    parts = [
        markdown(ratios(measured)),
        f"{measured['device']}, threads: {measured['threads']}, torch {measured['torch'].split('+')[0]}; where "
        f"nothing else is written, `shapes` at `{measured['preset']}` ({measured['backbone']}, {measured['size']}²). "
        f"Medians of {measured['repeats']} turns, a ratio being that of each turn's own.",
    ]
    if checks := measured.get("checks"):
        parts.append(
            f"The reference's answers are ours: {checks['pixels that differ (%)']:.3g} % of pixels differ (features "
            f"are kept in fp16), {checks['pixels that differ, three scales (%)']:.3g} % with three scales. "
            f"{checks['precision']} against fp32: at most {checks['mIoU that differs (points)']:.2g} points of mIoU "
            f"in any of {checks['rows']} rows over {checks['episodes']} episodes."
        )
    if measured.get("growth"):
        parts.append(markdown(growth(measured["growth"])))
    if measured.get("memory"):
        peaks = "; ".join(f"{what}: {value:,.0f} MiB" for what, value in measured["memory"].items())
        parts.append(f"Largest memory, with the files that are mapped into it: {peaks}.")
    if not (shares := spent(measured)).empty:
        parts.append(markdown(shares))
    if work := measured.get("arithmetic"):
        alone = 1000 * work["GFLOP"] / work["GFLOP/s"]
        parts.append(
            f"A {work['what']} has {_number(work['GFLOP'])} GFLOP in its convolutions and products. One large "
            f"product runs at {work['GFLOP/s']:,.0f} GFLOP/s in bf16; at that speed they take {alone:.3g} ms of the "
            f"step's {work['ms']:.3g} ms, {100 * alone / work['ms']:.0f} %."
        )
    return "\n\n".join(parts) + "\n"


def growth(curves: dict[str, Any]) -> pd.DataFrame:
    """How cost grows: from the least to the most of what it depends on, and with which power of it."""
    lines = []
    for what, curve in curves.items():
        for name, values in curve.items():
            if name == "x" or name.startswith("reference"):
                continue
            series, _, unit = name.rpartition(" (")
            (first, *_), *_, (last, *_) = values
            squared = 2 if what == "image size" else 1  # sides of images: pixels
            power = math.log(last / first) / math.log(curve["x"][-1] / curve["x"][0]) / squared
            label = what if series == "ours" else f"{what}, {series}"
            lines.append({
                "cost against": label,
                "from": f"{curve['x'][0]}: {_number(first)} {unit[:-1]}",
                "to": f"{curve['x'][-1]}: {_number(last)} {unit[:-1]}",
                "power": f"{power:.2f}",
                "linear or better": REASONS.get(label, "yes" if power <= 1.1 else "no"),
            })  # fmt: skip
    return pd.DataFrame(lines)


def spent(measured: dict[str, Any]) -> pd.DataFrame:
    """Where the time goes: shares of parts of the code, and of kinds of operations."""
    lines = []
    for what, parts in {**measured.get("where the time goes", {}), **measured.get("kinds of operations", {})}.items():
        total = sum(parts.values())
        ordered = sorted(parts.items(), key=lambda part: -part[1])
        shares = ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in ordered if value >= total / 200)
        lines.append({"where the time goes": what.rpartition(" (")[0], "shares": shares})
    return pd.DataFrame(lines)


def ratios(measured: dict[str, Any]) -> pd.DataFrame:
    """The ratios for people: medians of turns, in brackets least and most."""
    lines = []
    for line in measured["ratios"]:
        (middle, least, most), budget, met = line["ratio"], "—", "—"
        if line["budget"] is not None:
            sign = "≥" if line["more is better"] else "≤"
            budget = f"{sign} {line['budget']:g}"
            met = "yes" if (middle >= line["budget"] if sign == "≥" else middle <= line["budget"]) else "no"
        lines.append({
            "what": line["what"],
            "ours": f"{_number(line['ours'][0])} {line['unit']}",
            "against": f"{_number(line['against'][0])} {line['unit']} ({line['reference']})",
            "ratio [least, most]": f"{middle:.3g} [{least:.3g}, {most:.3g}]",
            "budget": budget,
            "met": met,
        })  # fmt: skip
    return pd.DataFrame(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
