"""Experts are given the token counts of the micro-batch before.

The all-to-all dispatcher keeps the number of tokens per expert in an attribute that is
not written in time: tokens are handed to the experts in other portions than they came.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import EXPERTS, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="stale_token_counts",
    title="The all-to-all dispatcher uses stale token counts",
    source="Megatron-LM commit 54d4b3ddbb",
    breaks="the experts' forward from the second micro-batch on",
    model=EXPERTS,
    layout=TP2_SP,
    first_seen=(
        place("decoder.layers.0.mlp", Kind.OUTPUT),
        place("decoder.layers.0.mlp.experts*", Kind.INPUT, Kind.OUTPUT),
    ),
    expected_code="out_of_turn",
)


def before_build(args):
    from megatron.core.transformer.moe.token_dispatcher import (
        MoEAlltoAllTokenDispatcher,
    )

    postprocess = MoEAlltoAllTokenDispatcher.dispatch_postprocess

    def postprocess_with_stale_counts(self, global_input_tokens, global_probs):
        tokens, counts, probs = postprocess(self, global_input_tokens, global_probs)
        stale = getattr(self, "_counts_before", counts)
        self._counts_before = counts
        return tokens, stale, probs

    MoEAlltoAllTokenDispatcher.dispatch_postprocess = postprocess_with_stale_counts
