"""A tensor that has the reference's values in another order."""

import math
from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.places.rearrangement import Rearrangement

_MAX_SHOWN = 8

_LARGEST_LOG = 12.0
"""Of how many times a sum may be there too often."""

_IS_LOG = 1e-5
"""Relative difference of an offset from the logarithm of a whole number."""


def rearranged(findings: Findings) -> Diagnosis | None:
    """Says which order it is, and where such an order comes from."""
    found = findings.evidence.place.rearrangement
    place = findings.evidence.place
    if found is None or place.wiring is not None or place.turn is not None:
        return None
    how, look = _how(found)
    name = f"{found.id.kind} {found.id.slot or ''}".strip()
    return Diagnosis(
        code="rearranged",
        sentence=f"{name} of {found.id.module} has the values of the reference"
        f"{how}, and differs by nothing else ({found.id}): {look}",
        evidence={
            "dim": "" if found.dim is None else found.dim,
            "dims": "" if found.dims is None else ", ".join(map(str, found.dims)),
            "shift": found.shift or 0,
            "offset": found.offset or 0.0,
            "order": "" if found.order is None else _listed(found.order),
        },
        tensor_ids=(str(found.id),),
    )


def _how(found: Rearrangement) -> tuple[str, str]:
    """The order, in words, and what to look at."""
    if found.offset is not None:
        sign = "plus" if found.offset > 0 else "less"
        times = round(math.exp(min(found.offset, _LARGEST_LOG)))
        if times > 1 and math.isclose(math.log(times), found.offset, rel_tol=_IS_LOG):
            return (
                f", each plus {found.offset:.6g}, which is the logarithm of {times}",
                f"as where what a softmax sums up is there {times} times: look at "
                "whether a loss for logits that are cut over ranks is given the whole",
            )
        return (
            f", each {sign} {abs(found.offset):.6g}",
            "look at where it is counted from, or at what is added to it",
        )
    shape = list(found.shape)
    if found.dims is not None:
        first, second = found.dims
        return (
            f" with dims {first} and {second} of {shape} exchanged",
            "a transpose is missing, or is there once too often"
            + (
                "; a weight of torch is [out, in], a kernel of flax [in, out]"
                if found.id.kind in (Kind.PARAM, Kind.UPDATED_PARAM)
                else ""
            ),
        )
    if found.shift is not None:
        where = "later" if found.shift > 0 else "earlier"
        places = f"{abs(found.shift)} place" + ("s" if abs(found.shift) > 1 else "")
        return (
            f" {places} {where} along dim {found.dim} of {shape}",
            "look at where positions begin, at what is shifted or rolled along this "
            "dim, and at the borders of shards",
        )
    if found.order is not None:
        return (
            f" in another order along dim {found.dim} of {shape}: there it has "
            f"{_listed(found.order)} of the reference",
            f"look at the order in which {_units(found.order)} are cut, gathered, "
            "repeated or sorted along this dim",
        )
    return (
        f" in another order over more than one dim of {shape}",
        "look at the reshape, transpose, gather or all-to-all that makes it: it takes "
        "the dims in another order",
    )


def _units(order: Sequence[int]) -> str:
    """What moves together."""
    runs = _runs(order)
    lengths = {stop - start for start, stop in runs}
    if len(runs) < len(order) and len(lengths) == 1:
        return f"blocks of {lengths.pop()}"
    return "parts" if len(runs) < len(order) else "elements"


def _listed(order: Sequence[int]) -> str:
    """``indices 4-7, 0-3``."""
    runs = _runs(order)
    shown = [
        str(start) if stop == start + 1 else f"{start}-{stop - 1}"
        for start, stop in runs[:_MAX_SHOWN]
    ]
    more = len(runs) - _MAX_SHOWN
    return f"indices {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")


def _runs(order: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges that follow one another upwards."""
    runs: list[tuple[int, int]] = []
    for index in order:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs
