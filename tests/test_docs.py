"""README and docs: short, with numbers from results, links that lead somewhere, and commands that exist."""

import re
import shlex
from pathlib import Path

import documents
import pytest

from dpnet import cli
from dpnet.io import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pages
def test_a_page_is_short_and_its_numbers_are_those_of_results(page: Path) -> None:
    text = page.read_text()
    assert len(text.encode()) <= 7168
    assert documents.filled(page) == text, "run `make publish-report`"


@pages
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()]
    assert missing == []


@pages
def test_commands_exist(page: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    code = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text))
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)) | {
        "reproduce-NAME",
        "publish-report",
        "publish-speed",
        "publish-choose",
    }
    for verb in ("reproduce", "plan", "publish"):
        known |= {f"{verb}-{name}" for name in re.findall(r"^TARGETS := (.+)", makefile, re.MULTILINE)[0].split()}
    assert set(re.findall(r"^make ([\w-]+)", code, re.MULTILINE)) <= known
    for line in re.findall(r"^dpnet (\w+ .+)", code, re.MULTILINE):
        cli.parser().parse_args(shlex.split(line, comments=True))  # exits where an option is unknown
    for script in re.findall(r"^python (scripts/\S+)", code, re.MULTILINE):
        assert (ROOT / script).exists()
