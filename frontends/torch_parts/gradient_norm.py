"""The norm of gradients, computed where a rank holds them whole."""

import math
from collections.abc import Iterable

import torch

from ttrace.frontends.torch_parts.arrays import unobserved
from ttrace.frontends.torch_parts.local_tensor import is_whole
from ttrace.frontends.torch_parts.tensors import local_tensor
from ttrace.ir.layout import whole


def total_norm(gradients: Iterable[torch.Tensor]) -> float | None:
    """The 2-norm of all gradients together.

    Returns:
        In float64; None where there is none, or one that is not a whole dense tensor.
    """
    norms = []
    held = [whole_values(gradient) for gradient in gradients]
    with unobserved():
        for gradient in held:
            if type(gradient) is not torch.Tensor or gradient.layout != torch.strided:
                return None
            norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
            norms.append(norm.item())
    return math.hypot(*norms) if norms else None


def whole_values(tensor: torch.Tensor) -> torch.Tensor | None:
    """The values of a tensor; None of one of which this rank has a part."""
    answer = local_tensor(tensor, lambda shape: whole(shape, ""))
    return answer.values if is_whole(answer) else None
