"""``python -m tests.map_grading [PAIR[:MISTAKE] ...]``: grades and sums up."""

import importlib.util
import sys
from pathlib import Path

from tests.map_grading.grading import Grade, grade_pair
from tests.map_grading.pair import LibraryPair

NAMES = (
    "bert_nnx",
    "cnn_linen",
    "gpt2_linen",
    "llama_penzai",
    "lstm_linen",
    "mixtral_plain",
    "t5_linen",
    "vit_equinox",
)


def load(name: str) -> LibraryPair:
    """The pair of a module of this folder."""
    return importlib.import_module(f"tests.map_grading.{name}").PAIR


def main(arguments: list[str]) -> int:
    """Grades the named pairs, or all; ``--keep DIR`` keeps traces and maps."""
    folder = None
    if arguments[:1] == ["--keep"]:
        folder, arguments = Path(arguments[1]), arguments[2:]
    grades: list[Grade] = []
    for argument in arguments or NAMES:
        name, _, mistake = argument.partition(":")
        if name == "llama_penzai" and importlib.util.find_spec("penzai") is None:
            print("llama_penzai is left out: penzai is not installed")
            continue
        for grade in grade_pair(load(name), [mistake] if mistake else None, folder):
            grades.append(grade)
            print(grade, flush=True)
    clean = [grade for grade in grades if grade.mistake is None]
    planted = [grade for grade in grades if grade.mistake is not None]
    print(
        f"{len(clean)} clean ports, {sum(g.is_found for g in clean)} false alarms; "
        f"{len(planted)} mistakes, {sum(g.is_found for g in planted)} found, "
        f"{sum(g.is_at_the_right_place for g in planted)} at the right place"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
