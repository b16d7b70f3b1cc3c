"""The learned part is multiplied by alpha, not by alpha over the rank."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, LORA, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="lora_scaled_by_alpha",
    title="LoRA is scaled by alpha, not by alpha / rank",
    source="Blaizzy/mlx-vlm #841",
    breaks="the output of the first linear that has an adapter, and all that follows",
    script=SCRIPT,
    model=LORA,
    layout=FSDP2,
    first_seen=(place("layers.0.attention.q", Kind.OUTPUT),),
    expected_code="scaled_submodule",
)


def before_build(args):
    from ttrace.examples.torch_native import lora

    lora.lora_scaling = lambda linear: linear.ALPHA
