"""Whether to synchronize gradients is decided between forward and backward.

DistributedDataParallel prepares its reduction in the forward, with the decision of the
micro-batch before: the first micro-batch is reduced, the last one is not.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import DATA, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="no_sync_after_forward",
    title="The switch of gradient synchronization is set after the forward",
    source="build-nanogpt PR 30",
    breaks="all main gradients; their copies differ",
    script=SCRIPT,
    model=MODEL,
    layout=DATA,
    first_seen=(place("*", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def before_build(args):
    import contextlib

    from ttrace.examples.torch_parallel import loop

    switch = {}

    def gradient_sync(model, *, is_last):
        switch.update(model=model, is_last=is_last)
        return contextlib.nullcontext()

    def backward(loss, place):
        switch["model"].require_backward_grad_sync = switch["is_last"]
        run(loss, place)

    run = loop.backward
    loop.gradient_sync = gradient_sync
    loop.backward = backward
