"""The final layernorm's gradients are not summed over tensor-parallel ranks.

Under sequence parallelism each rank sees a part of the sequence. Megatron sums the
gradients of parameters marked ``sequence_parallel``; those of the final layernorm were
not marked (Megatron-LM issue #1446).
"""


def after_build(args, models):
    for model in models:
        for name, parameter in model.named_parameters():
            if "final_layernorm" in name:
                parameter.sequence_parallel = False
