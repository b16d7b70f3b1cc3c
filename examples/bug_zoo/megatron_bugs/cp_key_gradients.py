"""Gradients of keys and values are not summed over context-parallel ranks.

Every rank attends to the keys of all ranks, so each has a share of every key's
gradient; a rank keeps its own share and drops those of the others.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import CP2, DENSE
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="cp_key_gradients",
    title="CP: gradients of keys and values are not summed over the ranks",
    source="Megatron-LM #1464, TransformerEngine #1557",
    breaks="gradients of the attention's inputs, and everything below",
    model=DENSE,
    layout=CP2,
    first_seen=(
        place("decoder.layers.1.self_attention.core_attention", Kind.GRAD_INPUT),
        place("decoder.layers.1.self_attention.linear_qkv", Kind.GRAD_OUTPUT),
    ),
    paper_row=13,
    expected_code="backward_inside",
)


def before_build(args):
    from ttrace.examples.megatron_gpt import cp_attention

    cp_attention.dist = _WithoutSum(cp_attention.dist)


class _WithoutSum:
    """``torch.distributed`` with a reduce-scatter that only scatters."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)

    @staticmethod
    def reduce_scatter_tensor(output, input, group):
        output.copy_(input.chunk(group.size())[group.rank()])
