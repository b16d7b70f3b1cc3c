"""Padding has the label 0 in place of the one that is ignored."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import FSDP2, MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="padding_is_learned",
    title="The loss counts padding tokens",
    source="DeepSpeedExamples PR 819",
    breaks="the loss and all gradients",
    script=SCRIPT,
    model=(*MODEL, "--uneven-lengths"),
    layout=FSDP2,
    first_seen=(place("@root", Kind.LOSS),),
    expected_code="loss_targets",
)


def before_build(args):
    from ttrace.examples.torch_native import tasks

    def token_loss(logits, labels):
        return right(logits, labels.masked_fill(labels == tasks.IGNORED, 0))

    right = tasks.token_loss
    tasks.token_loss = token_loss
