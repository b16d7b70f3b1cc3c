"""The one place that knows types of tensors: local values and layout of any of them.

A plain tensor holds its values, and a description says what part of the logical tensor
they are. Tensors that wrap others say it themselves; how each type is read stands in a
table, to which a plug-in may add its own (``register_tensor_type``).
"""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ttrace.frontends.torch_parts.arrays import unobserved
from ttrace.frontends.torch_parts.local_tensor import (
    Answer,
    LocalTensor,
    NoLayout,
    PlainAnswer,
    TensorType,
)
from ttrace.ir.layout import ShardLayout

_registered: dict[type[torch.Tensor], TensorType] = {}


def register_tensor_type(cls: type[torch.Tensor], tensor_type: TensorType) -> None:
    """Says how tensors of a class, and of classes derived from it, are read.

    What was registered last is asked first; ttrace's own types come after them.
    """
    _registered.pop(cls, None)
    _registered[cls] = tensor_type


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds its values itself."""
    return not is_traceable_wrapper_subclass(tensor)


def says_its_layout(tensor: torch.Tensor) -> bool:
    """Whether a tensor says itself what part of a logical tensor it holds."""
    tensor_type = type_of(tensor)
    return tensor_type is not None and tensor_type.layout is not None


def type_of(tensor: torch.Tensor) -> TensorType | None:
    """How a tensor is read; None for a plain one, and for a type that nobody knows."""
    for cls, tensor_type in reversed(_registered.items()):
        if isinstance(tensor, cls):
            return tensor_type
    if is_plain(tensor):
        return None
    # Only where such a tensor exists is torch.distributed there, and loaded.
    from ttrace.frontends.torch_parts import dtensor

    return dtensor.own_type_of(tensor)


def local_tensor(
    tensor: torch.Tensor, plain_layout: Callable[[tuple[int, ...]], PlainAnswer]
) -> Answer:
    """What this rank holds of a logical tensor, and where in it that is.

    Args:
        tensor: Of any type.
        plain_layout: Says it of a plain tensor, from its shape.

    Returns:
        Values that can be stored and their layout. A tensor of a type that nobody knows
        is given back with the layout of a plain one; it cannot be stored, which is said
        where that is tried.
    """
    tensor_type = type_of(tensor)
    if tensor_type is None or tensor_type.layout is None:
        answer = plain_layout(tuple(tensor.shape))
        if not isinstance(answer, ShardLayout):
            return answer
        return LocalTensor(values=local_values(tensor), layout=answer)
    with unobserved():
        described = tensor_type.layout(tensor)
    if isinstance(described, NoLayout):
        return described
    layout, mesh = described
    return LocalTensor(values=local_values(tensor), layout=layout, mesh=mesh)


def local_values(tensor: torch.Tensor) -> torch.Tensor:
    """The values that this rank holds; the tensor itself if it is a plain one."""
    while (tensor_type := type_of(tensor)) is not None:
        with unobserved():
            tensor = tensor_type.values(tensor)
    return tensor


def with_values(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A tensor like this one that holds other values; the values for a plain one."""
    tensor_type = type_of(tensor)
    if tensor_type is None:
        return values
    with unobserved():
        inner = tensor_type.values(tensor)
    values = with_values(inner, values)
    with torch.no_grad():
        return tensor_type.like(tensor, values)
