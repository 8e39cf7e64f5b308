"""The results as static pages: nbconvert's template `basic`, a style sheet, formulas as MathML; no scripts."""

import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from dpnet.companion import experiments, presets, verdicts
from dpnet.companion.results import load
from dpnet.io import DPNetError, write

try:
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
except ImportError as error:
    raise DPNetError(f"the site needs {error.name}: pip install -e '.[notebooks]'") from None

HERE = Path(__file__).parent
PAGE, FRONT = ((HERE / name).read_text("utf-8") for name in ("site.html", "site.md"))
COPIED = ("*.csv", "*.png")


def build(roots: Mapping[str, Path], out: Path) -> list[Path]:
    """Write the pages of all results to a folder; its files. `roots`: how headings begin -> where results are.

    Those at `tiny` are shown only where there are no others.
    """
    if out.exists() and any(out.iterdir()) and not (out / "site.css").exists():
        raise DPNetError(f"{out}: not a site's folder: choose an empty one")
    files: dict[str, bytes] = {}
    front = [FRONT]
    for number, (heading, results) in enumerate(roots.items()):
        top = "local/" if number else ""
        folders = sorted(file.parent for file in results.glob("*-*/benchmark.json"))
        folders = [f for f in folders if not f.name.endswith("-tiny")] or folders
        folders.sort(key=lambda folder: not folder.name.startswith("shapes"))  # the embedded benchmark first
        copied = [file for f in [*folders, results / "speed"] for kind in COPIED for file in f.glob(kind)]
        files |= {f"{top}{file.relative_to(results).as_posix()}": file.read_bytes() for file in copied}
        for folder in folders:
            files |= {name: page.encode() for name, page in _pages(folder, f"{top}{folder.name}/").items()}
            front.append(_targets(folder, f"{top}{folder.name}/", heading))
        for file in sorted(results.glob("speed/*.md")):
            picture = f"![Cost of each part]({top}speed/{file.stem}.png)"
            front.append(f"## {heading}Speed: {file.stem}\n\n{file.read_text()}\n{picture}")
    if len(front) == 1:
        raise DPNetError(f"{', '.join(map(str, roots.values()))}: no results to show: run `make reproduce-table3`")
    body = _linked(_prose("\n\n".join(front)))
    files["index.html"] = PAGE.format(title="Tables and figures", top="", nav="", body=body).encode()
    files["site.css"] = (HERE / "site.css").read_bytes()
    shutil.rmtree(out, ignore_errors=True)
    for name, content in files.items():
        write(out / name, content)
    return sorted(out / name for name in files)


def title(stem: str) -> str:
    """How readers call a notebook: `table3` is "Table 3"."""
    words = re.sub(r"(?<=[a-z])(?=\d)", " ", stem.lower()).replace("_", " ")
    return words.capitalize().replace("Fig ", "Fig. ")


def _sources(folder: Path) -> list[Path]:
    """What a folder's pages are made from: its report (once, from Markdown), tables, figures, guides."""
    named = sorted(folder.glob("*.ipynb"), key=lambda p: (not p.stem.startswith(("table", "fig")), p.stem))
    every = [*folder.glob("REPORT.md"), *named]
    return [source for source in every if source.stem != "report" and ".failed" not in source.name]


def _pages(folder: Path, address: str) -> dict[str, str]:
    """A folder's pages, by address."""
    made, sources, top = {}, _sources(folder), "../" * address.count("/")
    beside = {f"{top}index.html": "DPNet companion"} | {f"{s.stem}.html": title(s.stem) for s in sources}
    nav = " ".join(f'<a href="{page}">{name}</a>' for page, name in beside.items())
    for source in sources:
        files = [f'<a href="{file.name}">{file.name}</a>' for file in sorted(folder.glob(f"{source.stem}*.csv"))]
        body = _body(source) + (f"<p>Data: {', '.join(files)}</p>" if files else "")
        page = PAGE.format(title=f"{title(source.stem)}: {folder.name}", top=top, nav=nav, body=body)
        made[f"{address}{source.stem}.html"] = page
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
    return re.sub(r'href="([^":]+)\.(ipynb|md)(?=["#])', r'href="\1.html', body)


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


def _targets(folder: Path, address: str, heading: str) -> str:
    """A folder's part of the front page, as Markdown: a line for each target, then its other pages."""
    scores = load(presets.resolve(*folder.name.rsplit("-", 1)), folder.parent)
    images = "{train:,} training and {val:,} test images".format(**scores.about["images"])
    others = [s for s in _sources(folder) if s.stem not in experiments.EXPERIMENTS]
    parts = [
        f"## {heading}{scores.setting.benchmark}, {scores.setting.preset}",
        f"{images}, tested on folds {', '.join(map(str, scores.folds))}.",
        verdicts.linked_overview(scores, address),
        " · ".join(f"[{title(source.stem)}]({address}{source.name})" for source in others),
        *(f"![{title(p.stem)}]({address}{p.name})" for p in sorted(folder.glob("*.png"))),
    ]
    return "\n\n".join(parts)
