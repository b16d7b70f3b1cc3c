"""Saved activations are put together in the wrong order before they are recomputed.

Tensor-parallel ranks save one part each of what recomputation starts from; gathering
takes the parts in reverse. The first forward is right, the gradients are not.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, FULL_RECOMPUTE, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="recompute_shard_order",
    title="Distributed saved activations are gathered in the wrong order",
    source="Megatron-LM PR 290",
    breaks="the recomputed forward and the gradients; the first forward is right",
    model=(*DENSE, *FULL_RECOMPUTE),
    layout=TP2,
    first_seen=(place("decoder.layers.1*", Kind.INPUT),),
    expected_code="recomputation",
)


def after_build(args, models):
    import torch
    from megatron.core.tensor_parallel import random

    for model in models:
        model.config.distribute_saved_activations = True
    gather = random.gather_split_1d_tensor

    def gather_in_reverse(tensor, tp_group=None):
        parts = gather(tensor, tp_group).chunk(args.tensor_model_parallel_size)
        return torch.cat(parts[::-1])

    random.gather_split_1d_tensor = gather_in_reverse
