"""The dtype that a run computes in, and a candidate that computes in a coarser one."""

import math
from collections import Counter
from dataclasses import dataclass

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.trace import PRODUCT_DTYPE, TraceInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarserCompute:
    """A candidate that computes in a coarser dtype than the reference.

    Attributes:
        reference: Dtype of most outputs of the reference.
        candidate: Dtype of most outputs of the candidate.
        noise: Dtype whose roundings the noise stands for; None for the reference's.
    """

    reference: str
    candidate: str
    noise: str | None = None

    @property
    def epsilon(self) -> float:
        """That of the candidate's dtype."""
        epsilon = dtype_named(self.candidate).epsilon
        assert epsilon is not None
        return epsilon

    @property
    def factor(self) -> float:
        """How much larger its roundings are, and so, in first order, their effect.

        Than those that the noise stands for: 1 where that was measured with its own.
        """
        finer = dtype_named(self.noise or self.reference).epsilon
        assert finer is not None
        return max(1.0, self.epsilon / finer)

    def growth(self, share: float, *, is_state: bool) -> float:
        """How much larger the noise of a tensor is in the candidate.

        Args:
            share: Noise in the reference over the norm of the tensor.
            is_state: It may be a square, as Adam's second moment is: with a relative
                noise r of the gradient, its own is 2 r + r^2, and r grows.
        """
        if not is_state or share == 0:
            return self.factor
        if math.isinf(share):
            return self.factor**2
        # sqrt(1 + share) - 1, without cancellation
        of_gradient = self.factor * share / (math.sqrt(1 + share) + 1)
        return (2 * of_gradient + of_gradient**2) / share


def coarser_compute(
    reference: TraceInfo, candidate: TraceInfo, *, noise_dtype: str | None = None
) -> CoarserCompute | None:
    """The dtypes of both, if the candidate's is the coarser one; else None.

    One module that computes in another dtype is no precision of the run, but may be a
    bug of it: what most outputs have counts, or most matrix products where the frontend
    says it. Runs that recorded neither say nothing.

    Args:
        reference: The trusted run.
        candidate: The run under test.
        noise_dtype: Dtype whose roundings the noise stands for; None for the
            reference's.
    """
    names = compute_dtypes(reference, candidate)
    if names is None:
        return None
    finer, coarser = (dtype_named(name).epsilon for name in names)
    assert finer is not None and coarser is not None
    if coarser <= finer:
        return None
    return CoarserCompute(reference=names[0], candidate=names[1], noise=noise_dtype)


def compute_dtypes(
    reference: TraceInfo, candidate: TraceInfo
) -> tuple[str, str] | None:
    """The dtypes that both runs compute in, if they are not one; else None."""
    names = _computes_in(reference), _computes_in(candidate)
    if names[0] is None or names[1] is None or names[0] == names[1]:
        return None
    return names[0], names[1]


def _computes_in(info: TraceInfo) -> str | None:
    """The dtype of most outputs, or that of most products where it is coarser.

    A policy may cast what modules are given, and cast back what they return.
    """
    names = _dtype_of_most_outputs(info), product_dtype(info)
    known = [name for name in names if name is not None]
    return max(known, key=_epsilon, default=None)


def product_dtype(info: TraceInfo) -> str | None:
    """The dtype of most matrix products of a run; None where it does not say."""
    name = info.ranks[0].settings.get(PRODUCT_DTYPE)
    return name if isinstance(name, str) else None


def _epsilon(name: str) -> float:
    return dtype_named(name).epsilon or 0.0


def _dtype_of_most_outputs(info: TraceInfo) -> str | None:
    dtypes = Counter(
        record.shards[0].dtype
        for record in info.tensors.values()
        if record.id.kind is Kind.OUTPUT
        and dtype_named(record.shards[0].dtype).epsilon is not None
    )
    return dtypes.most_common(1)[0][0] if dtypes else None
