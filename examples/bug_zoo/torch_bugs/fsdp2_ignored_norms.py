"""Norms are left out of FSDP2 to save messages: nobody reduces their gradients."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="fsdp2_ignored_norms",
    title="Parameters that FSDP2 ignores are not reduced by anybody",
    source="areal-project/AReaL #313",
    breaks="gradients of all norms; their copies differ",
    script=SCRIPT,
    model=MODEL,
    layout=FSDP2,
    first_seen=(place("*norm", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def before_build(args):
    import functools

    from torch import nn

    from ttrace.examples.torch_native import data_parallel

    def shard(model, *args):
        norms = [m for m in model.modules() if isinstance(m, nn.RMSNorm)]
        ignored = {parameter for norm in norms for parameter in norm.parameters()}
        data_parallel.fully_shard = functools.partial(
            fully_shard, ignored_params=ignored
        )
        right(model, *args)

    fully_shard, right = data_parallel.fully_shard, data_parallel.shard
    data_parallel.shard = shard
