"""Layernorm gradients are averaged over tensor-parallel ranks instead of summed.

Under sequence parallelism each rank has the share of its own tokens: the shares add up.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="layernorm_averaged",
    title="Layernorm gradients are averaged over tensor-parallel ranks, not summed",
    source="EleutherAI/gpt-neox PR 1259",
    breaks="main gradients of every layernorm, half of what they should be",
    model=DENSE,
    layout=TP2_SP,
    first_seen=(place("decoder.*layernorm", Kind.MAIN_GRAD),),
    diagnosis="scaled",
    expected_code="scaled",
)


def after_wrap(args, config, chunks, optimizer):
    finalize = config.finalize_model_grads_func

    def finalize_and_average(model, *rest, **kwargs):
        finalize(model, *rest, **kwargs)
        for chunk in model:
            for name, parameter in chunk.named_parameters():
                if "layernorm" in name:
                    parameter.main_grad /= args.tensor_model_parallel_size

    config.finalize_model_grads_func = finalize_and_average
