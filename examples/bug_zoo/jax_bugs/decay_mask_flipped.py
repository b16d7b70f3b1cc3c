"""optax applies weight decay where the mask is True; this one says where not to."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LLAMA, NNX, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="decay_mask_flipped",
    title="The mask of the weight decay has the opposite of optax's meaning",
    source="transformers #11936",
    breaks="all parameters after the step",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=LLAMA,
    layout=NNX,
    map_name="llama_nnx",
    world_size=1,
    first_seen=(place("*", Kind.UPDATED_PARAM),),
    expected_code="weight_decay",
)


def before_build(args):
    import jax

    from ttrace.examples.jax_port import optimization

    mask = optimization.decay_mask

    def flipped(parameters):
        return jax.tree.map(lambda decays: not decays, mask(parameters))

    optimization.decay_mask = flipped
