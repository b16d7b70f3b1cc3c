"""The evaluation leaves the model in its mode: from then on there is no dropout."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import MODEL, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="left_in_eval_mode",
    title="After an evaluation the model trains without dropout",
    source="ermongroup/ncsn #2, Megatron-LM PR 411",
    breaks="the output of the first dropout of the second step, and all that follows",
    script=SCRIPT,
    model=(*MODEL, "--dropout", "0.1", "--evaluate"),
    layout=(),
    first_seen=(place("layers.0.dropout", Kind.OUTPUT),),
    world_size=1,
    num_steps=2,
    expected_code="dropout",
)


def before_build(args):
    from ttrace.examples.torch_native import loop

    def evaluate(model, *args):
        train, model.train = model.train, lambda mode=True: train(False)
        right(model, *args)
        model.train = train

    right = loop.evaluate
    loop.evaluate = evaluate
