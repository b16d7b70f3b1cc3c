"""The pages of the documentation as values: fences, tables, links, inline code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.paths import ROOT

_FENCE = re.compile(
    r"^(?P<ticks>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=ticks)[ ]*$",
    re.DOTALL | re.MULTILINE,
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A fenced block.

    Attributes:
        page: Path of the page from the root of the checkout.
        line: Where it begins, counted from 1.
        rule: The first words of its info string, without attributes: ``python``,
            ``text output``.
        attributes: Those of the form ``key=value``.
        text: What it holds.
    """

    page: str
    line: int
    rule: str
    attributes: dict[str, str] = field(default_factory=dict)
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.rule})"

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One Markdown file.

    Attributes:
        name: Its path from the root of the checkout.
        text: All of it.
        fences: Its fenced blocks, in order.
        prose: The text without them.
    """

    name: str
    text: str
    fences: tuple[Fence, ...]
    prose: str

    @property
    def links(self) -> list[str]:
        """Targets of its links."""
        return _LINK.findall(self.prose)

    @property
    def codes(self) -> list[str]:
        """What stands in single backticks."""
        return _CODE.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """Anchors of its headings, as GitHub makes them."""
        return {anchor(heading) for heading in _HEADING.findall(self.prose)}

    def table(self, header: str) -> list[list[str]]:
        """Cells of the rows below the table head ``header``."""
        _, found, rest = self.prose.partition(header + "\n")
        assert found, f"{self.name} has no table {header}"
        rows = []
        for line in rest.splitlines()[1:]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        return rows


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def parse_page(name: str, text: str) -> Page:
    """Reads a page; an info string is a rule and ``key=value`` attributes."""
    fences = []
    for match in _FENCE.finditer(text):
        words = match["info"].split()
        fences.append(
            Fence(
                page=name,
                line=text.count("\n", 0, match.start()) + 1,
                rule=" ".join(word for word in words if "=" not in word),
                attributes=dict(word.split("=", 1) for word in words if "=" in word),
                text=match["text"],
            )
        )
    return Page(name=name, text=text, fences=tuple(fences), prose=_FENCE.sub("", text))


def _read() -> Iterator[Page]:
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))):
        name = path.relative_to(ROOT).as_posix()
        yield parse_page(name, path.read_text(encoding="utf-8"))


PAGES = {page.name: page for page in _read()}
"""All pages by name."""


def fences(*rules: str) -> list[Fence]:
    """All fences of these rules, of all pages."""
    found = [fence for page in PAGES.values() for fence in page.fences]
    return [fence for fence in found if fence.rule in rules]


def commands(fence: Fence) -> list[str]:
    """The commands of a shell fence; a trailing backslash joins lines."""
    joined = fence.text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


def target(page: Page, link: str) -> tuple[Path, str]:
    """The file that a relative link leads to, and the anchor in it, or nothing."""
    path, _, fragment = link.partition("#")
    here = ROOT / page.name
    return ((here.parent / path).resolve() if path else here), fragment
