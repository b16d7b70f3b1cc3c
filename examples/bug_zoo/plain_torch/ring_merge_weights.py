"""Ring attention merges chunks by log-sum-exps of keys that were shifted.

The kernel takes the mean over the chunk from the keys, which changes no softmax, but
returns the log-sum-exp of the shifted scores. Each chunk has another mean, so the
weights in the merge are wrong.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, RING, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="ring_merge_weights",
    title="Outputs of the chunks are merged by log-sum-exps of shifted scores",
    source="ROCm aiter PR 3334",
    breaks="the attention's output on all ranks but the first, and all that follows",
    script=SCRIPT,
    model=MODEL,
    layout=RING,
    first_seen=(place("blocks.0.attention.core", Kind.OUTPUT),),
    expected_code="confined_error",
)


def before_build(args):
    from ttrace.examples.torch_parallel import ring

    def attend(query, key, value, mask):
        return attended(query, key - key.mean(dim=1, keepdim=True), value, mask)

    attended = ring.attend
    ring.attend = attend
