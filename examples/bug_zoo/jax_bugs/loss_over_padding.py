"""The summed loss is divided by the size of the batch, padding included."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, LINEN, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="loss_over_padding",
    title="The loss is a mean over padding too",
    source="EleutherAI/gpt-neo PR 45",
    breaks="loss and all gradients, by the share of padding",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=LINEN,
    map_name="gpt2_linen",
    world_size=1,
    first_seen=(place("@root", Kind.LOSS),),
    diagnosis="scaled",
    expected_code="scaled",
)


def before_build(args):
    from ttrace.examples.jax_port import functional

    functional.count_tokens = lambda labels: labels.size
