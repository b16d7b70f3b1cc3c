"""Of which gradients a recorded norm is the norm, where it is not that of all.

Reads no array: the norms of all gradients, and of what each rank stands for, are there.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.judge.replica_axes import coords_on
from ttrace.judge.verdict import Cause, Status, TensorVerdict

_ROUNDING = 2e-6
"""Relative, of a norm that is summed up in float32."""

_FAR = 16
"""Times the rounding, by which an explanation's norm is another than that of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNorm:
    """A norm of gradients that agree, and that is not the reference's.

    Attributes:
        id: The norm.
        recorded: The candidate's.
        reference: The reference's.
        of_all: What the candidate's gradients give, all of them once; None where the
            reference's norm is not that of its own gradients either.
        num_gradients: How many there are.
        explanation: What the candidate's norm is, in words; None if nothing gives it.
        ids: The gradients that it counts otherwise, if that is known.
    """

    id: TensorId
    recorded: float
    reference: float
    of_all: float | None
    num_gradients: int
    explanation: str | None = None
    ids: tuple[TensorId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gradient:
    """A gradient of the candidate.

    Attributes:
        id: It.
        square: Of its norm.
        ndim: Its dims.
        by_rank: The squares of the parts that ranks stand for: of replicas the lowest.
        coords: Where the ranks are on the mesh of the gradient, by rank.
        copied: The axes over which ranks hold the same part of it, or add it up.
    """

    id: TensorId
    square: float
    ndim: int
    by_rank: dict[int, float]
    coords: dict[int, dict[str, int]]
    copied: frozenset[str]

    def beyond_first(self, axis: str) -> float:
        """The square of what lies on ranks that are not the first along an axis."""
        return sum(
            square
            for rank, square in self.by_rank.items()
            if self.coords.get(rank, {}).get(axis, 0)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guess:
    """What a norm may be: all gradients' squares, and some less or more.

    Attributes:
        more: Squares that are counted more; less if negative. By gradient.
        words: What the norm is then.
    """

    more: dict[TensorId, float]
    words: str


def find_gradient_norm(
    verdicts: Sequence[TensorVerdict], candidate: TraceInfo
) -> GradientNorm | None:
    """Looks at the first norm that fails, where all gradients of its step agree.

    Args:
        verdicts: On all tensors.
        candidate: The run under test.
    """
    failed = next((v for v in verdicts if v.status is Status.FAILED), None)
    if (
        failed is None
        or failed.id.kind is not Kind.GRAD_NORM
        or failed.cause not in (Cause.ERROR, Cause.REPLICAS)
        or failed.result is None
        or failed.result.stats.count != 1
    ):
        return None
    stats = failed.result.stats
    gradients = [
        v
        for v in verdicts
        if v.id.kind is Kind.MAIN_GRAD and v.id.step == failed.id.step
    ]
    compared = [v for v in gradients if v.result is not None]
    if not compared or any(v.status is not Status.PASSED for v in compared):
        return None
    found = GradientNorm(
        id=failed.id,
        recorded=stats.candidate_norm,
        reference=stats.reference_norm,
        of_all=None,
        num_gradients=len(compared),
    )
    squares = [v.result.stats for v in compared if v.result is not None]
    of_reference = math.hypot(*(each.reference_norm for each in squares))
    if len(compared) < len(gradients) or not _is(of_reference, found.reference):
        return found  # of what it is the norm, these do not say
    of_all = math.hypot(*(each.candidate_norm for each in squares))
    explanation, ids = _explanation(
        found.recorded, [_gradient(v, candidate) for v in compared], candidate
    )
    return GradientNorm(
        id=found.id,
        recorded=found.recorded,
        reference=found.reference,
        of_all=of_all,
        num_gradients=found.num_gradients,
        explanation=explanation,
        ids=ids,
    )


def _gradient(verdict: TensorVerdict, candidate: TraceInfo) -> _Gradient:
    assert verdict.result is not None
    result = verdict.result
    record = result.plan.match.candidate
    coords = {
        rank: dict(axes)
        for rank, axes in coords_on(record.shards[0].layout.mesh, candidate).items()
    }
    return _Gradient(
        id=verdict.id,
        square=result.stats.candidate_norm**2,
        ndim=len(record.global_shape),
        by_rank={r: s.candidate_norm**2 for r, s in result.rank_stats.items()},
        coords=coords,
        copied=_copied(record, coords),
    )


def _copied(
    record: TensorRecord, coords: Mapping[int, Mapping[str, int]]
) -> frozenset[str]:
    """The axes along which a tensor is not cut."""
    parts: dict[tuple[tuple[str, int], ...], object] = {}
    for shard in record.shards:
        if shard.rank in coords:
            place = tuple(sorted(coords[shard.rank].items()))
            parts[place] = tuple(block.region for block in shard.layout.blocks)
    same: dict[str, bool] = {}
    for place, part in parts.items():
        for axis, index in place:
            first = tuple((a, 0 if a == axis else i) for a, i in place)
            if index and first in parts:
                same[axis] = same.get(axis, True) and parts[first] == part
    return frozenset(axis for axis, is_same in same.items() if is_same)


def _explanation(
    recorded: float, gradients: Sequence[_Gradient], candidate: TraceInfo
) -> tuple[str | None, tuple[TensorId, ...]]:
    """What a norm is, and the gradients that it counts otherwise.

    The simplest that gives it; nothing where two that are as simple do.
    """
    total = sum(gradient.square for gradient in gradients)
    for guesses in _by_simplicity(gradients, candidate):
        fits: dict[tuple[tuple[TensorId, float], ...], _Guess] = {}
        for guess in guesses:
            norm = math.sqrt(max(0.0, total + sum(guess.more.values())))
            is_far = abs(norm - math.sqrt(total)) > _FAR * _ROUNDING * norm
            if guess.more and is_far and _is(norm, recorded):
                fits.setdefault(tuple(guess.more.items()), guess)
        if len(fits) == 1:
            (guess,) = fits.values()
            return guess.words, tuple(guess.more)
        if fits:
            return None, ()
    return _other_norm(recorded, gradients, candidate), ()


def _by_simplicity(
    gradients: Sequence[_Gradient], candidate: TraceInfo
) -> Iterator[list[_Guess]]:
    axes = _axes(candidate)
    families = {
        "": list(gradients),
        **_by_number_of_dims(gradients),
        **_by_path(gradients),
    }
    whole = {"": families.pop("")}
    yield [*_of_first_ranks(whole, axes), *_counted_again(whole, axes)]
    yield [*_of_first_ranks(families, axes), *_counted_again(families, axes)]
    yield [*_left_out(families)]


def _of_first_ranks(
    families: dict[str, list[_Gradient]], axes: dict[str, int]
) -> Iterator[_Guess]:
    for name, members in families.items():
        for axis in axes:
            beyond = {g.id: -g.beyond_first(axis) for g in members}
            yield _Guess(
                more={id_: square for id_, square in beyond.items() if square},
                words=f"what they give where{_of(name)} only the parts count that the "
                f"first rank along {axis} has: squares are not summed over {axis}, "
                f"or what lies apart on its ranks is taken for copies",
            )


def _counted_again(
    families: dict[str, list[_Gradient]], axes: dict[str, int]
) -> Iterator[_Guess]:
    for name, members in families.items():
        for axis, size in axes.items():
            yield _Guess(
                more={
                    g.id: (size - 1) * g.square
                    for g in members
                    if axis in g.copied and g.square
                },
                words=f"what they give where{_of(name)} those count {size} times that are not cut along "
                f"{axis}, once for each of its {size} ranks: squares are summed over "
                f"{axis} of gradients that are the same on all of its ranks",
            )


def _left_out(families: dict[str, list[_Gradient]]) -> Iterator[_Guess]:
    for name, members in families.items():
        yield _Guess(
            more={g.id: -g.square for g in members if g.square},
            words=f"what they give without {name}",
        )


def _of(name: str) -> str:
    return f", of {name}," if name else ""


def _by_number_of_dims(gradients: Iterable[_Gradient]) -> dict[str, list[_Gradient]]:
    vectors = [g for g in gradients if g.ndim < 2]
    matrices = [g for g in gradients if g.ndim >= 2]
    if not vectors or not matrices:
        return {}
    return {
        "gradients of one dim (biases, norms)": vectors,
        "gradients of two dims or more": matrices,
    }


def _by_path(gradients: Iterable[_Gradient]) -> dict[str, list[_Gradient]]:
    """Gradients that have a name in their path in common, such as ``experts``."""
    found: dict[str, list[_Gradient]] = {}
    for gradient in gradients:
        names = (*gradient.id.module.split("."), gradient.id.slot or "")
        for name in dict.fromkeys(names):
            if name and not name.isdecimal():
                found.setdefault(name, []).append(gradient)
    return {
        f"the {len(members)} gradients with '{name}' in their path"
        if len(members) > 1
        else f"the gradient {members[0].id}": members
        for name, members in found.items()
    }


def _other_norm(
    recorded: float, gradients: Sequence[_Gradient], candidate: TraceInfo
) -> str | None:
    norms = [math.sqrt(gradient.square) for gradient in gradients]
    norm = math.hypot(*norms)
    if not norm:
        return None
    others = {
        "the sum of their norms: each is to be squared before they are added": sum(
            norms
        ),
        "the square of their norm: its root is not taken": norm * norm,
    }
    for axis, size in _axes(candidate).items():
        others |= {
            f"{size} times their norm, and {axis} has {size} ranks: it is taken of "
            f"gradients that are not averaged over {axis}": size * norm,
            f"their norm over {size}, and {axis} has {size} ranks: it is taken of "
            f"gradients that are divided by {axis}": norm / size,
            f"their norm times the root of {size}, and {axis} has {size} ranks: "
            f"squares are summed over {axis} of gradients that are the same there": (
                math.sqrt(size) * norm
            ),
        }
    for words, value in others.items():
        if _is(value, recorded) and not _is(value, norm):
            return words
    return None


def _axes(candidate: TraceInfo) -> dict[str, int]:
    """Size by name of the axes of all meshes that have more than one rank."""
    return {
        axis: size
        for mesh in candidate.ranks[0].meshes
        for axis, size in mesh.sizes.items()
        if size > 1
    }


def _is(norm: float, recorded: float) -> bool:
    return math.isclose(norm, recorded, rel_tol=_ROUNDING)
