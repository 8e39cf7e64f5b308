"""The site in a browser: every page of the committed results, opened from disk, on a phone and on a desk."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pandas as pd
import pytest
from chromium import headless
from selenium import webdriver

from dpnet import io
from dpnet.companion import site

RESULTS = io.ROOT / "results"
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
  title: document.title, h1: all("h1").length, font: getComputedStyle(document.body).fontFamily,
  wide: document.documentElement.scrollWidth, width: innerWidth,
  images: all("img").map((i) => [i.src.slice(0, 80), i.naturalWidth, i.getBoundingClientRect().right]),
  math: all("math").map((m) => [m.getBoundingClientRect().width, m.getBoundingClientRect().height]),
  small: texts.filter((t) => parseFloat(getComputedStyle(t).fontSize) < 16).map((t) => t.innerText),
  faint: texts.filter((t) => contrast(t) < 4.5).map((t) => `${t.innerText} ${contrast(t)}`),
  prose: all(".text_cell").map((e) => e.innerText).join(" "),
  tables: all("main table").map((t) => [...t.rows].map((r) => [...r.cells].map((c) => c.innerText.trim()))),
};"""


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


Pages = dict[str, dict[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    yield from headless(FLAGS, tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def pages(browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Every page, on a phone in light and on a desk in the dark."""
    root = tmp_path_factory.mktemp("site")
    files = [file for file in site.build({"": RESULTS}, root) if file.suffix == ".html"]
    sizes = ((PHONE, "light"), (DESK, "dark"))
    return {f.relative_to(root).as_posix(): {w: opened(browser, f, w, scheme) for w, scheme in sizes} for f in files}


def notebooks() -> list[Path]:
    every = [file for file in RESULTS.glob("*-*/*.ipynb") if file.stem != "report"]
    whole = [p for p in every if ".failed" not in p.name and "-tiny" not in p.relative_to(RESULTS).parts[0]]
    return sorted(p.relative_to(RESULTS) for p in whole)


def test_every_notebook_is_a_page(pages: Pages) -> None:
    assert notebooks()
    assert {p.with_suffix(".html").as_posix() for p in notebooks()} <= set(pages)
    assert len({facts[DESK]["title"] for facts in pages.values()}) == len(pages)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_page_is_silent_fits_its_screen_and_can_be_read(width: int, pages: Pages) -> None:
    for name, facts in ((name, page[width]) for name, page in pages.items()):
        assert facts["console"] == [], name
        assert any(url.startswith("file:") for url in facts["requests"])  # the log does record
        assert [url for url in facts["requests"] if urlsplit(url).scheme not in ("file", "data")] == [], name
        assert "Charter" in facts["font"]  # the style sheet is there
        assert facts["width"] == width
        assert facts["wide"] <= width + 1, name
        assert facts["small"] == [], name
        assert facts["faint"] == [], name
        assert facts["h1"] == 1, name
        assert all(natural > 0 and right <= width for _, natural, right in facts["images"]), name


def test_formulas_are_drawn(pages: Pages) -> None:
    drawn = 0
    for path in notebooks():
        facts = pages[path.with_suffix(".html").as_posix()][PHONE]
        cells = [c.source for c in nbformat.read(RESULTS / path, 4).cells if c.cell_type == "markdown"]
        text = re.sub(r"```.*?```|`[^`]*`", "", "\n".join(cells), flags=re.DOTALL)
        assert len(facts["math"]) >= len(re.findall(r"\$\$.+?\$\$|\$.+?\$", text, re.DOTALL)), path
        assert all(width > 0 and height > 0 for width, height in facts["math"])
        assert not re.search(r"\$\S+\$", facts["prose"]), path
        drawn += len(facts["math"])
    assert drawn


@pytest.mark.parametrize("csv", sorted(RESULTS.glob("*-*[!y]/table3.csv")), ids=lambda p: p.parent.name)
def test_table_3_shows_the_numbers_of_its_csv(csv: Path, pages: Pages) -> None:
    head, *lines = pages[f"{csv.parent.name}/table3.html"][DESK]["tables"][0]
    values = {}
    for line in lines:
        cells = dict(zip(head, line, strict=True))
        key = tuple(int(cells[name]) for name in ("PIM", "MSF", "CCM"))
        values |= {(*key, column): value.split(" [")[0] for column, value in cells.items()}
    canet = pd.read_csv(csv, dtype={"fold": str}).query("metric == 'canet'")
    assert len(canet) == len(lines) * sum(c == "mean" or c.startswith("fold") for c in head)
    for row in canet.itertuples():
        column = "mean" if row.fold == "mean" else f"fold {row.fold}"
        assert values[row.pim, row.msf, row.ccm, column] == ("—" if pd.isna(row.miou) else f"{row.miou:.1f}"), row
