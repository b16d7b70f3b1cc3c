"""The second all-to-all of Ulysses returns the right numbers in the wrong order.

What comes back is ordered by the rank that had the heads; the reshape takes that for
the outermost part of the sequence. Shapes fit, so nothing complains.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.torch_options import MODEL, SCRIPT, ULYSSES
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="ulysses_output_order",
    title="The all-to-all after the attention mixes heads and tokens up",
    source="DeepSpeed PR 5664, #5808",
    breaks="the input of the attention's output projection, and all that follows",
    script=SCRIPT,
    model=MODEL,
    layout=ULYSSES,
    first_seen=(place("blocks.0.attention.proj", Kind.INPUT),),
    expected_code="rearranged",
)


def before_build(args):
    from ttrace.examples.torch_parallel import ulysses

    def to_sequence(tensor, size):
        b, s, a, d = tensor.shape
        by_target = tensor.reshape(b, size, s // size, a, d).permute(1, 0, 2, 3, 4)
        by_source = ulysses._AllToAll.apply(by_target)
        # Lacks the transposition that brings the source rank next to its heads.
        return by_source.transpose(0, 1).reshape(b, s // size, size * a, d)

    ulysses.to_sequence = to_sequence
