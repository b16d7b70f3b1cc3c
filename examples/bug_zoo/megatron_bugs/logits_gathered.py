"""The cross entropy of a sharded vocabulary is given gathered logits.

It takes the whole vocabulary for one rank's shard, so every token is counted once per
rank in the denominator, and most ranks miss the target.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="logits_gathered",
    title="Gathered logits go into the vocabulary-parallel cross entropy",
    source="Megatron-LM #7452",
    breaks="the loss, which log(TP) is added to, and all gradients",
    model=DENSE,
    layout=TP2,
    first_seen=(place("@root", Kind.OUTPUT, Kind.LOSS),),
    expected_code="rearranged",
)


def after_build(args, models):
    for model in models:
        model.output_layer.gather_output = True
