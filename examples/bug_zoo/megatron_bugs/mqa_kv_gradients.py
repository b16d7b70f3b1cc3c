"""With multi-query attention, gradients of keys and values are not summed over TP.

All tensor-parallel ranks attend to the same keys and values, each with queries of its
own, so that each has a share of their gradient. Here the gather that hands them to all
ranks keeps, backward, only what the rank itself made of its part.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import MULTI_QUERY, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mqa_kv_gradients",
    title="MQA: gradients of the shared keys and values are not summed over TP ranks",
    source="bigcode-project/Megatron-LM #35, PR 37",
    breaks="gradients of the projection to queries, keys and values, and all below",
    model=MULTI_QUERY,
    layout=TP2,
    first_seen=(place("decoder.layers.1.self_attention.linear_qkv", Kind.GRAD_OUTPUT),),
    # What is not summed is cut over the ranks by columns: no rank has a copy of it.
    expected_code="confined_error",
)


def before_build(args):
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
    from megatron.core.transformer import attention

    attention.all_gather_last_dim_from_tensor_parallel_region = (
        gather_from_tensor_model_parallel_region
    )
