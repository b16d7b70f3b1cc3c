"""Without initialization the norm of the gradients counts the first rank's shards only.

Megatron says where it initializes a weight that it is tensor-parallel. A model that is
built without, to be loaded from a checkpoint, has none of these marks, and its shards
are taken for replicas. Live in megatron-core 0.16.1.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="uninitialized_norm",
    title="Without initialization the gradient norm misses the shards of other ranks",
    source="Megatron-LM PR 4084, NVIDIA-NeMo/Megatron-Bridge PR 992",
    breaks="the norm of the gradients, and so clipping and the update",
    model=DENSE,
    layout=(*TP2, "--no-initialization"),
    clean_layout=TP2,
    first_seen=(place("@root", Kind.GRAD_NORM),),
    expected_code="gradient_norm",
)
