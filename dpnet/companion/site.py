"""The results as static pages: they open from disk, load nothing from a network, and are the same every time."""

import html
import json
import posixpath
import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from dpnet.companion import presets, report, tables
from dpnet.io import DPNetError, read_json, write

try:
    import nbformat
    from bs4 import BeautifulSoup, Tag
    from latex2mathml.converter import convert
    from nbconvert.exporters import TemplateExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer
except ImportError as error:
    raise DPNetError(f"the site needs {error.name}: pip install -e '.[notebooks]'") from None

DOI = "https://doi.org/10.1609/aaai.v36i2.20090"
PAPER = "Learning from the Target: Dual Prototype Network for Few Shot Semantic Segmentation"
# Nothing but styles and pictures, from beside the page; Chromium and Firefox differ on whether 'self' has file:.
POLICY = "default-src 'none'; style-src 'self' file:; img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
ORDER = ("report", "table", "fig", "diversity")  # of the notebooks in a folder
# A status: its colour, and what it means in words; its symbol is the report's.
STATUS = {
    "reproduced": ("good", "the paper's value lies inside our 95 % interval"),
    "differs": ("bad", "the paper's value lies outside our 95 % interval"),
    "same direction": ("good", "not the paper's setting; the effect has the paper's sign"),
    "opposite direction": ("bad", "not the paper's setting; the effect has the other sign"),
    "mixed": ("open", "some of its effects go the paper's way, others do not"),
    "undecided": ("open", "the interval has zero inside"),
    "no claim": ("none", "nothing that the paper says of it could be held against a run"),
    "incomplete": ("none", "some of its runs are missing"),
    "not run": ("none", "nobody has run it here; the command is beside it"),
}
NUMBER = re.compile(r"[+−-]?\d[\d.,]*( ?%)?( \[.*\])?|NaN|—|")
ABOUT = {
    "shapes": "The embedded benchmark: rendered scenes",
    "pascal": "PASCAL-5i, the paper's data",
    "pascal-mini": "Photographs of PASCAL VOC 2012",
    "coco": "COCO-20i, the paper's data",
    "folder": "Images of one's own",
}
CAPTIONS = {
    "episodes": "One example of each of five classes that the network never saw in training. Top to bottom: the "
    "support that says what to look for, the ground truth, the prediction without and with the pseudo-prototype."
}
# What nbconvert leaves to a template: which parts of a cell are shown, and how.
CELLS = """
{%- extends 'base/display_priority.j2' -%}
{%- block markdowncell -%}<div class="prose">{{ cell.source | prose }}</div>{%- endblock -%}
{%- block input -%}{{ cell.source | code }}{%- endblock -%}
{%- block output_group -%}<div class="output">{{ super() }}</div>{%- endblock -%}
{%- block stream -%}{{ output.text | said }}{%- endblock -%}
{%- block error -%}<pre>{{ output.traceback | join('\\n') | ansi2html }}</pre>{%- endblock -%}
{%- block execute_result -%}
{%- block data_priority scoped -%}{{ super() }}{%- endblock -%}
{%- endblock -%}
{%- block data_html -%}{{ output.data['text/html'] }}{%- endblock -%}
{%- block data_svg -%}{{ output.data['image/svg+xml'] }}{%- endblock -%}
{%- block data_png -%}<img src="data:image/png;base64,{{ output.data['image/png'] | strip }}">{%- endblock -%}
{%- block data_jpg -%}<img src="data:image/jpeg;base64,{{ output.data['image/jpeg'] | strip }}">{%- endblock -%}
{%- block data_markdown -%}<div class="prose">{{ output.data['text/markdown'] | prose }}</div>{%- endblock -%}
{%- block data_text -%}<pre>{{ output.data['text/plain'] | ansi2html }}</pre>{%- endblock -%}
"""


@dataclass(frozen=True)
class Page:
    """A page and what it is made from.

    Arguments:
        file: where it is in the site, `folder/table3.html`.
        source: where its notebook or Markdown is in the results, `folder/table3.ipynb`.
        name: how links call it.
    """

    file: str
    source: str
    name: str

    @property
    def target(self) -> str:
        """What a user types to make it: `table3`, of its trainings too."""
        return Path(self.source).stem.partition("-")[0]

    @property
    def training(self) -> bool:
        """Whether it shows trainings."""
        return posixpath.basename(posixpath.dirname(self.source)) == "train"

    def link(self, to: str) -> str:
        """The relative address of a file of the site."""
        return quote(posixpath.relpath(to, posixpath.dirname(self.file) or "."))


@dataclass(frozen=True)
class Folder:
    """What one benchmark gave at one preset.

    Arguments:
        results: the folder of all results.
        name: its own, `benchmark-preset`.
    """

    results: Path
    name: str
    benchmark: str = field(init=False)
    preset: str = field(init=False)

    def __post_init__(self) -> None:
        for key, value in zip(("benchmark", "preset"), self.name.rsplit("-", 1), strict=True):
            object.__setattr__(self, key, value)

    @cached_property
    def pages(self) -> list[Page]:
        """Its report, tables, figures and whatever else it has, then its trainings."""
        root = self.results / self.name
        found = [Page(f"{self.name}/index.html", f"{self.name}/REPORT.md", "Report")]
        found = found if (root / "REPORT.md").exists() else []
        whole = [p for p in root.glob("*.ipynb") if ".failed" not in p.name]
        for file in sorted(whole, key=lambda p: (_rank(p.stem), p.stem)):
            name = "Report, computed" if file.stem == "report" else title(file.stem)
            found.append(Page(f"{self.name}/{file.stem}.html", f"{self.name}/{file.name}", name))
        for file in sorted(root.glob("train/*.ipynb")):
            if ".failed" not in file.name:
                found.append(
                    Page(f"{self.name}/train/{file.stem}.html", f"{self.name}/train/{file.name}", title(file.stem))
                )
        return found

    @cached_property
    def files(self) -> list[str]:
        """Tables and pictures, copied as they are."""
        root = self.results / self.name
        return [f"{self.name}/{p.name}" for p in sorted([*root.glob("*.csv"), *root.glob("*.png")])]

    def of(self, target: str, suffix: str = "") -> list[str]:
        """The files of a target: `table3.csv`, `table3_effects.csv`."""
        named = re.compile(rf"{re.escape(target)}([_-].*)?\.(csv|png)")
        return [f for f in self.files if named.fullmatch(posixpath.basename(f)) and f.endswith(suffix)]


def build(results: Path, out: Path, tiny: bool = False) -> list[Path]:
    """Write the site.

    Arguments:
        results: the folder of all results.
        out: the folder of the site; pages in it that are no longer made are removed.
        tiny: with the results at the preset `tiny`, whose numbers mean nothing.

    Returns:
        its files, sorted.

    Raises:
        DPNetError: nothing to show, a formula that cannot be read, or a folder that is not a site's.
    """
    folders = _folders(results, tiny)
    if out.exists() and any(out.iterdir()) and not (out / "site.css").exists():
        raise DPNetError(f"{out}: not a site's folder: choose an empty one")
    made = {"site.css": Path(__file__).with_name("site.css").read_bytes()}
    for folder in folders:
        made |= {file: (results / file).read_bytes() for file in folder.files}
    made |= {file: (results / file).read_bytes() for file in _measured(results)}
    known = {file: file for folder in folders for file in folder.files}
    known |= {page.source: page.file for folder in folders for page in folder.pages}
    made["index.html"] = _front(folders, results).encode()
    for folder in folders:
        for page in folder.pages:
            made[page.file] = _page(page, folder, known).encode()
    for file, content in made.items():
        write(out / file, content)
    for stale in out.rglob("*"):
        if stale.suffix in (".html", ".csv", ".png") and stale.relative_to(out).as_posix() not in made:
            stale.unlink()
    return sorted(out / file for file in made)


def title(stem: str) -> str:
    """How readers call a notebook: `table3-fold0-seed1` is "Table 3, fold 0, seed 1"."""
    words = [re.sub(r"^([a-z]+)(\d+)$", r"\1 \2", word) for word in stem.split("-")]
    said = ", ".join(words).replace("_", " ")
    return re.sub(r"^Fig ", "Fig. ", said[:1].upper() + said[1:])


def _folders(results: Path, tiny: bool) -> list[Folder]:
    """The embedded benchmark first."""
    found = [Folder(results, p.parent.name) for p in results.glob("*-*/benchmark.json")]
    large = [f for f in found if f.preset != "tiny"]
    if not found:
        raise DPNetError(f"{results}: no results to show: run `make reproduce-table3`")
    known = {name: place for place, name in enumerate(presets.BENCHMARKS)}
    kept = found if tiny or not large else large
    return sorted(kept, key=lambda f: (known.get(f.benchmark, len(known)), f.benchmark, f.preset))


def _rank(stem: str) -> int:
    return next((place for place, start in enumerate(ORDER) if stem.startswith(start)), len(ORDER))


# ---- one page


def _page(page: Page, folder: Folder, known: dict[str, str]) -> str:
    """A notebook or a Markdown file, with its way to the other pages."""
    source = folder.results / page.source
    try:
        body = f'<div class="prose">{_prose(source.read_text())}</div>' if source.suffix == ".md" else _cells(source)
    except DPNetError as error:
        raise DPNetError(f"{source}: {error}") from None
    soup = BeautifulSoup(body, "html.parser")
    _tidy(soup, page.name)
    _relink(soup, page, known)
    heading = soup.find("h1")
    if heading is None:
        heading = soup.new_tag("h1", string=page.name)
        soup.insert(0, heading)
    heading.insert_after(BeautifulSoup(_contents(soup), "html.parser"))
    parts = [f"<article>{soup}</article>"]
    files = folder.of(page.target)
    if page.target == "report" or source.suffix == ".md":
        files = [f for f in folder.files if f.endswith(".csv")]
    if files:
        parts.append(_list("Files behind this page", [(page.link(f), posixpath.basename(f)) for f in files]))
    users = {page.target, "all"}  # a training may be that of several targets, or of all
    others = [p for p in folder.pages if p.training and p != page and users & set(p.target.split("+"))]
    if others:
        what = "Other trainings of this target" if page.training else "Trainings behind it"
        parts.append(_list(what, [(page.link(p.file), p.name) for p in others]))
    place = folder.pages.index(page)
    way = ""
    for other, word in ((place - 1, "previous"), (place + 1, "next")):
        if 0 <= other < len(folder.pages):
            to = folder.pages[other]
            rel = "prev" if word == "previous" else word
            way += f'<a rel="{rel}" href="{page.link(to.file)}"><span>{word}</span> {html.escape(to.name)}</a>'
    parts.append(f'<nav class="way" aria-label="Previous and next page">{way}</nav>')
    crumbs = (
        f'<a href="{page.link("index.html")}">DPNet companion</a> '
        f'<a href="{page.link("index.html")}#{folder.name}">{folder.benchmark}, {folder.preset}</a> '
        f'<span aria-current="page">{html.escape(page.name)}</span>'
    )
    return _whole(page, f"{page.name}: {folder.benchmark}, {folder.preset}", crumbs, "\n".join(parts))


def _whole(page: Page, name: str, crumbs: str, body: str) -> str:
    top = f'<nav class="crumbs" aria-label="Where this is">{crumbs}</nav>\n' if crumbs else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(name)} · DPNet companion</title>\n"
        f'<link rel="stylesheet" href="{page.link("site.css")}">\n</head>\n'
        f"<body>\n{top}<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _list(name: str, links: list[tuple[str, str]]) -> str:
    items = " ".join(f'<li><a href="{to}">{html.escape(text)}</a></li>' for to, text in links)
    return f'<section class="beside"><h2>{name}</h2><ul>{items}</ul></section>'


def _contents(soup: BeautifulSoup) -> str:
    """The sections of a long page."""
    found = [h for h in soup.find_all("h2") if h.get_text(strip=True)]
    if len(found) < 3:
        return ""
    items = "".join(f'<li><a href="#{quote(str(h["id"]))}">{html.escape(h.get_text())}</a></li>' for h in found)
    return f'<nav class="contents" aria-label="On this page"><ul>{items}</ul></nav>'


# ---- what cells and Markdown become


def _cells(notebook: Path) -> str:
    filters = {"prose": _prose, "code": _code, "said": _said, "strip": str.strip}
    exporter = TemplateExporter(raw_template=CELLS, template_name="base", filters=filters)
    body, _ = exporter.from_notebook_node(nbformat.read(notebook, 4))
    return str(body)


class _Renderer(IPythonRenderer):
    """Markdown whose formulas are MathML, which browsers draw by themselves."""

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return f'<span class="formula">{_mathml(body, "block")}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


def _mathml(formula: str, display: str) -> str:
    try:
        found = str(convert(formula.strip(), display=display))
    except Exception as error:  # its exceptions have no common base
        raise DPNetError(f"formula {formula.strip()!r}: {type(error).__name__}") from None
    if "\\" in found:  # an unknown command is passed on as a name
        raise DPNetError(f"formula {formula.strip()!r}: unknown command")
    return found


def _prose(text: str) -> str:
    return MarkdownWithMath(renderer=_Renderer(escape=False, exclude_anchor_links=True)).render(text)


def _code(text: str) -> str:
    """One line is shown, several are folded."""
    coloured = highlight(text, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip("\n")
    first, *others = text.strip().split("\n")
    if not others:
        return f'<pre class="code"><code>{coloured}</code></pre>'
    return (
        f'<details class="code"><summary><code>{html.escape(first)}</code> '
        f"<span>{len(others) + 1} lines</span></summary><pre><code>{coloured}</code></pre></details>"
    )


def _said(text: str, width: int = 110) -> str:
    """Printed sentences flow; what has columns or one word per line stays as it is."""
    lines = text.rstrip("\n").split("\n")
    if re.search(r"\S  +\S|^ |\x1b", text, re.MULTILINE) or not any(" " in line for line in lines):
        return f"<pre>{html.escape(text.rstrip())}</pre>"
    flowing = [lines[0]]
    for before, line in pairwise(lines):
        word = line.split(" ")[0]
        if word and len(before) <= width < len(before) + 1 + len(word):  # broken only since the next word had no room
            flowing[-1] += f" {line}"
        else:
            flowing.append(line)
    return "".join(f'<p class="said">{html.escape(line)}</p>' for line in flowing if line)


# ---- what makes it readable: scopes, anchors, descriptions, frames that scroll


def _tidy(soup: BeautifulSoup, name: str) -> None:
    for tag in soup.find_all(["script", "style"]):
        tag.decompose()
    for tag in soup.find_all(True):
        for attribute in [a for a in tag.attrs if a in ("style", "border", "align") or a.startswith("on")]:
            del tag[attribute]
    _anchor(soup)
    for picture in soup.find_all("img"):
        picture["alt"] = picture.get("alt") or _about(picture, name)
    for table in soup.find_all("table"):
        _tidy_table(table)
        frame = soup.new_tag("div", attrs={"class": "scroll", "role": "region", "tabindex": "0"})
        frame["aria-label"] = _about(table, name)
        table.wrap(frame)
    for block in soup.find_all("pre"):
        block["tabindex"] = "0"  # it scrolls


def _anchor(soup: BeautifulSoup) -> None:
    """Ids as GitHub makes them, so that links into a Markdown file hold."""
    used: dict[str, int] = {}
    for heading in soup.find_all(re.compile("^h[1-6]$")):
        slug = re.sub(r"[^\w\- ]", "", heading.get_text().strip().lower()).replace(" ", "-")
        used[slug] = used.get(slug, -1) + 1
        heading["id"] = slug if not used[slug] else f"{slug}-{used[slug]}"


def _about(tag: Tag, name: str) -> str:
    """The heading above a picture or table."""
    heading = tag.find_previous(re.compile("^h[1-6]$"))
    return heading.get_text().strip() if heading is not None else name


def _tidy_table(table: Tag) -> None:
    rows = [row.find_all(["th", "td"]) for row in table.find_all("tr")]
    head = [row for row in rows if row and all(cell.name == "th" for cell in row)]
    body = [row for row in rows if any(cell.name == "td" for cell in row)]
    first = [row[0].get_text() for row in (*head, *body)]
    if len(head) == 1 and body and first == ["", *map(str, range(len(body)))]:  # counts rows, says nothing
        for row in (*head, *body):
            row.pop(0).decompose()
    for cell in (cell for row in head for cell in row):
        cell["scope"] = "col"
    for row in body:
        if not re.fullmatch(r"[\d.+−-]*", row[0].get_text().strip()):
            row[0].name, row[0]["scope"] = "th", "row"
        for cell in row:
            if len(cell.get_text()) > 60:
                cell["class"] = "long"
            status = next((s for s in STATUS if cell.get_text().strip() == report.SYMBOLS[s]), None)
            if status:
                cell.clear()
                cell.append(BeautifulSoup(_badge(status), "html.parser"))
    for place, column in enumerate(zip(*body, strict=False)):
        if all(NUMBER.fullmatch(cell.get_text().strip()) for cell in column):
            for cell in (*column, *(row[place] for row in head if len(row) > place)):
                cell["class"] = "number nothing" if cell.get_text().strip() == "NaN" else "number"


def _relink(soup: BeautifulSoup, page: Page, known: dict[str, str]) -> None:
    """Links between results become links between pages; what the site does not have is no link."""
    for tag, attribute in [*((a, "href") for a in soup.find_all("a")), *((i, "src") for i in soup.find_all("img"))]:
        address = urlsplit(str(tag.get(attribute, "")))
        if address.scheme or address.netloc or not address.path:
            continue
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(page.source), unquote(address.path)))
        if wanted in known:
            tag[attribute] = page.link(known[wanted]) + (f"#{address.fragment}" if address.fragment else "")
        elif tag.name == "a":
            tag.unwrap()


# ---- the front page


def _front(folders: list[Folder], results: Path) -> str:
    front = Page("index.html", "", "DPNet companion")
    blocks, seen = [], set()
    for folder in folders:
        lines, statuses = _targets(front, folder, results)
        seen |= set(statuses)
        blocks.append(_block(front, folder, lines))
    jumps = "".join(f'<li><a href="#{f.name}">{f.benchmark}, {f.preset}</a></li>' for f in folders)
    fast = _fast(front, results)
    jumps += '<li><a href="#speed">speed</a></li>' if fast else ""
    meanings = "".join(
        f"<dt>{_badge(status)}</dt><dd>{html.escape(meaning)}</dd>"
        for status, (_, meaning) in STATUS.items()
        if status in seen
    )
    body = f"""<header>
<h1>DPNet companion</h1>
<p class="lead"><a href="{DOI}">{PAPER}</a> (AAAI 2022), as data, beside the runs that test it.</p>
<p>Each line below is a table or a figure of the paper: what it is about, how our runs stand to it, and the notebook
and data behind that. No number on these pages is typed: notebooks compute them from the counts of every episode.</p>
<p>To make a table yourself, with two CPU cores and no data of your own:</p>
<pre tabindex="0"><code>make reproduce-table3</code></pre>
<nav class="contents" aria-label="Benchmarks"><ul>{jumps}</ul></nav>
</header>
{"".join(blocks)}{fast}
<section class="meanings"><h2 id="words">What the words mean</h2><dl>{meanings}</dl></section>"""
    return _whole(front, "Tables and figures at a glance", "", body)


def _block(front: Page, folder: Folder, lines: str) -> str:
    about = json.loads((folder.results / folder.name / "benchmark.json").read_text())
    tested = [str(fold) for fold, classes in enumerate(about["tested"]) if classes]
    what = ABOUT.get(folder.benchmark, folder.benchmark)
    images = "{train:,} training and {val:,} test images".format(**about["images"])
    parts = [
        f'<section class="block"><h2 id="{folder.name}">{folder.benchmark}, {folder.preset}</h2>\n'
        f"<p>{what}; {images}, tested on fold{'s' * (len(tested) > 1)} {', '.join(tested)}.</p>"
    ]
    reports = [p for p in folder.pages if p.target in ("REPORT", "report")]
    if reports:
        parts.append(
            '<p class="reports">' + " ".join(f'<a href="{front.link(p.file)}">{p.name}</a>' for p in reports) + "</p>"
        )
    parts.append(
        '<table class="targets" role="table"><thead role="rowgroup"><tr role="row">'
        + "".join(
            f'<th role="columnheader" scope="col">{h}</th>' for h in ("What", "Status", "What came out", "Data")
        )
        + f'</tr></thead><tbody role="rowgroup">{lines}</tbody></table>'
    )
    shown = {file for page in folder.pages for file in folder.of(page.target)}  # on their own pages
    for picture in (f for f in folder.files if f.endswith(".png") and f not in shown):
        name = Path(picture).stem
        parts.append(
            f'<figure><img src="{front.link(picture)}" alt="{title(name)} of {folder.benchmark}">'
            f"<figcaption>{CAPTIONS.get(name, title(name))}</figcaption></figure>"
        )
    trainings = [p for p in folder.pages if p.training]
    if trainings:
        items = "".join(f'<li><a href="{front.link(p.file)}">{p.name}</a></li>' for p in trainings)
        parts.append(f"<details><summary>{len(trainings)} training notebooks</summary><ul>{items}</ul></details>")
    return "\n".join(parts) + "</section>\n"


def _measured(results: Path) -> list[str]:
    """The measurements of `make speed` and their plots."""
    return sorted(f"speed/{p.name}" for p in (results / "speed").glob("*") if p.suffix in (".json", ".png"))


def _fast(front: Page, results: Path) -> str:
    """What sharing work is worth, on each device that was measured."""
    parts = []
    for file in (f for f in _measured(results) if f.endswith(".json")):
        found = read_json(results / file)
        table = BeautifulSoup(tables.speed(found).to_html(index=False), "html.parser")
        _tidy(table, f"Speed on {found['device']}")
        picture = file.replace(".json", ".png")
        parts.append(
            f"<h3>{found['device']}</h3><p>Medians of {found['repeats']} turns, in brackets the least and the most. "
            f'{html.escape(tables.speed_in_words(found))}</p>{table}<p><a href="{front.link(file)}">JSON</a></p>'
        )
        if (results / picture).exists():
            parts.append(
                f'<figure><img src="{front.link(picture)}" alt="Cost against episodes, variants, supports, image '
                f'size and grid, and where the time goes, on {found["device"]}"></figure>'
            )
    about = (
        "<p>Images are encoded once, variants train in lockstep, thresholds share one match: measured against plain "
        "loops that do what the field's scripts do and give the same answers (<code>make speed</code>).</p>"
    )
    return f'<section class="speed"><h2 id="speed">Speed</h2>{about}{"".join(parts)}</section>\n' if parts else ""


def _targets(front: Page, folder: Folder, results: Path) -> tuple[str, list[str]]:
    """A line for each target of the paper, and for each notebook that is none."""
    found = report.overview(folder.benchmark, folder.preset, results)
    pages = {p.target: p for p in folder.pages if not p.training}
    lines = []
    for target, about, status, said in zip(*(found[c] for c in ("target", "title", "status", "said")), strict=True):
        name = title(target)
        page = pages.pop(target, None)
        named = f'<a href="{front.link(page.file)}">{name}</a>' if page else name
        data = [f'<a href="{front.link(f)}">{posixpath.basename(f)}</a>' for f in folder.of(target, ".csv")]
        if status in ("not run", "incomplete") or not data:
            data.append(f"<code>{_command(folder, target)}</code>")
        lines.append(
            f'<tr role="row"><th role="rowheader" scope="row">{named} <span>{html.escape(about)}</span></th>'
            f'<td role="cell">{_badge(status)}</td><td role="cell">{html.escape(said)}</td>'
            f'<td role="cell" class="data">{" ".join(data)}</td></tr>'
        )
    for target, page in pages.items():
        if target not in ("REPORT", "report"):
            lines.append(
                f'<tr role="row"><th role="rowheader" scope="row"><a href="{front.link(page.file)}">{page.name}</a>'
                '</th><td role="cell"></td><td role="cell"></td><td role="cell" class="data"></td></tr>'
            )
    return "\n".join(lines), list(found["status"])


def _command(folder: Folder, target: str) -> str:
    words = [f"make reproduce-{target}"]
    words += [f"BENCHMARK={folder.benchmark}"] if folder.benchmark != "shapes" else []
    words += [f"PRESET={folder.preset}"] if folder.preset != "quick" else []
    return " ".join(words)


def _badge(status: str) -> str:
    if status not in STATUS:
        raise DPNetError(f"unknown status {status!r}: the site knows {', '.join(STATUS)}")
    symbol, words = report.SYMBOLS[status].split(" ", 1)
    return f'<span class="badge {STATUS[status][0]}"><span aria-hidden="true">{symbol}</span> {words}</span>'
