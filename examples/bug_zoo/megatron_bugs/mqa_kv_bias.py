"""With multi-query attention, the gradient of the key and value bias is not summed.

The reduction over tensor-parallel ranks of what they share of the keys' and values'
gradients went over the weights and left the biases out: the bias gets the gradient that
comes from one rank's queries.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import MULTI_QUERY, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mqa_kv_bias",
    title="MQA: the gradient of the key and value bias is not summed over TP ranks",
    source="bigcode-project/Megatron-LM #11, PR 12",
    breaks="the gradient of the bias of the projection to queries, keys and values",
    model=MULTI_QUERY,
    layout=TP2,
    first_seen=(place("decoder.layers.1.self_attention.linear_qkv", Kind.PARAM_GRAD),),
    # What is not summed is cut over the ranks by columns: no rank has a copy of it.
    expected_code="confined_error",
)


def after_build(args, models):
    from megatron.core.transformer.attention import SelfAttention

    for model in models:
        for module in model.modules():
            if isinstance(module, SelfAttention):
                _reduce_bias_apart(module)


def _reduce_bias_apart(attention):
    """Gives the bias a way back of its own: values stay what they are."""
    import torch
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.mappings import (
        all_gather_last_dim_from_tensor_parallel_region,
        reduce_scatter_last_dim_to_tensor_parallel_region,
    )
    from megatron.core.transformer import attention as attention_module

    class GatherBias(torch.autograd.Function):
        @staticmethod
        def forward(ctx, bias):
            return all_gather_last_dim_from_tensor_parallel_region(bias)

        @staticmethod
        def backward(ctx, *grad_outputs):
            (gradient,) = grad_outputs
            num_kv = 2 * attention.hidden_size_per_attention_head
            own = torch.zeros_like(gradient, dtype=torch.bool)
            size = parallel_state.get_tensor_model_parallel_world_size()
            rank = parallel_state.get_tensor_model_parallel_rank()
            own.chunk(size, dim=-1)[rank].fill_(True)
            is_of_queries = torch.arange(gradient.numel()) < gradient.numel() - num_kv
            kept = torch.where(own | is_of_queries, gradient, 0)
            return reduce_scatter_last_dim_to_tensor_parallel_region(kept)

    linear = attention.linear_qkv
    multiply = linear._forward_impl

    def forward_impl(*, bias, **kwargs):
        return multiply(bias=bias.detach(), **kwargs)

    linear._forward_impl = forward_impl
    project = attention.get_query_key_value_tensors

    def gather(mixed):
        whole = all_gather_last_dim_from_tensor_parallel_region(mixed)
        bias = GatherBias.apply(linear.bias)
        return whole + (bias - bias.detach())

    def with_bias(*args, **kwargs):
        attention_module.all_gather_last_dim_from_tensor_parallel_region = gather
        return project(*args, **kwargs)

    attention.get_query_key_value_tensors = with_bias
