"""The angles of the rotary positions are computed in bfloat16."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import DDP, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="rotary_in_bf16",
    title="Rotary positions are computed in bfloat16",
    source="transformers PR 29285, modded-nanogpt #39",
    breaks="query and key after the rotation, and all that follows",
    script=SCRIPT,
    model=MODEL,
    layout=DDP,
    first_seen=(place("layers.0.attention.core", Kind.INPUT),),
    expected_code="attention_variant",
)


def before_build(args):
    import torch

    from ttrace.examples.torch_native import llama

    def rotate(tensor, positions):
        half = tensor.shape[-1] // 2
        powers = torch.arange(half) / half
        frequencies = (llama.ROPE_BASE**-powers).bfloat16()
        angles = positions[..., None, None].bfloat16() * frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        x, y = tensor.chunk(2, dim=-1)
        return torch.cat((x * cos - y * sin, y * cos + x * sin), dim=-1)

    llama.rotate = rotate
