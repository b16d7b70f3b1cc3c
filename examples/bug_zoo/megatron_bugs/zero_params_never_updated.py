"""The distributed optimizer's step does not reach the model's parameters.

Its FP32 copies are updated; writing them back to the BF16 parameters is left out. In
BF16 the noise of Adam's first step is almost as large as the update, so the tolerance
alone hardly tells: that nothing changed does.
"""

from ttrace.examples.bug_zoo.bug import Bug, Precision, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, ZERO
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="zero_params_never_updated",
    title="ZeRO: parameters are never updated",
    source="Megatron-LM #565",
    breaks="parameters after the step",
    model=DENSE,
    layout=ZERO,
    precision=Precision.BF16,
    first_seen=(place("*", Kind.UPDATED_PARAM),),
    diagnosis="never_updated",
    paper_row=9,
    expected_code="never_updated",
)


def before_build(args):
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    DistributedOptimizer._copy_main_params_to_model_params = lambda self: None
