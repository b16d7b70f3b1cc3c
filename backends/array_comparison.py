"""What a comparison of live arrays gave: values that a jitted function may return."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp

from ttrace.backends.live_statistics import is_traced
from ttrace.errors import DivergedError, UsageError

Scalar = Any
"""A number; inside of a jitted function and in what it returns, a scalar of jax."""

_MAX_NAMED = 8
"""Leaves that an error names."""

_STATIC = ("path", "shape", "reference_dtype", "candidate_dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafComparison:
    """One leaf of two trees.

    Norms and ``max_abs_diff`` are over the elements that are finite on both sides.

    Attributes:
        path: Keys that lead to it, ``layers.0.kernel``; empty for a tree that is one
            array.
        shape: Of both sides.
        reference_dtype: Name of the dtype.
        candidate_dtype: The same of the candidate.
        tolerance: Largest ``rel_err`` that is no divergence.
        rel_err: Frobenius norm of the difference over that of the reference; infinite
            where only the reference is all zero.
        reference_norm: Frobenius norm.
        candidate_norm: Frobenius norm.
        difference_norm: Frobenius norm of candidate minus reference.
        max_abs_diff: Largest absolute difference.
        num_unequal: Elements whose values differ.
        num_nonfinite_reference: NaNs and infinities.
        num_nonfinite_candidate: NaNs and infinities.
        diverged: Whether ``rel_err`` exceeds the tolerance, a value of either side is
            not finite, or one differs where the tolerance is 0.
    """

    path: str
    shape: tuple[int, ...]
    reference_dtype: str
    candidate_dtype: str
    tolerance: Scalar
    rel_err: Scalar
    reference_norm: Scalar
    candidate_norm: Scalar
    difference_norm: Scalar
    max_abs_diff: Scalar
    num_unequal: Scalar
    num_nonfinite_reference: Scalar
    num_nonfinite_candidate: Scalar
    diverged: Scalar

    @property
    def name(self) -> str:
        """The path, or ``(the array)``."""
        return self.path or "(the array)"

    @property
    def dtypes(self) -> str:
        """``float32``, or ``float32 / bfloat16`` of reference and candidate."""
        both = (self.reference_dtype, self.candidate_dtype)
        return " / ".join(dict.fromkeys(both))

    def __str__(self) -> str:
        if is_traced(self.diverged):
            return f"{self.name}: not known until the jitted function has run"
        verdict = "DIVERGED" if self.diverged else "ok"
        text = (
            f"{verdict:<8}  {self.name}  rel_err {float(self.rel_err):.3g}  "
            f"tolerance {float(self.tolerance):.3g}"
        )
        for side in ("reference", "candidate"):
            number = int(getattr(self, f"num_nonfinite_{side}"))
            if number:
                text += f"  {number} of {math.prod(self.shape)} not finite in the "
                text += side
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayComparison:
    """All leaves of two trees. A pytree: jitted functions may return it.

    Attributes:
        leaves: In the order of the reference.
    """

    leaves: tuple[LeafComparison, ...]

    @property
    def diverged(self) -> Scalar:
        """Whether a leaf diverged: a bool, or a scalar of jax where leaves are."""
        verdicts = [leaf.diverged for leaf in self.leaves]
        if all(isinstance(verdict, bool) for verdict in verdicts):
            return any(verdicts)
        return jnp.any(jnp.stack([jnp.asarray(verdict) for verdict in verdicts]))

    def __iter__(self) -> Iterator[LeafComparison]:
        return iter(self.leaves)

    def __getitem__(self, path: str) -> LeafComparison:
        for leaf in self.leaves:
            if leaf.path == path:
                return leaf
        raise KeyError(path)

    def raise_if_diverged(self) -> None:
        """Raises where a leaf diverged; outside of jitted functions.

        Raises:
            DivergedError: A leaf did; it names the worst ones.
            UsageError: Values are not known yet, inside of a jitted function.
        """
        if any(is_traced(leaf.diverged) for leaf in self.leaves):
            raise UsageError(
                "what diverged is not known inside of a jitted function",
                remedy="return the comparison from it and call raise_if_diverged "
                "there, or use its `diverged` in jax.lax.cond or checkify.check",
            )
        found = [leaf for leaf in self.leaves if leaf.diverged]
        if not found:
            return
        found.sort(key=_severity, reverse=True)
        named = [f"\n    {leaf}" for leaf in found[:_MAX_NAMED]]
        if len(found) > _MAX_NAMED:
            named.append(f"\n    and {len(found) - _MAX_NAMED} more")
        raise DivergedError(
            f"{len(found)} of {len(self.leaves)} arrays diverged",
            expected="every rel_err at most its tolerance, every value finite",
            got="".join(named),
            remedy="look at the first of these that is computed; a tolerance is what "
            "rounding explains, not what makes this pass",
        )

    def __str__(self) -> str:
        num_diverged = sum(
            not is_traced(leaf.diverged) and bool(leaf.diverged) for leaf in self.leaves
        )
        lines = [f"{num_diverged} of {len(self.leaves)} arrays diverged"]
        return "\n".join([*lines, *(f"  {leaf}" for leaf in self.leaves)])


def _severity(leaf: LeafComparison) -> tuple[bool, float]:
    """Orders leaves: values that are not finite, then by margin."""
    is_finite = not (leaf.num_nonfinite_reference or leaf.num_nonfinite_candidate)
    error, tolerance = float(leaf.rel_err), float(leaf.tolerance)
    return not is_finite, error / tolerance if tolerance else math.inf


jax.tree_util.register_dataclass(
    LeafComparison,
    data_fields=[f.name for f in fields(LeafComparison) if f.name not in _STATIC],
    meta_fields=list(_STATIC),
)
jax.tree_util.register_dataclass(
    ArrayComparison, data_fields=["leaves"], meta_fields=[]
)
