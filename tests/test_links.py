"""Links of the pages lead somewhere: to a file that is there, and to a heading of it.

Given the Markdown pages of the repository, and the sources that name pages; fails with page, line and target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = ("rewards", "rollout", "learners", "actors", "jobs", "tests", "benchmarks", "requirements", "docs")
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
NAME_OF_A_PAGE = re.compile(r"\bdocs/[\w/]+\.md\b")


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines outside of code blocks, and without code between backticks."""
    in_code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield number, re.sub(r"`[^`]*`", "", line)


def anchors(page: Path) -> set[str]:
    """Of all headings, as GitHub makes them: lower case, hyphens for spaces, punctuation gone, repeats numbered."""
    found: dict[str, int] = {}
    in_code = False
    for line in page.read_text(encoding="utf-8").splitlines():
        in_code ^= line.lstrip().startswith("```")
        if in_code or not (heading := re.match(r"#{1,6} +(.+)", line)):
            continue
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
        if found[anchor]:
            found[f"{anchor}-{found[anchor]}"] = 0
    return set(found)


def broken_links(page: Path) -> list[str]:
    """What does not lead anywhere; addresses of the web are not tried."""
    broken = []
    for number, line in prose(page):
        for target in LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            place = f"{page.name}:{number}: {target}"
            if not file.exists():
                broken.append(f"{place}: no such file")
            elif anchor and anchor not in anchors(file):
                broken.append(f"{place}: no such heading; there are {', '.join(sorted(anchors(file)))}")
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken_links(page) == []


def test_every_page_that_a_source_names_is_there() -> None:
    sources = [
        path
        for folder in SOURCES
        for path in sorted((ROOT / folder).rglob("*.*"))
        if path.suffix in (".py", ".yaml", ".md")
    ]
    missing = [
        f"{path.relative_to(ROOT)}:{number} names {name}"
        for path in sources
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for name in NAME_OF_A_PAGE.findall(line)
        if not (ROOT / name).is_file()
    ]
    assert missing == []


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            targets = [target.partition("#")[0] for _, line in prose(page) for target in LINK.findall(line)]
            files = [(page.parent / target).resolve() for target in targets if target.endswith(".md")]
            waiting += [file for file in files if file.is_file()]
    assert sorted(page.relative_to(ROOT).as_posix() for page in set(PAGES) - reached) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One `word`, and 2 %\n# Twice\n# Twice\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#one-word-and-2-) [b](there.md#twice-1) [c](https://example.org/x) `[d](gone.md)`\n"
        "[e](gone.md)\n[f](there.md#three)\n[g](there.md#no-heading)\n"
    )
    assert [line.split(": no such")[0] for line in broken_links(page)] == [
        "page.md:2: gone.md",
        "page.md:3: there.md#three",
        "page.md:4: there.md#no-heading",
    ]
