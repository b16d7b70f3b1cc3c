"""No layernorm is reduced over tensor-parallel ranks under sequence parallelism.

The hook that should sum their gradients is attached in a way that never calls it.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="layernorm_hook_never_fires",
    title="The hook that reduces layernorm gradients never fires",
    source="EleutherAI/gpt-neox PR 1257",
    breaks="main gradients of every layernorm; their copies differ",
    model=DENSE,
    layout=TP2_SP,
    first_seen=(place("decoder.*layernorm", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def after_build(args, models):
    for model in models:
        for name, parameter in model.named_parameters():
            if "layernorm" in name:
                parameter.sequence_parallel = False
