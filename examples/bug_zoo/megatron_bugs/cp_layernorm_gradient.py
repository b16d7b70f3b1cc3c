"""Layernorm gradients that are complete are summed over tensor-parallel ranks again.

Without sequence parallelism every tensor-parallel rank has the whole gradient. With TP
and CP together it came out of backward TP times too large; with either alone it did
not.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import CP2, DENSE, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="cp_layernorm_gradient",
    title="TP and CP: layernorm gradients are TP times too large",
    source="Megatron-LM #1528, TransformerEngine #1677",
    breaks="gradients of the layernorms' parameters, from backward on",
    model=DENSE,
    layout=(*TP2, *CP2),
    world_size=4,
    first_seen=(place("decoder.*layernorm", Kind.PARAM_GRAD),),
    diagnosis="scaled",
    paper_row=14,
    expected_code="scaled",
)


def after_build(args, models):
    for model in models:
        for name, parameter in model.named_parameters():
            if "layernorm" in name:
                parameter.register_hook(_sum_again)


def _sum_again(gradient):
    import torch.distributed as dist
    from megatron.core import parallel_state

    total = gradient.clone()
    dist.all_reduce(total, group=parallel_state.get_tensor_model_parallel_group())
    return total
