""" "Decay what has more than one dim": where layers are stacked, norms have two."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import (
    GPT2,
    LINEN,
    SCRIPT,
    STACKED,
    TORCH_SCRIPT,
)
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="decay_of_stacked_norms",
    title="Weight decay reaches norms and biases whose layers are stacked",
    source="salesforce/jaxformer #28, transformers PR 18273",
    breaks="norms and biases of the blocks after the step",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=(*LINEN, *STACKED),
    map_name="gpt2_linen_stacked",
    world_size=1,
    first_seen=(place("transformer.h.*", Kind.UPDATED_PARAM),),
    expected_code="weight_decay",
)


def before_build(args):
    import jax

    from ttrace.examples.jax_port import optimization

    def by_dims(parameters):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, parameters)

    optimization.decay_mask = by_dims
