"""Writes the table of codes of ``docs/diagnosis.md``, from what the zoo showed.

``make zoo`` runs ``python -m tests.examples.code_table zoo.json docs/diagnosis.md``.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

from tests.examples.zoo_table import rewrite
from ttrace.examples.bug_zoo.result import BugResult

BEGIN = "<!-- codes: begin, written by make zoo -->"
END = "<!-- codes: end -->"

_NONE = "none"


def render(results: list[BugResult]) -> str:
    """By the code that was stated before the run, which one the report had first."""
    first: defaultdict[str, Counter[str]] = defaultdict(Counter)
    later: Counter[str] = Counter()
    for result in results:
        if result.expected_code is not None:
            code = result.diagnosis[0] if result.diagnosis else _NONE
            first[result.expected_code][code] += 1
            later[result.expected_code] += result.expected_code in result.diagnosis[1:]
    num_bugs = sum(map(Counter.total, first.values()))
    num_right = sum(counts[code] for code, counts in first.items())
    lines = [
        f"{num_right} of {num_bugs} first diagnoses as stated before the run.",
        "",
        "| stated | bugs | first | further down | another one first |",
        "|---|---|---|---|---|",
    ]
    for code, counts in sorted(first.items()):
        others = ", ".join(
            f"`{other}`" + (f" ({number})" if number > 1 else "")
            for other, number in counts.most_common()
            if other != code
        )
        figures = f"{counts.total()} | {counts[code]} | {later[code]}"
        lines.append(f"| `{code}` | {figures} | {others} |")
    return "\n".join(lines)


def main(json_path: str, page_path: str) -> None:
    """Rewrites the table in place.

    Args:
        json_path: What was found.
        page_path: The page.
    """
    page = Path(page_path)
    values = json.loads(Path(json_path).read_text())
    table = render([BugResult.from_json(value) for value in values])
    page.write_text(rewrite(page.read_text(), table, begin=BEGIN, end=END))


if __name__ == "__main__":
    main(*sys.argv[1:])
