"""Padding has the label 0 in place of the one that is ignored."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.recipe_options import FSDP2, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="padding_is_learned",
    title="The loss counts padding tokens",
    source="DeepSpeedExamples PR 819",
    breaks="the loss and all gradients",
    script=SCRIPT,
    model=("--uneven-lengths",),
    layout=FSDP2,
    first_seen=(place("@root", Kind.LOSS),),
)


def before_build(args):
    from ttrace.examples.torch_recipe import loop
    from ttrace.examples.torch_recipe.data import IGNORED

    def token_loss(logits, labels, num_tokens):
        return right(logits, labels.masked_fill(labels == IGNORED, 0), num_tokens)

    right = loop.token_loss
    loop.token_loss = token_loss
