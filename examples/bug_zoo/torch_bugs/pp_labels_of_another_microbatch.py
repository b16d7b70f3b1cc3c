"""The last stage takes the labels of the micro-batch that it was given last."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import MODEL, PP, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="pp_labels_of_another_microbatch",
    title="A pipeline compares the outputs of a micro-batch with another one's labels",
    source="DeepSpeed #5729",
    breaks="the loss and all gradients; the forward is right",
    script=SCRIPT,
    model=MODEL,
    layout=PP,
    first_seen=(place("@root", Kind.LOSS),),
    expected_code="loss_targets",
)


def before_build(args):
    from ttrace.examples.torch_native import pipeline

    def whole_step(batches):
        inputs, labels = right(batches)
        return inputs, labels.roll(args.micro_batch_size, dims=0)

    right = pipeline.whole_step
    pipeline.whole_step = whole_step
