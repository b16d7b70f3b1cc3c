"""The largest value of a tensor is looked for among the wrong ranks.

The scale of an FP8 tensor follows from its largest absolute value. That was reduced
over the data-parallel group, whose ranks hold the same part of the weight, and not over
the tensor-parallel group, whose ranks hold its other parts: each rank scales its own.
"""

from ttrace.examples.bug_zoo.bug import Bug, Precision, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="fp8_amax_group",
    title="FP8: the amax is reduced over the wrong group",
    source="Megatron-LM PR 442",
    breaks="the scales of FP8 tensors, which differ between tensor-parallel ranks",
    model=DENSE,
    layout=TP2_SP,
    precision=Precision.FP8,
    common_patch="ttrace.examples.bug_zoo.fp8_linears",
    first_seen=(place("decoder.layers.0.*.*_quantizer", Kind.OUTPUT),),
    diagnosis="replicas_differ",
    paper_row=7,
    expected_code="replicas_differ",
)


def after_build(args, models):
    from megatron.core import parallel_state

    for model in models:
        for module in model.modules():
            if hasattr(module, "amax_group"):
                module.amax_group = parallel_state.get_data_parallel_group
