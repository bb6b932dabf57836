"""What can be checked of the documentation: names that exist, lines that can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "examples" / "clients" / "README.md",
        *ROOT.glob("d*/README.md"),
        *ROOT.glob("deploy/*/README.md"),
    ]
)
FOLDERS = (
    "benchmarks|broker_config|coordinator|deploy|docker|docs|examples|scripts|shared|stage_workers|tests"
    "|tunemesh"
)

each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def prose(page: Path) -> Iterator[str]:
    """Lines but those of code and tables."""
    code = False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.lstrip().startswith("|"):
            yield line


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of headings, and those that are written out."""
    text = page.read_text()
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
    return made | set(re.findall(r'<a name="([^"]+)">', text))


@each_page
def test_lines_of_prose_are_short(page: Path) -> None:
    assert [line for line in prose(page) if len(line) >= 120] == []


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text())
    local = [(name, anchor) for name, anchor in links if not name.startswith("http")]
    missing = [name for name, _ in local if not (page.parent / name).exists()]
    assert missing == []
    anchored = [(page.parent / name if name else page, anchor) for name, anchor in local if anchor]
    assert [anchor for target, anchor in anchored if anchor not in anchors(target)] == []


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@each_page
def test_figures_name_conditions_and_no_commits(page: Path) -> None:
    words = re.findall(r"(?<![\w/.:\"-])[0-9a-f]{7,40}(?![\w/.:\"-])", " ".join(prose(page)))
    assert [word for word in words if re.search(r"\d", word) and re.search(r"[a-f]", word)] == []
