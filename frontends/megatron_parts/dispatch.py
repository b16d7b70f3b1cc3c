"""In which order a token dispatcher of Megatron hands tokens to a rank's experts.

The rows of an expert are, sender after sender, the tokens that each rank of the group
``ep x etp`` routed to it, in the order in which that rank has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from ttrace.frontends.megatron_parts.matching import is_a
from ttrace.frontends.torch_parts.arrays import unobserved

_ALL_TO_ALL = "MoEAlltoAllTokenDispatcher"
_ALL_GATHER = "MoEAllGatherTokenDispatcher"

_REORDERING = {
    "moe_pad_expert_input_to_capacity": "pads what an expert is given",
    "moe_router_padding_for_quantization": "pads what an expert is given",
    "fp8": "pads what an expert is given",
    "fp4": "pads what an expert is given",
    "moe_permute_fusion": "orders tokens inside a kernel",
}
"""Settings under which the order of an expert's rows has not been verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A rank that sends tokens to the experts of this one.

    Attributes:
        rank: Global rank.
        microbatch_offset: Global index of its micro-batch minus that of ours.
    """

    rank: int
    microbatch_offset: int


def unknown_reason(config: Any, dispatcher: Any) -> str | None:
    """Why the order of rows cannot be told, or None."""
    if not is_a(dispatcher, _ALL_TO_ALL, _ALL_GATHER):
        return (
            f"how {type(dispatcher).__name__} orders tokens is not known: only "
            f"{_ALL_TO_ALL} and {_ALL_GATHER} are"
        )
    for setting, effect in _REORDERING.items():
        if getattr(config, setting, None):
            return f"{setting} {effect}, in an order that is not known"
    if config.tensor_model_parallel_size > 1 and not config.sequence_parallel:
        return "without sequence parallelism several ranks dispatch the same tokens"
    return None


def senders(dispatcher: Any) -> tuple[Sender, ...]:
    """Who sends tokens to this rank's experts, in the order of the rows."""
    group = _ranks(dispatcher.tp_ep_group)
    me = dist.get_rank()
    offsets = microbatch_offsets(
        group,
        me,
        data_parallel=_ranks(parallel_state.get_data_parallel_group()),
        same_microbatch=_ranks(parallel_state.get_tensor_and_context_parallel_group()),
    )
    found = [
        Sender(rank=rank, microbatch_offset=offset)
        for rank, offset in zip(group, offsets, strict=True)
    ]
    if is_a(dispatcher, _ALL_TO_ALL):
        # In the group etp varies fastest, in the order of the rows ep does.
        etp = dispatcher.tp_size
        found = [sender for first in range(etp) for sender in found[first::etp]]
    return tuple(found)


def _ranks(group: Any) -> list[int]:
    return dist.get_process_group_ranks(group)


def microbatch_offsets(
    group: Sequence[int],
    me: int,
    *,
    data_parallel: Sequence[int],
    same_microbatch: Sequence[int],
) -> tuple[int, ...]:
    """How far the micro-batch of each rank of a group is from our own.

    Megatron's groups are the lines and planes of a regular grid: what lies around us
    lies around every rank along the data-parallel axis.

    Args:
        group: Global ranks.
        me: Our own one.
        data_parallel: Ranks that differ from us along the data-parallel axis.
        same_microbatch: Ranks that work on our micro-batch, in our pipeline stage.
    """
    here = data_parallel.index(me)
    place = {
        along + rank - me: position
        for position, along in enumerate(data_parallel)
        for rank in same_microbatch
    }
    return tuple(place[rank] - here for rank in group)


def rows_per_sender(dispatcher: Any) -> np.ndarray | None:
    """How many rows each sender has given each local expert.

    Asked when the experts are about to run.

    Returns:
        int64, ``[senders, local experts]``; None where the dispatcher forgets it.
    """
    num_senders = dispatcher.tp_size * dispatcher.ep_size
    num_experts = dispatcher.num_local_experts
    if is_a(dispatcher, _ALL_GATHER):
        with unobserved():
            by_sender = dispatcher.local_map.view(num_senders, -1, num_experts)
            return by_sender.sum(dim=1).cpu().numpy()
    if num_experts > 1:
        counts = dispatcher.num_global_tokens_per_local_expert
    elif dispatcher.tp_size == 1:
        counts = dispatcher.output_splits
    elif dispatcher.ep_size == 1:
        counts = dispatcher.output_splits_tp
    else:
        return None
    return np.asarray(
        counts.tolist() if isinstance(counts, torch.Tensor) else counts, dtype=np.int64
    ).reshape(num_senders, num_experts)
