"""The Trainer counts the tokens of the first micro-batch only, not of the step."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.huggingface_options import DDP, TRAINER, UNEVEN
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="tokens_of_one_microbatch",
    title="The loss is divided by the tokens of one micro-batch, not of the step",
    source="transformers PR 35438",
    breaks="the loss and all gradients, by another factor in each step",
    script=TRAINER,
    model=UNEVEN,
    layout=DDP,
    first_seen=(place("@root", Kind.INPUT),),
    diagnosis="normalization",
    expected_code="normalization",
)


def before_build(args):
    from ttrace.examples.huggingface.trainer_train import InOrderTrainer

    right = InOrderTrainer._get_num_items_in_batch

    def _get_num_items_in_batch(self, batch_samples, device):
        return right(self, batch_samples[:1], device)

    InOrderTrainer._get_num_items_in_batch = _get_num_items_in_batch
