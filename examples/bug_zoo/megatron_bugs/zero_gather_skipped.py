"""Parameters are not gathered after the distributed optimizer's step.

Each data-parallel rank has updated its range of the parameters and keeps the old values
of the others'. Gradients of the first step are right.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, ZERO
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="zero_gather_skipped",
    title="ZeRO: the all-gather of updated parameters is skipped",
    source="Megatron-LM commit 32bbb76d57",
    breaks="parameters after the step; their copies differ",
    model=DENSE,
    layout=ZERO,
    first_seen=(place("*", Kind.UPDATED_PARAM),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def before_build(args):
    from megatron.core.distributed.param_and_grad_buffer import (
        _ParamAndGradBucketGroup,
    )

    _ParamAndGradBucketGroup.start_param_sync = lambda self, force_sync=False: None
