"""The base of the frequencies is a constant of the port, not of the configuration."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import LINEN, LLAMA, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="rope_base",
    title="The base of the rotary frequencies is hard-coded",
    source="google-deepmind/penzai PR 102",
    breaks="queries and keys, and all that follows from the first attention on",
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
    import dataclasses

    from ttrace.examples.jax_port import functional

    angles = functional.rotary_angles

    def hard_coded(config, tokens):
        return angles(dataclasses.replace(config, rope_theta=500_000.0), tokens)

    functional.rotary_angles = hard_coded
