"""A square kernel is used as torch holds it, [out, in]: no shape complains."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LLAMA, NNX, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="transposed_kernel",
    title="A square kernel is multiplied as torch's [out, in]",
    source="mindspore-lab/mindone PR 399",
    breaks="the output of the first attention, and all that follows",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=LLAMA,
    layout=NNX,
    map_name="llama_nnx",
    world_size=1,
    first_seen=(place("model.layers.0.self_attn.o_proj", Kind.OUTPUT),),
    expected_code="transposed_weight",
)


def after_build(args, models):
    import jax

    def transposed(inputs, kernel, dims, **options):
        return jax.lax.dot_general(inputs, kernel.T, dims, **options)

    (training,) = models
    for layer in training.model.layers:
        layer.self_attn.o_proj.dot_general = transposed
