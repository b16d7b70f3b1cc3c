"""The router's gradients are not summed over tensor-parallel ranks.

Under sequence parallelism each rank routes its own tokens, so its router has a share of
the gradient; the mark that makes Megatron sum the shares was missing (Megatron-LM issue
#599, pull request 619).
"""


def after_build(args, models):
    for model in models:
        for name, parameter in model.named_parameters():
            if name.endswith("router.weight"):
                parameter.sequence_parallel = False
