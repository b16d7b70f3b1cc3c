"""Ring attention takes every chunk's causal diagonal at the wrong place.

The mask compares places within the chunk, not within the sequence, so a query does not
see all the keys of earlier ranks.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, RING, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="ring_causal_offset",
    title="The causal mask of a chunk ignores where the chunk begins",
    source="tt-metal PR 48935 (each device's causal diagonal starts at a wrong block)",
    breaks="the attention's output on all ranks but the first, and all that follows",
    script=SCRIPT,
    model=MODEL,
    layout=RING,
    first_seen=(place("blocks.0.attention.core", Kind.OUTPUT),),
    expected_code="confined_error",
)


def before_build(args):
    from ttrace.examples.torch_parallel import ring

    hidden = ring.hidden_keys
    ring.hidden_keys = lambda query, rank, source: hidden(query, 0, 0)
