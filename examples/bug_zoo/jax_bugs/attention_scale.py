"""Scores are divided by the root of the width of the model, not of a head."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, LINEN, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="attention_scale",
    title="The attention is scaled by the width of the model, not of a head",
    source="FareedKhan-dev/train-llm-from-scratch PR 3, karpathy/ng-video-lecture PR 6",
    breaks="the attention of the first layer, and all that follows",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=LINEN,
    map_name="gpt2_linen",
    world_size=1,
    first_seen=(place("transformer.h.0.attn.c_proj", Kind.INPUT),),
    expected_code="attention_variant",
)


def before_build(args):
    from ttrace.examples.jax_port import functional

    def by_width(query):
        return (query.shape[-1] * query.shape[-2]) ** -0.5

    functional.attention_scale = by_width
