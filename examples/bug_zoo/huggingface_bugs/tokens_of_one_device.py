"""The Trainer counts the tokens of one device, and DDP then averages: mean of means."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.huggingface_options import DDP, TRAINER, UNEVEN
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="tokens_of_one_device",
    title="The loss is divided by the tokens of one device, not of all",
    source="transformers #34242",
    breaks="the loss and all gradients, where devices have different numbers of tokens",
    script=TRAINER,
    model=UNEVEN,
    layout=DDP,
    first_seen=(place("@root", Kind.INPUT),),
    diagnosis="normalization",
    expected_code="normalization",
)


def before_build(args):
    from ttrace.examples.huggingface import trainer_train

    def training_arguments(args, out, world_size):
        arguments = right(args, out, world_size)
        arguments.average_tokens_across_devices = False
        return arguments

    right = trainer_train.training_arguments
    trainer_train.training_arguments = training_arguments
