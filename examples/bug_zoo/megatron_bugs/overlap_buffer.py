"""Split products of a gradient share one buffer while they are being sent.

With communication overlap a column-parallel linear sends each part of its input's
gradient while it computes the next. All parts were written to the same place, so what
arrives is not what was computed for the receiver.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="overlap_buffer",
    title="TP communication overlap gives wrong input gradients",
    source="TransformerEngine #1616, PR 1554",
    breaks="gradients of everything below the last layer's MLP",
    model=DENSE,
    layout=TP2_SP,
    common_patch="ttrace.examples.bug_zoo.overlapped_linears",
    first_seen=(
        place("decoder.layers.1.mlp", Kind.GRAD_INPUT),
        place("decoder.layers.1.mlp.linear_fc1", Kind.GRAD_INPUT),
        place("decoder.layers.1.pre_mlp_layernorm", Kind.GRAD_OUTPUT),
    ),
    paper_row=11,
    expected_code="backward_inside",
)


def after_build(args, models):
    for model in models:
        for module in model.modules():
            if hasattr(getattr(module, "_forward_impl", None), "make_buffers"):
                module._forward_impl.make_buffers = _one_buffer


def _one_buffer(num, like):
    return [like.new_empty(like.shape)] * num
