"""Buffers of which each data-parallel rank has values of its own."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ttrace.frontends.torch_parts.local_tensor import (
    Answer,
    LocalTensor,
    NoLayout,
    is_whole,
)
from ttrace.ir.each_rank import layout_of_each
from ttrace.ir.layout import Mesh

_SHARDED = (
    "running statistics of this rank's own micro-batches, which no run on one process "
    "has, and of which a rank holds a part"
)


def is_unsynchronized(module: torch.nn.Module) -> bool:
    """Whether a module is taken to keep statistics of its own rank's samples alone.

    A subclass may synchronize them; that shows when the values of all ranks are there.
    """
    # The common base of BatchNorm and InstanceNorm has no public name.
    keeps = isinstance(module, torch.nn.modules.batchnorm._NormBase)
    return keeps and not isinstance(module, torch.nn.SyncBatchNorm)


def of_each_rank(answer: Answer, mesh: Mesh, axes: Sequence[str]) -> Answer:
    """A buffer as one of several, of which each place along some axes has its own.

    Args:
        answer: What this rank holds, taken for the whole of a buffer.
        mesh: The mesh of the axes.
        axes: Those along which ranks have micro-batches of their own.
    """
    axes = tuple(axis for axis in axes if mesh.sizes[axis] > 1)
    if not axes or not isinstance(answer, LocalTensor):
        return answer
    if not is_whole(answer) or answer.mesh is not None:
        return NoLayout(reason=_SHARDED)
    layout = layout_of_each(tuple(answer.values.shape), mesh, axes)
    return replace(
        answer, values=answer.values.reshape(layout.local_shape), layout=layout
    )
