"""The results as static pages: nbconvert's template `basic`, a style sheet, formulas as MathML; no scripts."""

import re
from functools import cache
from pathlib import Path

from dpnet.companion import experiments, presets, readme
from dpnet.companion.results import load
from dpnet.io import DPNetError, read_json, write

try:
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
except ImportError as error:
    raise DPNetError(f"the site needs {error.name}: pip install -e '.[notebooks]'") from None

DOI = "https://doi.org/10.1609/aaai.v36i2.20090"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'self' file: 'unsafe-inline';
img-src 'self' file: data:"><meta name="color-scheme" content="light dark">
<title>{title} · DPNet companion</title><link rel="stylesheet" href="{top}site.css"></head>
<body><nav>{nav}</nav><main>{body}</main></body></html>
"""
FRONT = f"""# DPNet companion

[Learning from the Target: Dual Prototype Network for Few Shot Semantic Segmentation]({DOI}) (AAAI 2022), as data,
beside the runs that test it.

Each line is a table or a figure of the paper: what it is about, how our runs stand to it, and what came out. No
number is typed: notebooks compute them from the counts of every episode. To make a table yourself, on two CPU cores
and without data of your own: `make reproduce-table3`
"""


def build(results: Path, out: Path) -> list[Path]:
    """Write the pages of all results (of those at `tiny` only if there are no others) to a folder; its files."""
    folders = sorted(file.parent for file in results.glob("*-*/benchmark.json"))
    folders = [f for f in folders if not f.name.endswith("-tiny")] or folders
    if not folders:
        raise DPNetError(f"{results}: no results to show: run `make reproduce-table3`")
    if out.exists() and any(out.iterdir()) and not (out / "site.css").exists():
        raise DPNetError(f"{out}: not a site's folder: choose an empty one")
    pages = {"site.css": Path(__file__).with_name("site.css").read_bytes()}
    copied = [file for folder in [*folders, results / "speed"] for file in folder.glob("*.*")]
    pages |= {f"{f.parent.name}/{f.name}": f.read_bytes() for f in copied if f.suffix in (".csv", ".png")}
    for folder in folders:
        pages |= {name: text.encode() for name, text in _pages(folder).items()}
    folders.sort(key=lambda folder: not folder.name.startswith("shapes"))  # the embedded benchmark first
    body = _linked(_prose("\n\n".join([FRONT, *map(_targets, folders), *_speed(results)])))
    pages["index.html"] = PAGE.format(title="Tables and figures", top="", nav="", body=body).encode()
    for name, content in pages.items():
        write(out / name, content)
    for file in out.rglob("*"):
        if file.suffix in (".html", ".csv", ".png") and file.relative_to(out).as_posix() not in pages:
            file.unlink()  # no longer made
    return sorted(out / name for name in pages)


def title(stem: str) -> str:
    """How readers call a notebook: `table3-fold0-seed1` is "Table 3, fold 0, seed 1"."""
    if stem.lower() == "report":
        return "Report" if stem.isupper() else "Report as a notebook"
    words = [re.sub(r"^([a-z]+)(\d.*)$", r"\1 \2", word) for word in stem.split("-")]
    text = ", ".join(words).replace("_", " ")
    return re.sub(r"^Fig ", "Fig. ", text[:1].upper() + text[1:])


def _sources(folder: Path) -> list[Path]:
    """What a folder's pages are made from: the report, tables, figures, guides, trainings."""
    named = sorted(folder.glob("*.ipynb"), key=lambda p: (not p.stem.startswith(("table", "fig")), p.stem))
    every = [*folder.glob("REPORT.md"), *named, *sorted(folder.glob("train/*.ipynb"))]
    return [source for source in every if ".failed" not in source.name]


def _pages(folder: Path) -> dict[str, str]:
    """A folder's pages, by address; its report is the first."""
    made, sources = {}, _sources(folder)
    for source in sources:
        up = "" if source.parent == folder else "../"
        links = [f'<a href="{up}../index.html">DPNet companion</a>']
        links += [
            f'<a href="{up}{other.name}">{title(other.stem)}</a>' for other in sources if other.parent == folder
        ]
        files = [f'<a href="{file.name}">{file.name}</a>' for file in sorted(folder.glob(f"{source.stem}*.csv"))]
        data = f"<p>Data: {', '.join(files)}</p>" if files else ""
        address = f"{folder.name}/{source.relative_to(folder).with_suffix('.html').as_posix()}"
        name, nav = f"{title(source.stem)}: {folder.name}", _linked(" ".join(links))
        page = PAGE.format(title=name, top=f"{up}../", nav=nav, body=_body(source) + data)
        made[address.replace("REPORT", "index")] = page
    return made


def _body(source: Path) -> str:
    """The HTML of a notebook or of Markdown."""
    try:
        if source.suffix == ".md":
            return _linked(_prose(source.read_text()))
        # Code stands in the notebook itself, unless it is what the notebook is about.
        body = _exporter(code=bool(re.match(r"\d\d_|explore", source.stem))).from_filename(str(source))[0]
    except DPNetError as error:
        raise DPNetError(f"{source}: {error}") from None
    body = re.sub(r"<style scoped.*?</style>|<script.*?</script>", "", body, flags=re.DOTALL)
    return _linked(body.replace("No description has been provided for this image", title(source.stem)))


def _linked(body: str) -> str:
    """Links between pages instead of between their sources."""
    body = re.sub(r'href="([^":]*)REPORT\.md', r'href="\1index.html', body)
    return re.sub(r'href="([^":]+)\.ipynb(?=["#])', r'href="\1.html', body)


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
        if "\\" in mathml:  # it passes an unknown command on as a name
            raise ValueError("unknown command")
    except Exception as error:  # its exceptions have no common base
        raise DPNetError(f"formula {formula.strip()!r}: {str(error) or type(error).__name__}") from None
    return mathml


def _targets(folder: Path) -> str:
    """A folder's part of the front page, as Markdown: a line for each target, then its other pages."""
    scores = load(presets.resolve(*folder.name.rsplit("-", 1)), folder.parent)
    images = "{train:,} training and {val:,} test images".format(**scores.about["images"])
    links = {s: f"[{title(s.stem)}]({s.relative_to(folder.parent).as_posix()})" for s in _sources(folder)}
    trainings = " · ".join(link for source, link in links.items() if source.parent != folder)
    others = " · ".join(links[s] for s in links if s.parent == folder and s.stem not in experiments.EXPERIMENTS)
    parts = [
        f"## {scores.setting.benchmark}, {scores.setting.preset}",
        f"{images}, tested on folds {', '.join(map(str, scores.folds))}.",
        readme.linked_overview(scores, f"{folder.name}/", "what came out"),
        others,
        f"<details><summary>Trainings</summary>\n\n{trainings}\n\n</details>",
        *(f"![{title(p.stem)}]({folder.name}/{p.name})" for p in sorted(folder.glob("*.png"))),
    ]
    return "\n\n".join(parts)


def _speed(results: Path) -> list[str]:
    """What `make speed` measured, on each device, as Markdown."""
    parts = []
    for file in sorted((results / "speed").glob("*.json")):
        parts += [f"## Speed: {file.stem}", readme.speed(read_json(file))]
        if file.with_suffix(".png").exists():
            parts.append(f"![Cost of each part on {file.stem}](speed/{file.stem}.png)")
    return parts
