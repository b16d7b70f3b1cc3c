"""The norm of the gradients leaves out what experts of some ranks have.

Expert parameters that do not say that they are distinct on every tensor-parallel rank
are taken for replicas, and counted on the first rank only.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import EP2, EXPERTS, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="expert_norm_undercount",
    title="The gradient norm counts the experts of the first tensor-parallel rank only",
    source="Megatron-LM PR 5916, radixark/Megatron-LM PR 80",
    breaks="the norm of the gradients, and so clipping and the update",
    model=EXPERTS,
    layout=(*TP2_SP, *EP2),
    first_seen=(place("@root", Kind.GRAD_NORM),),
    expected_code="gradient_norm",
)


def after_wrap(args, config, chunks, optimizer):
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if ".local_experts." in name:
                parameter.tensor_model_parallel = False
