"""The hooks that sum layernorm gradients never fire.

They are put on the parameters before the engine wraps the model, which replaces them;
the new ones have no hooks.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, SCRIPT, TENSOR
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="layernorm_hook_lost",
    title="Hooks that sum layernorm gradients sit on parameters that were replaced",
    source="GPT-NeoX PR 1257, PR 1259",
    breaks="gradients of all layernorms; their copies differ",
    script=SCRIPT,
    model=MODEL,
    layout=TENSOR,
    first_seen=(place("*norm", Kind.PARAM_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def before_build(args):
    from torch import nn

    from ttrace.examples.torch_parallel import tensor

    def register_gradient_hooks(model):
        register(model)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight = nn.Parameter(module.weight.detach().clone())
                module.bias = nn.Parameter(module.bias.detach().clone())

    register = tensor.register_gradient_hooks
    tensor.register_gradient_hooks = register_gradient_hooks
