"""Pairs the samples of two runs that hold the same."""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttrace.compare.samples.samples import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePairs:
    """Which sample of the candidate is which of the reference.

    Attributes:
        places: By micro-batch of the reference, where the candidate has its samples.
        repeated: Micro-batches of the reference with a sample that another one equals.
        missing: Samples of the reference that the candidate does not have.
        extra: Samples of the candidate that the reference does not have.
    """

    places: Mapping[int, tuple[Place, ...]]
    repeated: frozenset[int]
    missing: Sequence[Place]
    extra: Sequence[Place]


def pair_samples(
    reference: Sequence[Mapping[Place, bytes]],
    candidate: Sequence[Mapping[Place, bytes]],
) -> SamplePairs:
    """Pairs samples of equal bytes, each at most once, in order.

    Args:
        reference: What its samples hold, of each call of the optimizer's closure. Of
            calls that only one run makes no sample has a counterpart.
        candidate: Likewise.
    """
    places: dict[int, list[Place]] = defaultdict(list)
    repeated: set[int] = set()
    missing: list[Place] = []
    extra: list[Place] = []
    for given, held in zip(reference, candidate, strict=False):
        free: dict[bytes, deque[Place]] = defaultdict(deque)
        for place, row in held.items():
            free[row].append(place)
        counts = Counter(held.values())
        for place, row in given.items():
            if not free[row]:
                missing.append(place)
                continue
            places[place.microbatch].append(free[row].popleft())
            if counts[row] > 1:
                repeated.add(place.microbatch)
        unused = {place for rest in free.values() for place in rest}
        extra += [place for place in held if place in unused]
    return SamplePairs(
        places={number: tuple(of_one) for number, of_one in places.items()},
        repeated=frozenset(repeated),
        missing=missing,
        extra=extra,
    )
