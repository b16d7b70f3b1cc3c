"""Numbers in paths of modules: which of them count the layers, on either side."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Segments of two paths that count the same, perhaps from other starts.

    Attributes:
        reference: Which segment of the reference's path.
        candidate: Which of the candidate's.
        offset: How much more the candidate's is.
    """

    reference: int
    candidate: int
    offset: int

    def family(self, reference: str, candidate: str) -> tuple[str, str] | None:
        """Both paths without these numbers; None where they do not run alike."""
        own, other = segments(reference), segments(candidate)
        if len(own) <= self.reference or len(other) <= self.candidate:
            return None
        numbers = own[self.reference], other[self.candidate]
        if not all(number.isdecimal() for number in numbers):
            return None
        if int(numbers[1]) - int(numbers[0]) != self.offset:
            return None
        own[self.reference] = other[self.candidate] = "#"
        return ".".join(own), ".".join(other)


def segments(path: str) -> list[str]:
    """The names of a path; a number behind an underscore is one of its own."""
    found = []
    for name in path.split("."):
        head, underscore, number = name.rpartition("_")
        found += [head, number] if underscore and number.isdecimal() else [name]
    return found


def likely_shifts(pairs: Iterable[tuple[str, str]]) -> list[Shift]:
    """Segments that run alike in the paths of paired modules.

    Args:
        pairs: Paths of modules that are the same.

    Returns:
        Those that at least two layers bear out.
    """
    layers: dict[Shift, dict[tuple[str, str], set[str]]] = {}
    for reference, candidate in pairs:
        own, other = segments(reference), segments(candidate)
        for a, number in enumerate(own):
            for b, other_number in enumerate(other):
                if not (number.isdecimal() and other_number.isdecimal()):
                    continue
                shift = Shift(
                    reference=a,
                    candidate=b,
                    offset=int(other_number) - int(number),
                )
                family = shift.family(reference, candidate)
                assert family is not None, "its numbers were just compared"
                of_shift = layers.setdefault(shift, defaultdict(set))
                of_shift[family].add(number)
    return [
        shift
        for shift, families in layers.items()
        if any(len(numbers) > 1 for numbers in families.values())
    ]


class Layers:
    """Tells whether two modules may be the same, by the layers in which they lie.

    Args:
        pairs: Paths of modules that are the same.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        pairs = list(pairs)
        self._lists = {
            (
                tuple(segments(reference)[: shift.reference]),
                tuple(segments(candidate)[: shift.candidate]),
                shift.offset,
            )
            for shift in likely_shifts(pairs)
            for reference, candidate in pairs
            if shift.family(reference, candidate) is not None
        }

    def may_be_the_same(self, reference: str, candidate: str) -> bool:
        """False where they lie in different layers, or one of them in none.

        Args:
            reference: Path of a module of the reference.
            candidate: Path of one of the candidate.
        """
        own, other = segments(reference), segments(candidate)
        is_in_a_layer = False
        for of_reference, of_candidate, offset in self._lists:
            number = _number_behind(of_reference, own)
            other_number = _number_behind(of_candidate, other)
            if number is not None and other_number == number + offset:
                return True
            is_in_a_layer |= number is not None or other_number is not None
        return not is_in_a_layer


def _number_behind(prefix: Sequence[str], path: Sequence[str]) -> int | None:
    """The layer of a path in a list of layers; None if it does not lie there."""
    place = len(prefix)
    if len(path) <= place or tuple(path[:place]) != tuple(prefix):
        return None
    return int(path[place]) if path[place].isdecimal() else None
