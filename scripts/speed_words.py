"""A measurement in words: what stands in `docs/speed.md` and on the site."""

from typing import Any

import pandas as pd

from dpnet.companion.readme import markdown


def in_words(measured: dict[str, Any]) -> str:
    """The ratios as Markdown, and what they rest on: both sides answer the same; what half precision costs."""
    text = (
        f"{markdown(ratios(measured))}\n\n"
        f"{measured['device']}, {measured['threads']} thread(s), torch {measured['torch'].split('+')[0]}; medians of "
        f"{measured['repeats']} turns, a ratio being that of each turn's own."
    )
    if (checks := measured.get("checks")) is None:
        return f"{text}\n"
    return (
        f"{text} Without another size: `shapes` at `{measured['preset']}` ({measured['backbone']}, "
        f"{measured['size']}²). "
        f"The reference's answers are ours: {checks['pixels that differ (%)']:.3g} % of pixels differ (features are "
        f"kept in fp16), {checks['pixels that differ, three scales (%)']:.3g} % with three scales. "
        f"{checks['precision']} against fp32: at most {checks['mIoU that differs (points)']:.2g} points of mIoU in "
        f"any of {checks['rows']} rows over {checks['episodes']} episodes.\n"
    )


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
