"""The router's gradients are not summed over tensor-parallel ranks.

Under sequence parallelism each rank routes its own tokens, so its router has a share of
the gradient; the mark that makes Megatron sum the shares was missing.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import EP2, EXPERTS, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="router_weight",
    title="Gradients of the MoE router are not reduced under sequence parallelism",
    source="Megatron-LM #599, PR 619",
    breaks="main gradients of the routers; their copies differ",
    model=EXPERTS,
    layout=(*TP2_SP, *EP2),
    first_seen=(place("decoder.layers.*.mlp.router", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    paper_row=6,
    expected_code="replicas_differ",
)


def after_build(args, models):
    for model in models:
        for name, parameter in model.named_parameters():
            if name.endswith("router.weight"):
                parameter.sequence_parallel = False
