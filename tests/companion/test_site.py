"""The site without a browser: a small invented results folder, every page read as text."""

import json
import os
import platform
import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from dpnet.companion import report, site
from dpnet.io import DPNetError

TABLE = """<div><style scoped>.dataframe {}</style><table border="1" class="dataframe">
<thead><tr style="text-align: right;"><th></th><th>PIM</th><th>name</th><th>fold</th><th>mean</th></tr></thead><tbody>
<tr><th>0</th><td>0</td><td>base</td><td>0</td><td>32.4 [31.6, 33.3]</td></tr>
<tr><th>1</th><td>1</td><td>pim</td><td>mean</td><td>NaN</td></tr></tbody></table><script>alert(1)</script></div>"""
REPORT = r"""# Report

[Table 3](table3.ipynb), [its data](table3.csv), [a training](train/table3-fold0-seed0.ipynb#loss),
[the runs](runs/), [outside](../../README.md), [below](#the-papers-lint), [the paper](https://doi.org/10.1609/x).

![What it looks like](episodes.png)

| what | status |
| --- | --- |
| PIM | ± mixed |

## The paper's lint

$M \in \{0, 1\}$ and

$$\frac{a}{b}$$
"""


def png() -> bytes:
    """One grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\x00\x80")) + chunk(b"IEND", b"")


def notebook(file: Path, *cells: nbformat.NotebookNode) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=[*cells]), file)


def results_in(root: Path, *names: str) -> Path:
    about = {"tested": [[1], [2], [], [4]], "images": {"train": 1000, "val": 400}}
    for name in names:
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "benchmark.json").write_text(json.dumps(about))
        (folder / "REPORT.md").write_text(REPORT)
        (folder / "episodes.png").write_bytes(png())
        (folder / "table3.csv").write_text("pim,miou\n0,32.4\n")
        (folder / "table3_effects.csv").write_text("effect\n")
        picture = {"image/png": b64encode(png()).decode(), "text/plain": "<Figure>"}
        sentence = "word " * 21 + "words\nbroken, only since there was no room. 5 < 6\nA new one."
        outputs = [
            v4.new_output("execute_result", {"text/html": TABLE, "text/plain": ""}, execution_count=1),
            v4.new_output("display_data", picture),
            v4.new_output("stream", text=sentence),
            v4.new_output("stream", text="a  1\nb  2\n"),
        ]
        notebook(
            folder / "table3.ipynb",
            v4.new_markdown_cell("# Table 3: one & two\n\nMath: $L_{seg}$. See [the report](REPORT.md).", id="a"),
            v4.new_code_cell("import pandas\n\nprint('<b>')", id="b"),
            v4.new_markdown_cell("## A heading", id="c"),
            v4.new_code_cell("results.beside()", outputs=outputs, id="d"),
            v4.new_markdown_cell("## A heading\n\n## Another", id="e"),
        )
        notebook(folder / "train" / "table3-fold0-seed0.ipynb", v4.new_markdown_cell("# Train\n\n## Loss", id="a"))
        notebook(folder / "table3.failed.ipynb", v4.new_markdown_cell("failed", id="a"))
    return root


@pytest.fixture(scope="module", autouse=True)
def _overview() -> Iterator[None]:
    def invented(benchmark: str, preset: str, results: Path) -> pd.DataFrame:
        rows = [(f"table{n}", f"about {n}", status, "a < b") for n, status in enumerate(site.STATUS, 1)]
        return pd.DataFrame(rows, columns=["target", "title", "status", "said"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "overview", invented, raising=False)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("all")
    site.build(results_in(root / "results", "shapes-quick", "pascal-mini-quick", "shapes-tiny"), root / "site")
    return root / "site"


def pages(root: Path) -> dict[Path, BeautifulSoup]:
    return {p: BeautifulSoup(p.read_text(), "html.parser") for p in sorted(root.rglob("*.html"))}


def test_every_notebook_has_a_page_and_tiny_ones_only_when_asked(built: Path, tmp_path: Path) -> None:
    names = {p.relative_to(built).as_posix() for p in built.rglob("*") if p.is_file()}
    one = {"episodes.png", "index.html", "table3.csv", "table3.html", "table3_effects.csv"}
    one |= {"train/table3-fold0-seed0.html"}
    both = {f"{folder}/{name}" for folder in ("shapes-quick", "pascal-mini-quick") for name in one}
    assert names == both | {"index.html", "site.css"}
    written = site.build(built.parent / "results", tmp_path / "again", tiny=True)
    assert tmp_path / "again" / "shapes-tiny" / "table3.html" in written
    site.build(results_in(tmp_path / "only", "shapes-tiny"), tmp_path / "third")
    assert (tmp_path / "third" / "shapes-tiny" / "table3.html").exists()


def test_the_same_input_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    again = site.build(built.parent / "results", tmp_path / "again")
    assert again == sorted(again)
    for file in again:
        assert file.read_bytes() == (built / file.relative_to(tmp_path / "again")).read_bytes()


def test_nothing_is_loaded_from_a_network_and_nothing_runs(built: Path) -> None:
    for page, soup in pages(built).items():
        loaded = [str(t.get("src") or t.get("href")) for t in soup.find_all(["img", "link", "source", "iframe"])]
        assert [a for a in loaded if urlsplit(a).scheme not in ("", "data") or a.startswith("/")] == [], page
        assert not soup.find_all(["script", "style", "iframe", "object"])
        assert not [t for t in soup.find_all(True) if t.get("style") or any(a.startswith("on") for a in t.attrs)]
        policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})
        assert policy is not None
        assert "default-src 'none'" in str(policy["content"])
    assert not re.search(r"url\(|@import", (built / "site.css").read_text())


def test_links_are_relative_and_resolve(built: Path) -> None:
    found = pages(built)
    ids = {page: [str(t["id"]) for t in soup.find_all(id=True)] for page, soup in found.items()}
    assert all(len(set(names)) == len(names) for names in ids.values())
    for page, soup in found.items():
        for tag in soup.find_all(["a", "img", "link"]):
            address = urlsplit(str(tag.get("href") or tag.get("src")))
            if address.scheme in ("https", "data"):
                continue
            assert not address.path.startswith("/")
            to = (page.parent / unquote(address.path)).resolve() if address.path else page
            assert to.is_file(), (page, to)
            assert not address.fragment or unquote(address.fragment) in ids[to], (page, address)


def test_pages_name_no_machine(built: Path) -> None:
    words = [str(built.parent), str(Path.home()), platform.node(), os.environ.get("USER", "")]
    for page in pages(built):
        assert [w for w in words if len(w) > 5 and w in page.read_text()] == []


def test_the_report_links_to_pages(built: Path) -> None:
    soup = pages(built)[built / "shapes-quick" / "index.html"]
    links = {a.get_text(): a["href"] for a in soup.article.find_all("a")}
    assert links == {
        "Table 3": "table3.html",
        "its data": "table3.csv",
        "a training": "train/table3-fold0-seed0.html#loss",
        "below": "#the-papers-lint",
        "the paper": "https://doi.org/10.1609/x",
    }
    assert "the runs" in soup.get_text()  # what the site does not have is no link
    assert [i["alt"] for i in soup.find_all("img")] == ["What it looks like"]
    assert [m["display"] for m in soup.find_all("math")] == ["inline", "block"]
    assert "$" not in soup.get_text()
    assert soup.table.find(class_="badge").get_text() == "± mixed"


def test_a_notebooks_page(built: Path) -> None:
    soup = pages(built)[built / "shapes-quick" / "table3.html"]
    assert soup.html["lang"] == "en"
    assert soup.title.get_text().startswith("Table 3: shapes, quick")
    assert [h.get_text() for h in soup.find_all("h1")] == ["Table 3: one & two"]
    assert len(soup.find_all("math")) == 1
    table = soup.table
    rows = [
        [(c.name, c.get("scope"), c.get_text()) for c in row.find_all(["th", "td"])] for row in table.find_all("tr")
    ]
    assert [cell[2] for cell in rows[0]] == ["PIM", "name", "fold", "mean"]  # a running number says nothing
    assert {cell[:2] for cell in rows[0]} == {("th", "col")}
    assert [cell[2] for cell in rows[1]] == ["0", "base", "0", "32.4 [31.6, 33.3]"]
    assert [c.get("class") for c in table.find_all("th")] == [["number"], None, None, ["number"]]
    assert table.parent["class"] == ["scroll"]
    assert soup.article.img["alt"] == "A heading"
    assert [p.get_text() for p in soup.find_all(class_="said")] == [
        "word " * 21 + "words broken, only since there was no room. 5 < 6",
        "A new one.",
    ]
    assert "a  1\nb  2" in [p.get_text() for p in soup.find_all("pre")]
    assert soup.details.summary.get_text() == "import pandas 3 lines"
    assert [a["href"] for a in soup.find(class_="contents").find_all("a")] == [
        "#a-heading",
        "#a-heading-1",
        "#another",
    ]
    assert [a["href"] for a in soup.find(class_="way").find_all("a")] == [
        "index.html",
        "train/table3-fold0-seed0.html",
    ]
    beside = [a["href"] for section in soup.find_all(class_="beside") for a in section.find_all("a")]
    assert beside == ["table3.csv", "table3_effects.csv", "train/table3-fold0-seed0.html"]


def test_the_front_page_has_every_status_in_words_and_with_a_symbol(built: Path) -> None:
    soup = pages(built)[built / "index.html"]
    assert [s.h2["id"] for s in soup.find_all(class_="block")] == ["shapes-quick", "pascal-mini-quick"]
    for block in soup.find_all(class_="block"):
        badges = [b.get_text() for b in block.find_all(class_="badge")]
        assert badges == [report.SYMBOLS[status] for status in site.STATUS]
        assert all(re.fullmatch(r"\S \w+( \w+)?", badge) for badge in badges)
    assert soup.find("a", href=site.DOI)
    assert "make reproduce-table1 BENCHMARK=pascal-mini" in soup.get_text()


def test_the_front_page_shows_what_was_measured(tmp_path: Path) -> None:
    root = results_in(tmp_path / "results", "shapes-quick")
    ratio = {"what": "a < thing", "unit": "s", "ours": [1, 1, 1], "against": [4, 4, 4], "reference": "one"}
    ratio |= {"ratio": [4, 3, 5], "budget": 2.5, "more is better": True}
    checks = {"pixels that differ (%)": 0.01, "pixels that differ, three scales (%)": 0.02, "precision": "bf16"}
    checks |= {"mIoU that differs (points)": 0.05, "rows": 4, "episodes": 40}
    (root / "speed").mkdir()
    found = {"device": "cpu-9-cores", "repeats": 3, "ratios": [ratio], "checks": checks}
    (root / "speed" / "cpu-9-cores.json").write_text(json.dumps(found))
    (root / "speed" / "cpu-9-cores.png").write_bytes(png())
    site.build(root, tmp_path / "site")
    soup = pages(tmp_path / "site")[tmp_path / "site" / "index.html"]
    (section,) = soup.find_all(class_="speed")
    cells = [c.get_text() for c in section.find("tbody").find_all(["th", "td"])]
    assert cells == ["a < thing", "1 s", "4 s (one)", "4 [3, 5]", "≥ 2.5", "yes"]
    assert section.find("img")["src"] == "speed/cpu-9-cores.png"
    assert (tmp_path / "site" / "speed" / "cpu-9-cores.json").exists()
    assert "0.05 points" in section.get_text()
    assert soup.find("a", href="#speed")


def test_what_is_no_longer_made_is_removed_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    root, out = results_in(tmp_path / "results", "shapes-quick"), tmp_path / "site"
    site.build(root, out)
    (root / "shapes-quick" / "table3.ipynb").unlink()
    site.build(root, out)
    assert not (out / "shapes-quick" / "table3.html").exists()
    assert (out / "shapes-quick" / "table3.csv").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.html").write_text("mine")
    with pytest.raises(DPNetError, match="not a site's folder"):
        site.build(root, tmp_path / "mine")
    with pytest.raises(DPNetError, match="make reproduce-table3"):
        site.build(tmp_path / "mine", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("formula", [r"\nosuch{x}", "x_"])
def test_a_formula_that_cannot_be_drawn_is_named(formula: str, tmp_path: Path) -> None:
    root = results_in(tmp_path / "results", "shapes-quick")
    (root / "shapes-quick" / "REPORT.md").write_text(f"${formula}$")
    with pytest.raises(DPNetError, match=r"REPORT\.md: formula"):
        site.build(root, tmp_path / "site")


def test_names() -> None:
    titles = {
        "table3": "Table 3",
        "fig4": "Fig. 4",
        "diversity": "Diversity",
        "table1-fold0-seed2": "Table 1, fold 0, seed 2",
    }
    assert {stem: site.title(stem) for stem in titles} == titles
