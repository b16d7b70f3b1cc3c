"""A page of the checkout as the site shows it: its fences and its links.

Pages are written for a code host. Their links lead from file to file of the checkout,
and the info strings of their fences say how the tests run them.
"""

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

ROOT_PAGES = {
    "README.md": "about.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages beside docs/ that the site has: their name in the checkout, and there."""

LEXERS = {"console": "sh"}
"""What colours a fence, where that is not the first word of its info string.

Ours hold commands alone, without a prompt.
"""

WIDE = "━─│"
"""Signs of tables that a terminal draws; their lines are not wrapped."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^ *(?P=ticks) *$",
    re.DOTALL | re.MULTILINE,
)
_LINK = re.compile(r"(?P<shown>\[[^\]]*\])\((?P<link>[^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:|#")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """What links may lead to.

    Attributes:
        exists: Whether the checkout has a file or a folder of this path.
        source_url: Address of a folder or file of the checkout without its path; empty
            where the site does not say where the code is hosted.
    """

    exists: Callable[[str], bool]
    source_url: str = ""


def site_path(path: str) -> str | None:
    """Where a file of the checkout lies on the site, or None if it is not on it."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def shown_on_site(text: str, source: str, checkout: Checkout) -> tuple[str, list[str]]:
    """A page as the site is to show it.

    Args:
        text: Markdown, as it stands in the checkout.
        source: Path of the page from the root of the checkout.
        checkout: What its links may lead to.

    Returns:
        The Markdown for the site, and the links out of docs/ that lead nowhere; mkdocs
        itself finds those within.
    """
    broken: list[str] = []

    def links(prose: str) -> str:
        return _LINK.sub(lambda match: _link(match, source, checkout, broken), prose)

    parts = []
    end = 0
    for match in _FENCE.finditer(text):
        parts += [links(text[end : match.start()]), _fence(match)]
        end = match.end()
    return "".join((*parts, links(text[end:]))), broken


def _fence(match: re.Match[str]) -> str:
    """A fence under the name of a lexer, with the file that it is a part of on top."""
    words = match["info"].split()
    lexer = LEXERS.get(words[0], words[0]) if words else "text"
    file = [word.removeprefix("file=") for word in words if word.startswith("file=")]
    title = f' title="{file[0]}"' if file else ""
    if any(sign in match["text"] for sign in WIDE):
        lexer = f"{{.{lexer} .wide}}"
    indent, ticks = match["indent"], match["ticks"]
    return f"{indent}{ticks}{lexer}{title}\n{match['text']}{indent}{ticks}"


def _link(
    match: re.Match[str], source: str, checkout: Checkout, broken: list[str]
) -> str:
    """A link of the checkout as one of the site.

    What the site has not (a script, a folder) is linked to where the code is hosted, or
    else named without a link.
    """
    link = match["link"]
    if _ELSEWHERE.match(link):
        return match[0]
    path, hash_sign, fragment = link.partition("#")
    leads_to = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    there = site_path(leads_to)
    if there is not None:
        here = posixpath.dirname(site_path(source) or source)
        relative = posixpath.relpath(there, here or ".")
        return f"{match['shown']}({relative}{hash_sign}{fragment})"
    if not checkout.exists(leads_to):
        broken.append(link)
    if checkout.source_url:
        return f"{match['shown']}({checkout.source_url}/{leads_to})"
    return match["shown"][1:-1]
