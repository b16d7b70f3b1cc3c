"""Scalars that sum up many terms: how many, and what the order of the sum may change.

A sum of n terms of one sign that is added up in pairs is off by at most log2(n) unit
roundoffs of itself, u = epsilon / 2 (Higham, The accuracy of floating point summation,
SIAM J. Sci. Comput. 14(4), 1993, eq. 3.6; frameworks add up in pairs or blocks). Both
runs make that error, each in its own order: log2(n) epsilons between them. The root of
such a sum has half of its relative error. Noise at the outputs of modules does not show
it: all noise runs add up in the reference's order.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId

_ACCUMULATED_IN = "float32"
"""What sums of coarser dtypes are added up in, to be rounded once at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarSum:
    """What is known of a sum.

    Attributes:
        num_terms: How many terms, at least 1.
        is_root: The scalar is the square root of the sum.
    """

    num_terms: int
    is_root: bool = False

    def floor(self, storage_epsilon: float) -> float:
        """What the order may change, relative to the sum."""
        accumulated = dtype_named(_ACCUMULATED_IN).epsilon or 0.0
        return self._num_epsilons * min(storage_epsilon, accumulated)

    @property
    def sentence(self) -> str:
        """The bound in words, with its number."""
        half = "half of " if self.is_root else ""
        of = "squares that it is the root of" if self.is_root else "terms of its sum"
        return (
            f"{self._num_epsilons:.3g} for the order of the {self.num_terms} {of} "
            f"({half}their log2)"
        )

    @property
    def _num_epsilons(self) -> float:
        return math.log2(self.num_terms) / (2 if self.is_root else 1)


def scalar_sums(
    shapes: Mapping[TensorId, tuple[int, ...]],
) -> Mapping[TensorId, ScalarSum]:
    """The sums among the tensors of a run, as far as their number of terms is known.

    A loss has a term for every element of the largest output of the model in its
    micro-batch, at most; the norm of the gradients one for every element of these.

    Args:
        shapes: Logical shapes of all tensors of the reference.
    """
    of_losses: dict[tuple[int, int | None], int] = {}
    of_norms: dict[int, int] = {}
    for id_, shape in shapes.items():
        number = math.prod(shape)
        if id_.kind is Kind.OUTPUT and id_.module == ROOT_MODULE:
            key = id_.step, id_.microbatch
            of_losses[key] = max(of_losses.get(key, 1), number)
        elif id_.kind is Kind.MAIN_GRAD:
            of_norms[id_.step] = of_norms.get(id_.step, 0) + number
    sums: dict[TensorId, ScalarSum] = {}
    for id_, shape in shapes.items():
        if id_.kind is Kind.LOSS:
            terms = of_losses.get((id_.step, id_.microbatch), 1)
        elif id_.kind is Kind.GRAD_NORM:
            terms = of_norms.get(id_.step, 1)
        else:
            continue
        if terms > 1 and math.prod(shape) == 1:
            is_root = id_.kind is Kind.GRAD_NORM
            sums[id_] = ScalarSum(num_terms=terms, is_root=is_root)
    return sums
