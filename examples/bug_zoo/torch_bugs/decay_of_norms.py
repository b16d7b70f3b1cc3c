"""All parameters are in the group that decays."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import ADAMW, FSDP2, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="decay_of_norms",
    title="Norms and biases decay like matrices",
    source="ServiceNow/Fast-LLM #542, transformers PR 35927",
    breaks="updates of norms and biases; gradients are right",
    script=SCRIPT,
    model=ADAMW,
    layout=FSDP2,
    first_seen=(place("layers.0.attention_norm", Kind.UPDATED_PARAM),),
    expected_code="weight_decay",
)


def before_build(args):
    from ttrace.examples.torch_native import optimization

    optimization.decays = lambda name, parameter: True
