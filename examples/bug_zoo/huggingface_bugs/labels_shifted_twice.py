"""The model shifts the labels, and the loss function it calls shifts them again."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.huggingface_options import DDP, MODEL, TRAINER
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="labels_shifted_twice",
    title="The model learns to predict the token after the next one",
    source="transformers #47394, PR 37830",
    breaks="the loss and all gradients; the logits are right",
    script=TRAINER,
    model=MODEL,
    layout=DDP,
    first_seen=(place("@root", Kind.OUTPUT), place("@root", Kind.LOSS)),
    expected_code="loss_targets",
)


def after_build(args, models):
    from torch.nn import functional as F

    (model,) = models
    right = model.loss_function

    def loss_function(logits, labels, **kwargs):
        shifted = F.pad(labels, (0, 1), value=-100)[:, 1:]
        return right(logits=logits, labels=shifted, **kwargs)

    model.loss_function = loss_function
