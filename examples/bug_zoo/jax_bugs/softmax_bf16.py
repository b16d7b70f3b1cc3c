"""The softmax of the attention runs in bfloat16."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LLAMA, NNX, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="softmax_bf16",
    title="The softmax of the attention is computed in bfloat16, not in float32",
    source="apple/axlearn PR 18, transformers #30186",
    breaks="the weights of the attention by some 1e-3, and all that follows",
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
    import jax
    import jax.numpy as jnp

    from ttrace.examples.jax_port import functional

    def in_bfloat16(scores):
        return jax.nn.softmax(scores.astype(jnp.bfloat16)).astype(scores.dtype)

    functional.softmax = in_bfloat16
