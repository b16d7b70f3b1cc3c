"""Positions begin at 1. The last one is beyond the table, and JAX clamps indices."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, NNX, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="position_offset",
    title="Learned positions are read with an offset",
    source="sentence-transformers PR 3879, transformers #20761",
    breaks="the position embeddings, and all that follows",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=NNX,
    map_name="gpt2_nnx",
    world_size=1,
    first_seen=(place("transformer.wpe", Kind.INPUT, Kind.OUTPUT),),
    expected_code="rearranged",
)


def before_build(args):
    import jax.numpy as jnp

    from ttrace.examples.jax_port import functional

    positions = functional.positions

    def from_one(tokens):
        return jnp.minimum(positions(tokens) + 1, tokens.shape[1] - 1)

    functional.positions = from_one
