"""A training step that is put together by hand forgets Megatron's tensor-parallel sums.

Gradients of norms, and of biases that are added to a sharded sequence, are shares on
every rank; the function that sums them is not part of the backward.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="replicas_not_reduced",
    title="Gradients of replicated parameters are not summed over TP ranks",
    source="NVIDIA-NeMo/RL #3716",
    breaks="main gradients of norms and of the biases behind row-parallel linears",
    model=(*DENSE, "--qk-layernorm"),
    layout=TP2_SP,
    first_seen=(
        place("decoder.final_layernorm", Kind.MAIN_GRAD),
        place("decoder.layers.*norm", Kind.MAIN_GRAD),
        place("decoder.layers.*.linear_proj", Kind.MAIN_GRAD),
        place("decoder.layers.*.linear_fc2", Kind.MAIN_GRAD),
    ),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def before_build(args):
    import importlib

    # Megatron exports a function of the name of this module.
    finalize = importlib.import_module("megatron.core.distributed.finalize_model_grads")

    def reduce_nothing(*args, **kwargs):
        pass

    setattr(  # noqa: B010
        finalize, "_allreduce_non_tensor_model_parallel_grads", reduce_nothing
    )
