"""Parameters whose values are all alike, and hold the same in both runs."""

from collections.abc import Sequence

from ttrace.ir.transform import AxisPattern, Transform
from ttrace.map_proposal.parameters import likeness
from ttrace.map_proposal.units import STACK, Pairing, Unit


def same_slots(
    reference: Sequence[Unit], candidate: Sequence[Unit]
) -> list[tuple[Unit, Unit]] | None:
    """Pairs of parameters of the same values; None if any is left over."""
    if len(reference) != len(candidate):
        return None
    left = list(candidate)
    pairs = []
    for unit in reference:
        alike = [
            other
            for other in left
            if (other.digest, other.size) == (unit.digest, unit.size)
            and sorted(other.shape) == sorted(unit.shape)
        ]
        if not alike:
            return None
        chosen = max(alike, key=lambda other: likeness(unit.slot, other.slot))
        left.remove(chosen)
        pairs.append((unit, chosen))
    return pairs


def pairing_of_alike(
    reference: Unit, candidate: Unit, *, comment: str, verified: bool
) -> Pairing:
    """A pairing of parameters of the same shape, perhaps one of them stacked."""
    names = "abcdefgh"
    own = [(names[dim],) for dim in range(len(reference.contents[0].shape))]
    of_reference, of_candidate = list(own), list(own)
    if candidate.is_family and not reference.is_family:
        of_reference = [(STACK,), *own][: len(reference.shape)]
        of_candidate = of_reference[1:]
    elif reference.is_family and not candidate.is_family:
        of_candidate = [(STACK,), *own]
    transform = None
    if candidate.is_family != reference.is_family:
        transform = Transform(
            candidate=AxisPattern(dims=tuple(of_candidate)),
            reference=AxisPattern(dims=tuple(of_reference)),
        )
    shapes = (candidate.contents[0].shape, reference.contents[0].shape)
    sizes = {}
    if transform is not None:
        for pattern, shape in zip(
            (transform.candidate, transform.reference), shapes, strict=True
        ):
            sizes |= {axis: n for (axis,), n in zip(pattern.dims, shape, strict=True)}
    return Pairing(
        reference=(reference.pattern,),
        candidate=(candidate.pattern,),
        transform=transform,
        sizes=sizes,
        verified=verified,
        comment=comment,
    )
