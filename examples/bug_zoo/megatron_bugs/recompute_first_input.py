"""Every recomputed chunk of layers is given the input of the first one.

The loop over chunks passes on the hidden states that it was called with, instead of
what the chunk before returned.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, FULL_RECOMPUTE, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="recompute_first_input",
    title="Recomputation gives every chunk of layers the first hidden states",
    source="Megatron-LM PR 290",
    breaks="the input of the second chunk of layers, and everything after it",
    model=(*DENSE, *FULL_RECOMPUTE),
    layout=TP2,
    first_seen=(place("decoder.layers.1*", Kind.INPUT),),
    paper_row=2,
    expected_code="wiring",
)


def after_build(args, models):
    for model in models:
        model.decoder._checkpointed_forward = _forward_of(model.decoder)


def _forward_of(block):
    from megatron.core import tensor_parallel

    def forward_of(layer, attention_mask, rotary_pos_emb):
        def forward(hidden_states):
            return layer(
                hidden_states=hidden_states,
                attention_mask=attention_mask,
                rotary_pos_emb=rotary_pos_emb,
            )[0]

        return forward

    def forward(hidden_states, attention_mask, rotary_pos_emb, **ignored):
        output = hidden_states
        for layer in block.layers:
            forward = forward_of(layer, attention_mask, rotary_pos_emb)
            # Should be given the output of the layer before.
            output = tensor_parallel.checkpoint(forward, False, hidden_states)
        return output

    return forward
