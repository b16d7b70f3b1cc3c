"""The gradients of data-parallel ranks are never reduced.

The training loop does not hand ``finalize_model_grads`` to the schedule, which then has
nothing to call after the last backward.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, DP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="finalize_never_called",
    title="The schedule is not given finalize_model_grads: nothing is reduced over DP",
    source="Megatron-LM #1685",
    breaks="all main gradients; their copies differ",
    model=DENSE,
    layout=DP2,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def after_wrap(args, config, chunks, optimizer):
    config.finalize_model_grads_func = None
