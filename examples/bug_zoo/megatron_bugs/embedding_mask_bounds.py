"""The first token id of a rank's part of the vocabulary counts as foreign.

The lower bound of the range is compared with the wrong operator, so no rank looks that
token up, and its embedding is zero.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="embedding_mask_bounds",
    title="The embedding's mask compares the range's lower bound wrongly",
    source="awslabs/slapo PR 80",
    breaks="the embedding of one token per rank, and everything after it",
    model=DENSE,
    layout=TP2,
    first_seen=(place("embedding.word_embeddings", Kind.OUTPUT),),
    expected_code="embedding_rows",
)


def before_build(args):
    import torch
    from megatron.core.tensor_parallel import (
        VocabParallelEmbedding,
        reduce_from_tensor_model_parallel_region,
    )

    def forward(self, input_):
        first, end = self.vocab_start_index, self.vocab_end_index
        is_foreign = (input_ <= first) | (input_ >= end)  # should be <
        local_ids = (input_ - first).masked_fill(is_foreign, 0)
        output = torch.nn.functional.embedding(local_ids, self.weight)
        output = output.masked_fill(is_foreign[..., None], 0.0)
        return reduce_from_tensor_model_parallel_region(output, group=self.tp_group)

    VocabParallelEmbedding.forward = forward
