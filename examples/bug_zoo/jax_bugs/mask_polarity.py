"""True means padding in torch.nn.MultiheadAttention, and a token in flax."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, NNX, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mask_polarity",
    title="The padding mask is taken the wrong way round",
    source="PyTorch PR 39321 (both meanings are in use), detr #96",
    breaks="the attention, and all that follows",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=NNX,
    map_name="gpt2_nnx",
    world_size=1,
    first_seen=(place("transformer.h.0.attn.c_proj", Kind.INPUT),),
    expected_code="attention_variant",
)


def before_build(args):
    from ttrace.examples.jax_port import functional

    mask = functional.attention_mask
    functional.attention_mask = lambda is_token: mask(~is_token)
