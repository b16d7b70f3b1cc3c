"""A column-parallel linear does not sum the gradient of its input.

Each tensor-parallel rank has the share that comes from its own columns; the all-reduce
over the ranks is missing in one layer.
"""

import functools

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="dgrad_all_reduce",
    title="The all-reduce of a column-parallel linear's input gradient is missing",
    source="Megatron-LM commit 5fffdfc737",
    breaks="gradients of everything below one linear",
    model=DENSE,
    layout=TP2,
    first_seen=(
        place("decoder.layers.1.mlp", Kind.GRAD_INPUT),
        place("decoder.layers.1.mlp.linear_fc1", Kind.GRAD_INPUT),
        place("decoder.layers.1.pre_mlp_layernorm", Kind.GRAD_OUTPUT),
    ),
    expected_code="replicas_differ",
)


def after_build(args, models):
    for model in models:
        linear = model.decoder.layers[1].mlp.linear_fc1
        linear._forward_impl = functools.partial(
            _without_reduction, linear._forward_impl
        )


def _without_reduction(forward, *, allreduce_dgrad, **kwargs):
    return forward(allreduce_dgrad=False, **kwargs)
