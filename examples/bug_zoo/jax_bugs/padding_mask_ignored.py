"""The attention is causal only: padding at the end sees other padding."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LINEN, LLAMA, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="padding_mask_ignored",
    title="The padding mask is ignored by the attention",
    source="AI-Hypercomputer/maxtext #878",
    breaks="activations of padding only: neither loss nor gradients show it",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=LLAMA,
    layout=LINEN,
    map_name="llama_linen",
    world_size=1,
    first_seen=(place("model.layers.0.self_attn.o_proj", Kind.INPUT),),
    expected_code="attention_variant",
)


def before_build(args):
    import jax.numpy as jnp

    from ttrace.examples.jax_port import functional

    mask = functional.attention_mask
    functional.attention_mask = lambda is_token: mask(jnp.ones_like(is_token))
