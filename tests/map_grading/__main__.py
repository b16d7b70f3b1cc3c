"""``python -m tests.map_grading [PAIR[:MISTAKE] ...]``: grades and sums up."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
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


def table(grades: Sequence[Grade]) -> Iterator[str]:
    """The table of docs/maps.md."""
    yield "| pair | clean port | mistakes | found | at the right place |"
    yield "|---|---|---|---|---|"
    for pair in dict.fromkeys(grade.pair for grade in grades):
        own = [grade for grade in grades if grade.pair == pair]
        clean = [grade for grade in own if grade.mistake is None]
        verdict = "FALSE ALARM" if any(grade.is_found for grade in clean) else "pass"
        planted = [grade for grade in own if grade.mistake is not None]
        num_found = sum(grade.is_found for grade in planted)
        num_right = sum(grade.is_at_the_right_place for grade in planted)
        yield (
            f"| `{pair}` | {verdict if clean else '-'} | {len(planted)} "
            f"| {num_found} | {num_right} |"
        )


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
    print("\n".join(table(grades)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
