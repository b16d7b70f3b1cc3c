"""Writes the table of ``docs/zoo.md`` from what ``ttrace zoo run`` found.

``python -m tests.examples.zoo_table zoo.json docs/zoo.md``; ``make zoo`` runs both.
With ``--keep`` bugs that were not run keep the row that says that they were found.
"""

import json
import re
import sys
from pathlib import Path

from ttrace.examples.bug_zoo.registry import load_zoo
from ttrace.examples.bug_zoo.result import BugResult
from ttrace.examples.bug_zoo.table import summary

BEGIN = "<!-- zoo: begin, written by make zoo -->"
END = "<!-- zoo: end -->"


def render(results: list[BugResult]) -> str:
    """The table of all registered bugs in Markdown, below the figures in one line.

    A bug without a result is a row that says so.
    """
    by_name = {result.name: result for result in results}
    lines = [
        f"{summary(results)}.",
        "",
        "| bug | what is wrong | source | first divergence | found |",
        "|---|---|---|---|---|",
    ]
    for exhibit in load_zoo():
        bug = exhibit.bug
        result = by_name.get(bug.name)
        first, found = "-", "not run"
        if result is not None:
            found = "yes" if result.as_expected else f"**no**: {reason(result)}"
            if result.first_divergence is not None:
                first = f"`{result.first_divergence}`"
        lines.append(
            f"| `{bug.name}` | {bug.title} | {bug.source} | {first} | {found} |"
        )
    return "\n".join(lines)


def reason(result: BugResult) -> str:
    """Why a row is no success, in one line."""
    if result.reason:
        return " ".join(result.reason.split("\n")[0].split()).replace("|", "/")
    return "seen first in another place" if not result.module_right else "false alarm"


def rewrite(text: str, table: str, *, begin: str = BEGIN, end: str = END) -> str:
    """The page with another table between its markers.

    Raises:
        ValueError: A marker is missing.
    """
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the markers {begin!r} and {end!r} are missing")
    return f"{before}{begin}\n{table}\n{end}{after}"


def found_before(text: str) -> list[BugResult]:
    """Results as the page has them, of bugs that it says were found."""
    row = re.compile(r"^\| `(\w+)` \| .*? \| (.*?) \| `(.*?)` \| yes \|$", re.MULTILINE)
    return [
        BugResult(
            name=name,
            source=source,
            clean="pass",
            found=True,
            first_divergence=first,
            kind=None,
            module_right=True,
            margin=None,
            diagnosis=(),
            diagnosis_right=None,
            seconds=0.0,
        )
        for name, source, first in row.findall(text)
    ]


def main(json_path: str, page_path: str, *, keep: bool = False) -> None:
    """Rewrites the table in place.

    Args:
        json_path: What was found.
        page_path: The page.
        keep: What was not run is taken from the page.
    """
    page = Path(page_path)
    text = page.read_text()
    values = json.loads(Path(json_path).read_text())
    results = [BugResult.from_json(value) for value in values]
    if keep:
        run = {result.name for result in results}
        results += [before for before in found_before(text) if before.name not in run]
    page.write_text(rewrite(text, render(results)))


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--keep"]
    main(*arguments, keep="--keep" in sys.argv)
