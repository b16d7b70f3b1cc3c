"""What a description answers of a tensor: values and layout, or why there are none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch

from ttrace.ir.layout import Mesh, ShardLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class NoLayout:
    """The answer for a tensor whose layout is not known: it is skipped, visibly.

    Attributes:
        reason: One sentence for the report.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedElsewhere:
    """The answer for a tensor that is recorded under another name, or by another rank.

    For example what a stage of a pipeline returns: the output of its last layer under
    the path of the whole model, which is not what the whole model returns. Nothing is
    recorded and nothing skipped.
    """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalTensor:
    """What this rank holds of a logical tensor.

    Attributes:
        values: ``layout.local_shape``; a plain tensor, which may be a view.
        layout: What part of the logical tensor they are.
        mesh: The mesh that the layout speaks of, where the tensor itself brought it;
            None for one of the description's.
    """

    values: torch.Tensor
    layout: ShardLayout
    mesh: Mesh | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlatPart:
    """What a rank holds of a tensor of which it holds no more than a flat range.

    Distributed optimizers (ZeRO) flatten a rank's parameters into buckets, and each
    data-parallel rank owns a range of every bucket.

    Attributes:
        start: First element, in the rank's own array of the parameter, flattened.
        values: ``[num_elements]``, from there on.
    """

    start: int
    values: torch.Tensor


PlainAnswer = ShardLayout | NoLayout | RecordedElsewhere
"""What is said of a plain tensor: it holds its values itself."""

Answer = LocalTensor | NoLayout | RecordedElsewhere
"""What is said of any tensor."""


def is_whole(answer: Answer) -> TypeGuard[LocalTensor]:
    """Whether a rank holds all of a logical tensor."""
    if not isinstance(answer, LocalTensor):
        return False
    layout = answer.layout
    return layout.local_shape == layout.global_shape and not layout.partial_axes


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """How tensors of one type are read. Nothing here may communicate.

    Attributes:
        values: The values that this rank holds; a tensor of another type of the table
            may stand for them, and is read in turn. Waits for what is on its way.
        layout: What part of the logical tensor they are, and the mesh that this speaks
            of; or why it is not known. None where the description says it, as of a
            plain tensor of this shape.
        like: A tensor like the first one that holds other values, of the same shape and
            dtype as ``values`` gave.
    """

    values: Callable[[Any], torch.Tensor]
    layout: Callable[[Any], tuple[ShardLayout, Mesh] | NoLayout] | None
    like: Callable[[Any, torch.Tensor], torch.Tensor]
