"""The weight gradient uses an input that was gathered along the wrong dim.

Under sequence parallelism a column-parallel linear gathers its input along the sequence
again in backward. Gathered along the batch, tokens and output gradients do not belong
together; shapes fit once both are flattened.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="wgrad_gather_dim",
    title="The input is gathered along the wrong dim for the weight gradient",
    source="TransformerEngine #530",
    breaks="weight gradients of column-parallel linears",
    model=DENSE,
    layout=TP2_SP,
    first_seen=(
        # Tied to the embedding, its weight is an argument, not a parameter.
        place("output_layer", Kind.GRAD_INPUT),
        place("decoder.layers.*.mlp.linear_fc1", Kind.PARAM_GRAD),
        place("decoder.layers.*.self_attention.linear_qkv", Kind.PARAM_GRAD),
    ),
    expected_code="backward_inside",
)


def before_build(args):
    import torch
    from megatron.core.tensor_parallel import layers

    gather = layers.dist_all_gather_func

    def gather_along_batch_in_backward(output, input_, group, async_op=False):
        handle = gather(output, input_, group=group, async_op=async_op)
        if torch._C._current_graph_task_id() == -1:  # not in backward
            return handle
        assert handle is not None  # backward gathers asynchronously
        handle.wait()
        parts = output.clone().chunk(group.size(), dim=0)
        output.copy_(torch.cat(parts, dim=1).view(output.shape))
        return handle

    layers.dist_all_gather_func = gather_along_batch_in_backward
