"""Ring attention: gradients of keys and values do not take the last turn home.

They go round with the keys and values they belong to; after the last chunk they are one
rank away from where these are from.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, RING, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="ring_gradients_stay",
    title="Gradients of keys and values end one rank away from their owner",
    source="Megatron-LM #1464, TransformerEngine #1557 (gradients of K and V under "
    "context parallelism)",
    breaks="gradients of keys and values, and all below; the forward is right",
    script=SCRIPT,
    model=MODEL,
    layout=RING,
    first_seen=(place("blocks.1.attention.core", Kind.GRAD_INPUT),),
    expected_code="rearranged",
)


def before_build(args):
    from ttrace.examples.torch_parallel import ring

    ring.send_home = lambda gradients, place: gradients
