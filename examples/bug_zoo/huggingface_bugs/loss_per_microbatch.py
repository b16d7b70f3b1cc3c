"""The model's loss ignores how many tokens the step has.

It is the mean over its own micro-batch, and the Trainer, which believes that the model
has divided by all tokens of the step, adds these means up.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.huggingface_options import DDP, TRAINER, UNEVEN
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="loss_per_microbatch",
    title="A model takes the number of tokens of the step, and ignores it",
    source="transformers #37766",
    breaks="the loss and all gradients, by the tokens of the step over those of each "
    "micro-batch",
    script=TRAINER,
    model=UNEVEN,
    layout=DDP,
    first_seen=(place("@root", Kind.OUTPUT), place("@root", Kind.LOSS)),
    # Lengths are uneven: each micro-batch has a factor of its own.
    expected_code="loss_weights",
)


def after_build(args, models):
    (model,) = models
    right = model.loss_function

    def loss_function(num_items_in_batch=None, **kwargs):
        return right(**kwargs)

    model.loss_function = loss_function
