"""Attention under context parallelism leaves its sinks out.

The path of context parallelism did not hand the learned offset on to the softmax: the
forward is that of plain attention, and the offset gets no gradient.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import CP2, SINKS
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="sink_dropped",
    title="The learned softmax offset is not used under context parallelism",
    source="TransformerEngine #2541, PR 3551",
    breaks="attention probabilities, and everything after them",
    model=SINKS,
    layout=CP2,
    first_seen=(
        place(
            "decoder.layers.0.self_attention.core_attention.scale_mask_softmax",
            Kind.OUTPUT,
        ),
    ),
    expected_code="no_gradient",
)


def after_build(args, models):
    for model in models:
        for layer in model.decoder.layers:
            softmax = layer.self_attention.core_attention.scale_mask_softmax
            softmax.forward_torch_softmax = _without_offset(
                softmax.forward_torch_softmax
            )


def _without_offset(forward):
    def forward_vanilla(input, mask, softmax_offset=None):
        return forward(input, mask)

    return forward_vanilla
