"""The results as static pages: nbconvert's template `basic`, a style sheet, formulas as MathML; no scripts."""

import html
import re
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from dpnet.companion import presets, readme, verdicts
from dpnet.companion.scores import load
from dpnet.io import DPNetError, read_json, write

try:
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
except ImportError as error:
    raise DPNetError(f"the site needs {error.name}: pip install -e '.[notebooks]'") from None

DOI = "https://doi.org/10.1609/aaai.v36i2.20090"
PAPER = "Learning from the Target: Dual Prototype Network for Few Shot Semantic Segmentation"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'self' file: 'unsafe-inline';
img-src 'self' file: data:"><meta name="color-scheme" content="light dark">
<title>{title} · DPNet companion</title><link rel="stylesheet" href="{top}site.css"></head>
<body><nav>{nav}</nav><main>{body}</main></body></html>
"""
FRONT = f"""<h1>DPNet companion</h1>
<p><a href="{DOI}">{PAPER}</a> (AAAI 2022), as data, beside the runs that test it.</p>
<p>Each line is a table or a figure of the paper: what it is about, how our runs stand to it, and what came out. No
number is typed: notebooks compute them from the counts of every episode. To make a table yourself, on two CPU cores
and without data of your own: <code>make reproduce-table3</code></p>
"""
CODE_PAGES = re.compile(r"\d\d_|explore")  # notebooks whose code is what they are about


def build(results: Path, out: Path, tiny: bool = False) -> list[Path]:
    """Write the site.

    Arguments:
        results: the folder of all results.
        out: the folder of the site; pages in it that are no longer made are removed.
        tiny: with the results at the preset `tiny`, whose numbers mean nothing.

    Returns:
        its files, sorted.

    Raises:
        DPNetError: no results, a formula that cannot be read, or a folder that is not a site's.
    """
    folders = sorted(file.parent for file in results.glob("*-*/benchmark.json"))
    folders = [f for f in folders if tiny or not f.name.endswith("-tiny")] or folders
    if not folders:
        raise DPNetError(f"{results}: no results to show: run `make reproduce-table3`")
    if out.exists() and any(out.iterdir()) and not (out / "site.css").exists():
        raise DPNetError(f"{out}: not a site's folder: choose an empty one")
    pages = {"site.css": Path(__file__).with_name("site.css").read_bytes()}
    copied = [file for folder in [*folders, results / "speed"] for file in folder.glob("*.*")]
    pages |= {f"{f.parent.name}/{f.name}": f.read_bytes() for f in copied if f.suffix in (".csv", ".png")}
    for folder in folders:
        pages |= {name: text.encode() for name, text in _pages(folder).items()}
    body = "\n".join([FRONT, *map(_targets, sorted(folders, key=_order)), _speed(results)])
    pages["index.html"] = PAGE.format(title="Tables and figures", top="", nav="", body=body).encode()
    for name, content in pages.items():
        write(out / name, content)
    for file in out.rglob("*"):
        if file.suffix in (".html", ".csv", ".png") and file.relative_to(out).as_posix() not in pages:
            file.unlink()
    return sorted(out / name for name in pages)


def title(stem: str) -> str:
    """How readers call a notebook: `table3-fold0-seed1` is "Table 3, fold 0, seed 1"."""
    if stem.lower() == "report":
        return "Report" if stem.isupper() else "Report as a notebook"
    words = [re.sub(r"^([a-z]+)(\d.*)$", r"\1 \2", word) for word in stem.split("-")]
    text = ", ".join(words).replace("_", " ")
    return re.sub(r"^Fig ", "Fig. ", text[:1].upper() + text[1:])


def _order(folder: Path) -> tuple[int, str]:
    """The embedded benchmark first."""
    known = {name: place for place, name in enumerate(presets.BENCHMARKS)}
    return known.get(folder.name.rpartition("-")[0], len(known)), folder.name


def _sources(folder: Path) -> dict[str, Path]:
    """Address of each page of a folder -> what it is made from: the report, tables, figures, guides, trainings."""
    named = sorted(
        folder.glob("*.ipynb"), key=lambda p: (not p.stem.startswith(("table", "fig")), p.stem[0].isdigit(), p.stem)
    )
    sources = [*folder.glob("REPORT.md"), *named, *sorted(folder.glob("train/*.ipynb"))]
    pages = {s.relative_to(folder).with_suffix(".html").as_posix(): s for s in sources if ".failed" not in s.name}
    return {address.replace("REPORT", "index"): source for address, source in pages.items()}


def _pages(folder: Path) -> dict[str, str]:
    """A folder's pages, by address; its report is the first."""
    sources, made = _sources(folder), {}
    for address, source in sources.items():
        up = "../" * address.count("/")
        links = [f'<a href="{up}../index.html">DPNet companion</a>']
        links += [f'<a href="{up}{to}">{title(s.stem)}</a>' for to, s in sources.items() if "/" not in to]
        body = _body(source)
        if files := [f'<a href="{f.name}">{f.name}</a>' for f in sorted(folder.glob(f"{source.stem}*.csv"))]:
            body += f"<p>Data: {', '.join(files)}</p>"
        name = f"{title(source.stem)}: {folder.name}"
        made[f"{folder.name}/{address}"] = PAGE.format(title=name, top=f"{up}../", nav=" ".join(links), body=body)
    return made


def _body(source: Path) -> str:
    """The HTML of a notebook or of Markdown, with links between pages instead of between sources."""
    try:
        body = _prose(source.read_text()) if source.suffix == ".md" else _notebook(source)
    except DPNetError as error:
        raise DPNetError(f"{source}: {error}") from None
    body = re.sub(r"<style scoped.*?</style>|<script.*?</script>", "", body, flags=re.DOTALL)
    body = body.replace("No description has been provided for this image", title(source.stem))
    body = re.sub(r'href="REPORT\.md', 'href="index.html', body)
    return re.sub(r'href="([^":]+)\.ipynb(?=["#])', r'href="\1.html', body)


def _notebook(source: Path) -> str:
    """Without its code, unless it is what the notebook is about: the code stands in the notebook itself."""
    return str(_exporter(bool(CODE_PAGES.match(source.stem))).from_filename(str(source))[0])


@cache
def _exporter(code: bool) -> HTMLExporter:
    options = {"exclude_input": not code, "exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(template_name="basic", **options)
    exporter.register_filter("markdown2html", _prose)
    return exporter


class _Renderer(IPythonRenderer):
    """Markdown whose formulas are MathML, which browsers draw by themselves."""

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")


def _prose(text: str) -> str:
    return str(MarkdownWithMath(renderer=_Renderer(escape=False, exclude_anchor_links=True)).render(text))


def _mathml(formula: str, display: str) -> str:
    try:
        mathml = str(convert(formula.strip(), display=display))
    except Exception as error:  # its exceptions have no common base
        raise DPNetError(f"formula {formula.strip()!r}: {type(error).__name__}") from None
    if "\\" in mathml:  # an unknown command is passed on as a name
        raise DPNetError(f"formula {formula.strip()!r}: unknown command")
    return mathml


def _targets(folder: Path) -> str:
    """A folder's part of the front page: a line for each target, then its other notebooks."""
    benchmark, preset = folder.name.rsplit("-", 1)
    scores = load(presets.resolve(benchmark, preset), folder.parent)
    images = "{train:,} training and {val:,} test images".format(**scores.about["images"])
    links = {a: f'<a href="{folder.name}/{a}">{title(s.stem)}</a>' for a, s in _sources(folder).items()}
    lines = []
    for target, about, status, text in verdicts.overview(scores).itertuples(index=False):
        name = links.pop(f"{target}.html", title(target))
        what, came_out = f"{name} {html.escape(about)}", html.escape(text)
        lines.append({"what": what, "status": verdicts.SYMBOLS[status], "what came out": came_out})
    trainings = " · ".join(link for address, link in links.items() if "/" in address)
    others = " · ".join(link for address, link in links.items() if "/" not in address)
    pictures = [f'<img src="{folder.name}/{p.name}" alt="{title(p.stem)}">' for p in sorted(folder.glob("*.png"))]
    return (
        f'<h2 id="{folder.name}">{benchmark}, {preset}</h2>\n<p>{images}, tested on folds '
        f"{', '.join(map(str, scores.folds))}.</p>\n{_table(pd.DataFrame(lines))}\n<p>{others}</p>\n"
        f"<details><summary>Trainings</summary><p>{trainings}</p></details>\n{''.join(pictures)}"
    )


def _speed(results: Path) -> str:
    """What `make speed` measured, on each device."""
    parts = ['<h2 id="speed">Speed</h2>']
    for file in sorted((results / "speed").glob("*.json")):
        measured: dict[str, Any] = read_json(file)
        parts.append(f"<h3>{measured['device']}</h3>\n<p>{html.escape(readme.speed_checks(measured))}</p>")
        parts.append(_table(readme.speed_ratios(measured).map(html.escape)))
        if file.with_suffix(".png").exists():
            parts.append(f'<img src="speed/{file.stem}.png" alt="Cost of each part on {measured["device"]}">')
    return "\n".join(parts) if len(parts) > 1 else ""


def _table(frame: pd.DataFrame) -> str:
    return str(frame.to_html(index=False, escape=False, border=0, justify="left"))
