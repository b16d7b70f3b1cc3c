"""The norm of gradients, computed where a rank holds them whole."""

import math
from collections.abc import Iterable

import torch

from ttrace.frontends.torch_parts.arrays import unobserved
from ttrace.frontends.torch_parts.local_tensor import NoLayout, is_whole
from ttrace.frontends.torch_parts.tensors import local_tensor
from ttrace.ir.layout import whole

NO_NORM = NoLayout(
    reason="this rank does not hold all gradients whole, and ttrace does not "
    "communicate; to compare their norm, give it to trace.main_grads(grad_norm=...)"
)

NORM_OF_PARTS = NoLayout(
    reason="every parameter has an optimizer of its own, none of which has all "
    "gradients; main_grad is compared"
)

NORM_OF_GROUPS = NoLayout(
    reason="the optimizer is stepped one group of parameters at a time, and need not "
    "have the gradients of all at once; main_grad is compared"
)

NORM_OF_OWN_PART = NoLayout(
    reason="the optimizer of this rank holds a part of the parameters that are "
    "trained, whose gradients' norm is not that of all; main_grad is compared; to "
    "compare the norm, give it to trace.main_grads(grad_norm=...)"
)

NORM_OF_CLIPPED = NoLayout(
    reason="gradients were clipped before they were seen, and their norm with them; "
    "clipped_grad is compared"
)


def total_norm(gradients: Iterable[torch.Tensor]) -> float | None:
    """The 2-norm of all gradients together.

    Args:
        gradients: Real or complex ones.

    Returns:
        In float64; None where there is none, or one that is not a whole dense tensor.
    """
    norms = []
    held = [whole_values(gradient) for gradient in gradients]
    with unobserved():
        for gradient in held:
            if type(gradient) is not torch.Tensor or gradient.layout != torch.strided:
                return None
            is_complex = gradient.is_complex()
            dtype = torch.complex128 if is_complex else torch.float64
            norms.append(torch.linalg.vector_norm(gradient, dtype=dtype).item())
    return math.hypot(*norms) if norms else None


def whole_values(tensor: torch.Tensor) -> torch.Tensor | None:
    """The values of a tensor; None of one of which this rank has a part."""
    answer = local_tensor(tensor, lambda shape: whole(shape, ""))
    return answer.values if is_whole(answer) else None
