"""The site without a browser: a small invented results folder, every page read as text."""

import json
import platform
import re
import shutil
from base64 import b64decode, b64encode
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from invented import ABOUT, scores_in
from nbformat import v4

from dpnet.companion import presets, site, verdicts
from dpnet.io import DPNetError, write

TABLE = """<div><style scoped>.dataframe {}</style><table border="1" class="dataframe">
<thead><tr style="text-align: right;"><th></th><th>PIM</th></tr></thead>
<tbody><tr><th>0</th><td>32.4 [31.6, 33.3]</td></tr></tbody></table><script>alert(1)</script></div>"""
REPORT = r"""# Report

[Table 3](table3.ipynb), [its data](table3.csv), [a guide](01_method.ipynb#eq-1),
[the paper](https://doi.org/10.1609/x). `$code$` stays.

| what | status |
| --- | --- |
| PIM | ± mixed |

## Math

$M \in \{0, 1\}$, $j^*$ and $k^*$, and

$$\frac{a}{b}$$
"""
PNG = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")


def notebook(file: Path, *cells: nbformat.NotebookNode) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=[*cells]), file)


def fill(folder: Path) -> None:
    """What a results folder holds beside its runs."""
    for name, content in {"REPORT.md": REPORT, "table3.csv": "pim\n0\n", "table3_effects.csv": "effect\n"}.items():
        write(folder / name, content.encode())
    write(folder / "episodes.png", PNG)
    outputs = [
        v4.new_output("execute_result", {"text/html": TABLE, "text/plain": ""}, execution_count=1),
        v4.new_output("display_data", {"image/png": b64encode(PNG).decode(), "text/plain": "<Figure>"}),
        v4.new_output("display_data", {"text/markdown": "**Came out** $Q_1$", "text/plain": ""}),
        v4.new_output("stream", text="5 < 6\n"),
    ]
    notebook(
        folder / "table3.ipynb",
        v4.new_markdown_cell("# Table 3: one & two\n\nMath: $L_{seg}$. See [the report](REPORT.md).", id="a"),
        v4.new_code_cell("secret = 1", outputs=outputs, id="b"),
    )
    notebook(folder / "01_method.ipynb", v4.new_code_cell("code = 1", id="a"))
    notebook(folder / "table3.failed.ipynb", v4.new_markdown_cell("failed", id="a"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("all") / "results"
    scores_in(root, setting=presets.resolve("shapes", "quick"))
    for name in ("shapes-quick", "pascal-part-quick", "shapes-tiny"):
        write(root / name / "benchmark.json", json.dumps(ABOUT).encode())
        fill(root / name)
    return root


@pytest.fixture(scope="module")
def built(results: Path) -> Path:
    site.build({"": results}, results.parent / "site")
    return results.parent / "site"


def _cells(table: BeautifulSoup) -> list[list[str]]:
    return [[cell.get_text() for cell in row.find_all("td")] for row in table.tbody.find_all("tr")]


def pages(root: Path) -> dict[Path, BeautifulSoup]:
    return {p: BeautifulSoup(p.read_text(), "html.parser") for p in sorted(root.rglob("*.html"))}


def test_every_notebook_but_tiny_ones_has_a_page_and_again_the_same_bytes(
    built: Path, results: Path, tmp_path: Path
) -> None:
    names = {p.relative_to(built).as_posix() for p in built.rglob("*") if p.is_file()}
    one = {"01_method.html", "episodes.png", "REPORT.html", "table3.csv", "table3.html", "table3_effects.csv"}
    expected = {f"{folder}/{name}" for folder in ("shapes-quick", "pascal-part-quick") for name in one}
    assert names == expected | {"index.html", "site.css"}
    again = site.build({"": results}, tmp_path / "again")
    assert again == sorted(again)
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (built / name).read_bytes()


def test_ones_own_results_stand_beside_the_published(results: Path, tmp_path: Path) -> None:
    own = tmp_path / "local"
    scores_in(own)
    fill(own / "shapes-tiny")
    made = site.build({"": results, "Yours: ": own, "None: ": tmp_path / "none"}, tmp_path / "site")
    assert tmp_path / "site" / "local" / "shapes-tiny" / "table3.html" in made
    headings = [h.get_text() for h in pages(tmp_path / "site")[tmp_path / "site" / "index.html"].find_all("h2")]
    assert headings == ["shapes, quick", "pascal-part, quick", "Yours: shapes, tiny"]
    test_links_are_relative_and_resolve(tmp_path / "site")


def test_nothing_is_loaded_from_a_network_nothing_runs_and_no_machine_is_named(built: Path) -> None:
    words = [w for w in (str(built.parent), str(Path.home()), platform.node()) if len(w) > 5]
    for page, soup in pages(built).items():
        loaded = [str(t.get("src") or t.get("href")) for t in soup.find_all(["img", "link", "source", "iframe"])]
        assert [a for a in loaded if urlsplit(a).scheme not in ("", "data") or a.startswith("/")] == [], page
        assert not soup.find_all(["script", "style", "iframe", "object"])
        assert "default-src 'none'" in str(soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"}))
        assert all(picture["alt"].strip() for picture in soup.find_all("img"))
        assert soup.html["lang"] == "en"
        assert [w for w in words if w in page.read_text()] == []
    assert not re.search(r"url\(|@import", (built / "site.css").read_text())


def test_links_are_relative_and_resolve(built: Path) -> None:
    soups = pages(built)
    linked = set()
    for page, soup in soups.items():
        for tag in soup.find_all(["a", "img", "link"]):
            address = urlsplit(str(tag.get("href") or tag.get("src")))
            if address.scheme in ("https", "data"):
                continue
            to = (page.parent / unquote(address.path)).resolve() if address.path else page
            linked.add(to)
            assert not address.path.startswith("/")
            assert to.is_file(), (page, to)
    assert linked >= set(soups)  # every page is reached


def test_the_reports_page(built: Path) -> None:
    soup = pages(built)[built / "shapes-quick" / "REPORT.html"]
    assert soup.main.find("a", string="a guide")["href"] == "01_method.html#eq-1"
    assert [m["display"] for m in soup.find_all("math")] == ["inline", "inline", "inline", "block"]
    assert soup.get_text().count("$") == 2  # those of the code
    assert [c.get_text() for c in soup.table.find_all("td")] == ["PIM", "± mixed"]


def test_a_notebooks_page_has_what_came_out_and_a_guide_its_code(built: Path) -> None:
    soups = pages(built)
    soup = soups[built / "shapes-quick" / "table3.html"]
    assert soup.title.get_text().startswith("Table 3: shapes-quick")
    assert [h.get_text() for h in soup.find_all("h1")] == ["Table 3: one & two"]
    assert len(soup.find_all("math")) == 2
    assert soup.main.strong.get_text() == "Came out"
    assert "32.4 [31.6, 33.3]" in soup.main.table.get_text()
    assert "5 < 6" in soup.main.get_text()
    assert "secret" not in soup.get_text()
    assert [a["href"] for a in soup.main.find_all("a")][-2:] == ["table3.csv", "table3_effects.csv"]
    assert "code = 1" in soups[built / "shapes-quick" / "01_method.html"].get_text()


def test_the_front_page_has_every_target_with_its_status(built: Path) -> None:
    soup = pages(built)[built / "index.html"]
    # the embedded benchmark first
    assert [h.get_text() for h in soup.find_all("h2")] == ["shapes, quick", "pascal-part, quick"]
    shapes, pascal = soup.find_all("table")
    status = {target: status for target, _, status, _ in _cells(shapes)}
    assert status["Table 3"] == verdicts.SYMBOLS["needs 3 seeds"]
    assert status["Table 6"] == verdicts.SYMBOLS["not run"]
    assert {row[2] for row in _cells(pascal)} == {verdicts.SYMBOLS["not run"]}
    assert soup.find("a", href="https://doi.org/10.1609/aaai.v36i2.20090")


def test_the_front_page_shows_what_was_measured(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "shapes-tiny", tmp_path / "results" / "shapes-tiny")
    write(
        tmp_path / "results" / "speed" / "cpu-9-cores.md",
        b"| what | ratio |\n| --- | --- |\n| a < thing | 4 |\n\n0.05 points",
    )
    write(tmp_path / "results" / "speed" / "cpu-9-cores.png", PNG)
    site.build({"": tmp_path / "results"}, tmp_path / "site")
    soup = pages(tmp_path / "site")[tmp_path / "site" / "index.html"]
    assert _cells(soup.find_all("table")[-1]) == [["a < thing", "4"]]
    assert soup.find_all("img")[-1]["src"] == "speed/cpu-9-cores.png"
    assert "0.05 points" in soup.get_text()


def test_what_is_no_longer_made_is_removed_and_other_folders_are_left_alone(results: Path, tmp_path: Path) -> None:
    root, out, other = tmp_path / "results", tmp_path / "site", tmp_path / "other"
    shutil.copytree(results / "shapes-tiny", root / "shapes-tiny")
    site.build({"": root}, out)
    (root / "shapes-tiny" / "table3.ipynb").unlink()
    site.build({"": root}, out)
    assert not (out / "shapes-tiny" / "table3.html").exists()
    assert (out / "shapes-tiny" / "table3.csv").exists()
    write(other / "a.html", b"not a site")
    with pytest.raises(DPNetError, match="not a site's folder"):
        site.build({"": root}, other)
    with pytest.raises(DPNetError, match="make reproduce-table3"):
        site.build({"": other}, tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("formula", [r"\nosuch{x}", "x_"])
def test_a_formula_that_cannot_be_drawn_is_named(formula: str, tmp_path: Path) -> None:
    write(tmp_path / "shapes-tiny" / "REPORT.md", f"${formula}$".encode())
    write(tmp_path / "shapes-tiny" / "benchmark.json", b"{}")
    with pytest.raises(DPNetError, match=r"REPORT\.md: formula"):
        site.build({"": tmp_path}, tmp_path / "site")


def test_titles() -> None:
    titles = {"fig4": "Fig. 4", "table3": "Table 3", "01_method": "01 method", "REPORT": "Report"}
    assert {stem: site.title(stem) for stem in titles} == titles
