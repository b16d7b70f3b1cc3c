"""Grades ttrace on mistakes in small models: ``python -m tests.planted SEEDS``."""

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from tests.planted.grading import grade, measure
from tests.planted.grounds import NAMES, ground_named


def main() -> None:
    """Plants every mistake in the models of some seeds, and prints what was said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int, help="how many models")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--framework", choices=NAMES, default="torch")
    options = parser.parse_args()
    ground = ground_named(options.framework)
    said: dict[str, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(ground, seed, Path(folder))
            for mistake in ground.mistakes:
                graded = grade(ground, seed, mistake, measured, Path(folder))
                if graded is None:
                    continue
                codes = [each.code for each in graded.report.diagnosis]
                said[mistake][codes[0] if codes else "-"] += 1
                totals["planted"] += 1
                totals["found"] += graded.found
                totals["at the right place"] += graded.place_right
                if graded.code_right is not None:
                    totals["with a code"] += 1
                    totals["right code first"] += graded.code_right
                if not (graded.found and graded.place_right):
                    print(f"seed {seed}, {mistake}: {graded.report.summary}")
    print(", ".join(f"{name} {number}" for name, number in totals.items()))
    print(confusion_table(said))


def confusion_table(said: Mapping[str, Mapping[str, int]]) -> str:
    """Markdown: by mistake, how often which code was the first."""
    lines = ["| mistake | first diagnosis |", "|---|---|"]
    for mistake, codes in said.items():
        ordered = sorted(codes.items(), key=lambda item: -item[1])
        text = ", ".join(f"`{code}` {number}" for code, number in ordered)
        lines.append(f"| `{mistake}` | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
