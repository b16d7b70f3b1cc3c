"""Modules whose calls are not alike: several modules of one path, several shapes."""

from collections.abc import Iterable, Iterator, Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.map_proposal.agreements import Agreements
from ttrace.map_proposal.recorded_activations import Activations, Instance


def by_calls(
    pairs: Iterable[tuple[Instance, Instance]], agreements: Agreements
) -> Iterator[tuple[Instance, Instance]]:
    """Paired modules, call by call where one rule for all calls would not do.

    Calls of several shapes have a rule each. Where one run has more calls than the
    other, several modules share a path there (as ``flax.linen.share_scope`` does): each
    call of the other run is paired with the one that gives the same.

    Args:
        pairs: Modules that belong together.
        agreements: Which of their outputs agree.
    """
    sides = agreements.sides
    for own, other in pairs:
        own_calls = sides[Side.REFERENCE].calls(own)
        other_calls = sides[Side.CANDIDATE].calls(other)
        if len(own_calls) == len(other_calls):
            if len(own_calls) == 1 or (
                _are_alike(sides[Side.REFERENCE], own_calls)
                and _are_alike(sides[Side.CANDIDATE], other_calls)
            ):
                yield own, other
            else:
                yield from zip(own_calls, other_calls, strict=True)
        elif 1 in (len(own_calls), len(other_calls)):
            yield _best(own_calls, other_calls, agreements) or (own, other)
        else:
            yield own, other


def _are_alike(activations: Activations, calls: Sequence[Instance]) -> bool:
    shapes = [activations.shapes(call) for call in calls]
    return all(of_call == shapes[0] for of_call in shapes)


def _best(
    own_calls: Sequence[Instance],
    other_calls: Sequence[Instance],
    agreements: Agreements,
) -> tuple[Instance, Instance] | None:
    """The calls with the same outputs; None where there are none, or all are."""
    found = [
        (own, other)
        for own in own_calls
        for other in other_calls
        if _agree(own, other, agreements)
    ]
    # A scan over layers or a shared module gives the same once; more tells nothing.
    return found[0] if len(found) == 1 else None


def _agree(own: Instance, other: Instance, agreements: Agreements) -> bool:
    given = agreements.sides[Side.REFERENCE].slots(own, Kind.OUTPUT)
    taken = agreements.sides[Side.CANDIDATE].slots(other, Kind.OUTPUT)
    return any(
        agreements.transform(a, b) is not None
        for a in given.values()
        for b in taken.values()
    )
