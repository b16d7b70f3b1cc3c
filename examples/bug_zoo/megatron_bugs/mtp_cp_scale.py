"""The loss of multi-token prediction is not told of context parallelism.

Its scale is that of the main loss without the number of context-parallel ranks, over
which the gradients are averaged later. Live in megatron-core 0.16.1; the clean twin has
another layout.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import CP2, PP2, PREDICTION
from ttrace.ir.tensor_id import Kind

BUG = Bug(
    name="mtp_cp_scale",
    title="The loss of multi-token prediction lacks the factor of context parallelism",
    source="Megatron-LM #3943",
    breaks="all gradients from the layers of multi-token prediction down",
    model=PREDICTION,
    layout=CP2,
    clean_layout=PP2,
    first_seen=(place("output_layer", Kind.GRAD_OUTPUT, Kind.GRAD_INPUT),),
)
