"""Of which gradients of a step a number may be the norm, the simplest first."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TraceInfo

_ROUNDING = 2e-6
"""Relative, of a norm that is summed up in float32."""

_FAR = 16
"""Times the rounding, by which an explanation's norm is another than that of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGradient:
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


def explanation_of(
    recorded: float, gradients: Sequence[StepGradient], candidate: TraceInfo
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
            if guess.more and is_far and is_same_norm(norm, recorded):
                fits.setdefault(tuple(guess.more.items()), guess)
        if len(fits) == 1:
            (guess,) = fits.values()
            return guess.words, tuple(guess.more)
        if fits:
            return None, ()
    return _other_norm(recorded, gradients, candidate), ()


def _by_simplicity(
    gradients: Sequence[StepGradient], candidate: TraceInfo
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
    families: dict[str, list[StepGradient]], axes: dict[str, int]
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
    families: dict[str, list[StepGradient]], axes: dict[str, int]
) -> Iterator[_Guess]:
    for name, members in families.items():
        for axis, size in axes.items():
            yield _Guess(
                more={
                    g.id: (size - 1) * g.square
                    for g in members
                    if axis in g.copied and g.square
                },
                words=f"what they give where{_of(name)} those count {size} times that "
                f"are not cut along "
                f"{axis}, once for each of its {size} ranks: squares are summed over "
                f"{axis} of gradients that are the same on all of its ranks",
            )


def _left_out(families: dict[str, list[StepGradient]]) -> Iterator[_Guess]:
    for name, members in families.items():
        yield _Guess(
            more={g.id: -g.square for g in members if g.square},
            words=f"what they give without {name}",
        )


def _of(name: str) -> str:
    return f", of {name}," if name else ""


def _by_number_of_dims(
    gradients: Iterable[StepGradient],
) -> dict[str, list[StepGradient]]:
    vectors = [g for g in gradients if g.ndim < 2]
    matrices = [g for g in gradients if g.ndim >= 2]
    if not vectors or not matrices:
        return {}
    return {
        "gradients of one dim (biases, norms)": vectors,
        "gradients of two dims or more": matrices,
    }


def _by_path(gradients: Iterable[StepGradient]) -> dict[str, list[StepGradient]]:
    """Gradients that have a name in their path in common, such as ``experts``."""
    found: dict[str, list[StepGradient]] = {}
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
    recorded: float, gradients: Sequence[StepGradient], candidate: TraceInfo
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
        if is_same_norm(value, recorded) and not is_same_norm(value, norm):
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


def is_same_norm(norm: float, recorded: float) -> bool:
    """Whether two are one but for rounding."""
    return math.isclose(norm, recorded, rel_tol=_ROUNDING)
