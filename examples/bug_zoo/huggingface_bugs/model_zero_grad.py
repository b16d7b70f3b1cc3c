"""Gradients are cleared by the model, which does not know that they accumulate."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.huggingface_options import ACCELERATE, DDP, MODEL
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="model_zero_grad",
    title="Accumulated gradients are cleared after each micro-batch",
    source="tatsu-lab/alpaca_farm #57, accelerate #2341",
    breaks="the accumulated gradients: only the last micro-batch is left in them",
    script=ACCELERATE,
    model=MODEL,
    layout=DDP,
    first_seen=(place("model.embed_tokens", Kind.MAIN_GRAD),),
    expected_code="one_microbatch",
)


def before_build(args):
    from ttrace.examples.huggingface import accelerate_train

    def clear_gradients(model, optimizer):
        model.zero_grad()

    accelerate_train.clear_gradients = clear_gradients
