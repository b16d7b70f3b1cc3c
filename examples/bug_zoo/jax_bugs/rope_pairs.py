"""Rotary positions pair neighbours, where the weights are made for halves."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LLAMA, NNX, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="rope_pairs",
    title="Rotary embeddings rotate pairs (2i, 2i+1) where the model has (i, i + d/2)",
    source="NeuraLegion/shainet PR 111, TransformerEngine PR 655",
    breaks="queries and keys, and all that follows from the first attention on",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=LLAMA,
    layout=NNX,
    map_name="llama_nnx",
    world_size=1,
    first_seen=(place("model.layers.0.self_attn.o_proj", Kind.INPUT),),
    expected_code="attention_variant",
)


def before_build(args):
    import jax.numpy as jnp

    from ttrace.examples.jax_port import functional

    def rotate(x, angles):
        cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
        even, odd = x[..., ::2], x[..., 1::2]
        rotated = jnp.stack((even * cos - odd * sin, odd * cos + even * sin), axis=-1)
        return rotated.reshape(x.shape)

    functional.rotate = rotate
