"""The hooks on layernorms average over the tensor-parallel ranks instead of summing.

Every rank has a share of the gradient, from its part of the sequence; an average is
right only for copies.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, SCRIPT, TENSOR
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="layernorm_hook_averages",
    title="Layernorm gradients are averaged under sequence parallelism, not summed",
    source="GPT-NeoX PR 1259",
    breaks="gradients of all layernorms, by the tensor-parallel size",
    script=SCRIPT,
    model=MODEL,
    layout=TENSOR,
    first_seen=(place("*norm", Kind.PARAM_GRAD),),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    import torch.distributed as dist
    from torch import nn

    from ttrace.examples.torch_parallel import tensor

    def register_gradient_hooks(model):
        register(model)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                for parameter in module.parameters():
                    parameter.register_hook(lambda total: total / dist.get_world_size())

    register = tensor.register_gradient_hooks
    tensor.register_gradient_hooks = register_gradient_hooks
