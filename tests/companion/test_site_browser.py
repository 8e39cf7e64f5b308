"""The site in a browser: every page of the committed results, opened from disk, on a phone and on a desk."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from chromium import headless
from selenium import webdriver

from dpnet.companion import report, site

RESULTS = Path(__file__).parents[1] / "results"
PHONE, DESK = 390, 1280
FLAGS = ["headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
FLAGS += ["disable-background-networking", "disable-component-update"]
# What is read from an open page. Contrast: text against the nearest background colour, as WCAG defines it.
FACTS = r"""
const all = (what) => [...document.querySelectorAll(what)];
const light = (colour) => {
  const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map((v) => {
    const c = v / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (tag) => {
  for (; tag; tag = tag.parentElement) {
    const colour = getComputedStyle(tag).backgroundColor;
    if (!/, 0\)$|transparent/.test(colour)) return colour; }
  return "rgb(255, 255, 255)"; };
const texts = all("body *").filter((t) => !t.closest("math") &&
  [...t.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
const contrast = (tag) => {
  const [a, b] = [light(getComputedStyle(tag).color), light(behind(tag))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05); };
return {
  title: document.title, language: document.documentElement.lang, h1: all("h1").length,
  text: document.body.innerText,
  prose: all(".prose").map((e) => e.innerText).join(" "),
  wide: document.documentElement.scrollWidth, width: innerWidth,
  images: all("img").map((i) =>
    [i.getAttribute("src").slice(0, 80), i.naturalWidth, i.getBoundingClientRect().right, i.alt]),
  links: all("a[href], link[href]").map((a) => a.getAttribute("href")),
  ids: all("[id]").map((t) => t.id),
  math: all("math").map((m) => [m.getBoundingClientRect().width, m.getBoundingClientRect().height]),
  small: texts.filter((t) => parseFloat(getComputedStyle(t).fontSize) < 16).map((t) => t.innerText),
  faint: texts.filter((t) => contrast(t) < 4.5).map((t) => `${t.innerText} ${contrast(t)}`),
  font: getComputedStyle(document.body).fontFamily,
  scopes: all("thead th").map((t) => t.getAttribute("scope")),
  tables: all("article table").map((t) => [...t.rows].map((r) => [...r.cells].map((c) => c.innerText.trim()))),
  blocks: all(".block").map((b) => [b.querySelector("h2").id,
    [...b.querySelectorAll("tbody tr")].map((r) => [...r.cells].map((c) => c.innerText.trim()))]),
};"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    site.build(RESULTS, out)
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    yield from headless(FLAGS, tmp_path_factory.mktemp("profile"))


def opened(browser: webdriver.Chrome, page: Path, width: int, scheme: str) -> dict[str, Any]:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    facts: dict[str, Any] = browser.execute_script(FACTS)
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    facts["requests"] = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    facts["console"] = [e["message"] for e in browser.get_log("browser")]
    return facts


@pytest.fixture(scope="module")
def pages(root: Path, browser: webdriver.Chrome) -> dict[str, dict[str, Any]]:
    """Every page on a phone."""
    found = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*.html"))}
    return {name: opened(browser, page, PHONE, "light") for name, page in found.items()}


@pytest.fixture(scope="module")
def desk(root: Path, browser: webdriver.Chrome, pages: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every page on a desk, in the dark."""
    return {name: opened(browser, root / name, DESK, "dark") for name in pages}


def notebooks() -> list[Path]:
    found = [*RESULTS.glob("*-*/*.ipynb"), *RESULTS.glob("*-*/train/*.ipynb")]
    kept = [p for p in found if ".failed" not in p.name and "-tiny" not in p.relative_to(RESULTS).parts[0]]
    return sorted(p.relative_to(RESULTS) for p in kept)


def test_every_notebook_is_a_page(pages: dict[str, Any]) -> None:
    assert notebooks()
    assert {p.with_suffix(".html").as_posix() for p in notebooks()} <= set(pages)


def test_the_console_is_silent_and_only_files_are_asked_for(pages: dict[str, Any], desk: dict[str, Any]) -> None:
    for facts in (*pages.values(), *desk.values()):
        assert facts["console"] == []
        assert any(url.startswith("file:") for url in facts["requests"])  # the log does record
        assert [url for url in facts["requests"] if urlsplit(url).scheme not in ("file", "data")] == []
        assert "Charter" in facts["font"]  # the style sheet is there


def test_pictures_are_seen_and_described(pages: dict[str, Any]) -> None:
    shown = [image for facts in pages.values() for image in facts["images"]]
    assert shown
    for src, width, right, alt in shown:
        assert width > 0, src
        assert alt.strip(), src
        assert right <= PHONE, src


def test_every_link_leads_somewhere(root: Path, pages: dict[str, Any]) -> None:
    for name, facts in pages.items():
        assert len(facts["ids"]) == len(set(facts["ids"])), name
        for href in facts["links"]:
            address = urlsplit(href)
            if address.scheme:
                assert address.scheme == "https", (name, href)
                continue
            to = (root / name).parent / unquote(address.path) if address.path else root / name
            assert to.is_file(), (name, href)
            assert not address.path.startswith("/"), (name, href)
            if address.fragment:
                ids = pages[to.resolve().relative_to(root.resolve()).as_posix()]["ids"]
                assert unquote(address.fragment) in ids, (name, href)


def test_every_page_is_reached_from_the_front_page(root: Path, pages: dict[str, Any]) -> None:
    linked = {(root / unquote(urlsplit(href).path)).resolve() for href in pages["index.html"]["links"]}
    assert [name for name in pages if name != "index.html" and (root / name).resolve() not in linked] == []


def test_what_results_link_to_exists() -> None:
    """The site shows a dead link as plain text, so that no reader meets it; here it is found."""
    for file in [*(RESULTS / p for p in notebooks()), *RESULTS.glob("*-*/REPORT.md")]:
        cells = nbformat.read(file, 4).cells if file.suffix == ".ipynb" else []
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown") or file.read_text() * (not cells)
        for href in re.findall(r"\]\(([^)\s]+)\)", text):
            address = urlsplit(href)
            assert address.scheme or not address.path or (file.parent / unquote(address.path)).exists(), (file, href)


def test_no_page_scrolls_sideways(pages: dict[str, Any], desk: dict[str, Any]) -> None:
    for facts, width in [*((f, PHONE) for f in pages.values()), *((f, DESK) for f in desk.values())]:
        assert facts["width"] == width
        assert facts["wide"] <= width + 1, facts["title"]


def test_text_is_large_and_dark_enough(pages: dict[str, Any], desk: dict[str, Any]) -> None:
    for facts in (*pages.values(), *desk.values()):
        assert facts["small"] == []
        assert facts["faint"] == []
        assert facts["language"] == "en"
        assert facts["h1"] == 1, facts["title"]
        assert set(facts["scopes"]) <= {"col"}
    assert len({facts["title"] for facts in pages.values()}) == len(pages)


def test_formulas_are_drawn(pages: dict[str, Any]) -> None:
    drawn = 0
    for path in notebooks():
        facts = pages[path.with_suffix(".html").as_posix()]
        cells = [c.source for c in nbformat.read(RESULTS / path, 4).cells if c.cell_type == "markdown"]
        text = re.sub(r"```.*?```|`[^`]*`", "", "\n".join(cells), flags=re.DOTALL)
        assert len(facts["math"]) >= len(re.findall(r"\$\$.+?\$\$|\$.+?\$", text, re.DOTALL)), path
        assert all(width > 0 and height > 0 for width, height in facts["math"])
        assert not re.search(r"\$\S+\$", facts["prose"]), path  # code may hold some
        drawn += len(facts["math"])
    assert drawn


@pytest.mark.parametrize("csv", sorted(RESULTS.glob("*-*/table3.csv")), ids=lambda p: p.parent.name)
def test_table_3_shows_the_numbers_of_its_csv(csv: Path, pages: dict[str, Any]) -> None:
    if csv.parent.name.endswith("-tiny"):
        pytest.skip("tiny results are not on the site")
    head, *lines = pages[f"{csv.parent.name}/table3.html"]["tables"][0]
    shown = {}
    for line in lines:
        cells = dict(zip(head, line, strict=True))
        key = tuple(int(cells[name]) for name in ("PIM", "MSF", "CCM"))
        shown |= {(*key, column): value.split(" [")[0] for column, value in cells.items()}
    canet = pd.read_csv(csv, dtype={"fold": str}).query("metric == 'canet'")
    assert len(canet) == len(lines) * sum(c == "mean" or c.startswith("fold") for c in head)
    for row in canet.itertuples():
        column = "mean" if row.fold == "mean" else f"fold {row.fold}"
        expected = "—" if pd.isna(row.miou) else f"{row.miou:.1f}"
        assert shown[row.pim, row.msf, row.ccm, column] == expected, row


def test_the_front_page_has_every_target_with_its_status(pages: dict[str, Any], desk: dict[str, Any]) -> None:
    folders = [p.parent.name for p in RESULTS.glob("*-*/benchmark.json") if not p.parent.name.endswith("-tiny")]
    blocks = dict(pages["index.html"]["blocks"])
    assert set(blocks) == set(folders)
    for folder, lines in blocks.items():
        benchmark, preset = folder.rsplit("-", 1)
        expected = report.overview(benchmark, preset, RESULTS)
        shown = {line[0].split("\n")[0]: line for line in lines}
        for row in expected.itertuples():
            name, status, said, _ = shown[site.title(row.target)]
            assert row.title in " ".join(name.split())
            assert " ".join(status.split()) == report.SYMBOLS[row.status]
            assert " ".join(said.split()) == " ".join(row.said.split())
