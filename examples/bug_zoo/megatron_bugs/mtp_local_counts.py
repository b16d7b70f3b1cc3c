"""The loss of multi-token prediction is divided by the tokens of each rank.

The last tokens of a sample have nothing to predict, so context-parallel ranks have
unequal numbers of tokens that count; each divides its sum by its own. Live in
megatron-core 0.16.1; the clean twin has another layout.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import CP2, PP2, PREDICTION
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="mtp_local_counts",
    title="The loss of multi-token prediction is divided by each rank's own tokens",
    source="Megatron-LM #7452",
    breaks="all gradients from the layers of multi-token prediction down",
    model=PREDICTION,
    layout=CP2,
    clean_layout=PP2,
    first_seen=(place("output_layer", Kind.GRAD_OUTPUT, Kind.GRAD_INPUT),),
    expected_code="loss_weights",
)
