"""The norm of all gradients that one rank holds whole."""

import math
from collections.abc import Iterable

import torch

from ttrace.frontends.torch_parts.arrays import unobserved
from ttrace.frontends.torch_parts.local_tensor import is_whole
from ttrace.frontends.torch_parts.tensors import local_tensor
from ttrace.ir.layout import whole


def total_norm(gradients: Iterable[torch.Tensor]) -> float | None:
    """The 2-norm of some gradients together, summed in float64.

    Args:
        gradients: Real or complex ones.

    Returns:
        None where there is none, or one that is not a whole dense tensor.
    """
    norms = []
    for gradient in gradients:
        values = whole_values(gradient)
        if type(values) is not torch.Tensor or values.layout != torch.strided:
            return None
        with unobserved():
            is_complex = values.is_complex()
            dtype = torch.complex128 if is_complex else torch.float64
            norms.append(torch.linalg.vector_norm(values, dtype=dtype).item())
    return math.hypot(*norms) if norms else None


def whole_values(tensor: torch.Tensor) -> torch.Tensor | None:
    """The values of a tensor; None of one of which this rank has a part."""
    answer = local_tensor(tensor, lambda shape: whole(shape, ""))
    return answer.values if is_whole(answer) else None
