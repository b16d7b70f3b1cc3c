"""Keys and values are tiled (0 1 0 1) where the queries expect repeats (0 0 1 1)."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LINEN, LLAMA, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="gqa_tiled_heads",
    title="Grouped heads of keys and values are tiled, not repeated",
    source="apple/axlearn PR 842, ekzhang/jax-js PR 180, onnx PR 7274",
    breaks="which keys a query sees, and all that follows",
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

    functional.repeat_heads = lambda x, count: jnp.tile(x, (1, 1, count, 1))
