"""Nobody freezes the model that the adapters are put on."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import DDP, LORA, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="lora_base_trained",
    title="The linears below the adapters are trained, too",
    source="huggingface/diffusers PR 2245, PR 4687",
    breaks="gradients and updates of parameters that should have none",
    script=SCRIPT,
    model=LORA,
    layout=DDP,
    diagnosis="extra_gradient",
    first_seen=(place("*", Kind.PARAM_GRAD, Kind.MAIN_GRAD),),
    expected_code="extra_gradient",
)


def before_build(args):
    from ttrace.examples.torch_native import lora

    lora.freeze = lambda model: None
