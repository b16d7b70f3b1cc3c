"""The final layernorm's gradients are not summed over tensor-parallel ranks.

Under sequence parallelism each rank sees a part of the sequence. Megatron sums the
gradients of parameters marked ``sequence_parallel``; those of the final layernorm were
not marked.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="final_layernorm",
    title="Gradients of the final layernorm are not reduced under sequence parallelism",
    source="Megatron-LM #1446",
    breaks="main gradients of the final layernorm; its copies differ",
    model=DENSE,
    layout=TP2_SP,
    first_seen=(place("decoder.final_layernorm", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    paper_row=12,
    expected_code="replicas_differ",
)


def after_build(args, models):
    for model in models:
        for name, parameter in model.named_parameters():
            if "final_layernorm" in name:
                parameter.sequence_parallel = False
