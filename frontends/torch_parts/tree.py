"""Arguments and outputs of torch modules as (slot, tensor) pairs.

How structures are walked and slots are named: ``ttrace.recording.slots``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ttrace.recording.slots import MAX_DEPTH as MAX_DEPTH
from ttrace.recording.slots import SlotWalk
from ttrace.recording.slots import clean_name as clean_name

_TENSORS = SlotWalk(is_leaf=lambda value: isinstance(value, torch.Tensor))


def named_tensors(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a module's output with their slots, in order.

    A tensor alone has slot ``0``, like the first of a tuple: whether a module wraps its
    only output makes no difference. A tensor object that occurs twice is yielded twice.
    """
    return _TENSORS.named_leaves(value)


def named_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a call: ``0``, ``1.mask``, and keywords by name."""
    return _TENSORS.named_arguments(args, kwargs)


def map_tensors(value: Any, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Any:
    """Replaces the tensors of a structure.

    Args:
        value: Anything that ``named_tensors`` walks.
        change: Given slot and tensor, returns the new tensor, or the same one.

    Returns:
        A structure of the same types; the very same object where nothing changed. The
        original is left as it was.
    """
    return _TENSORS.map_leaves(value, change)
