"""The vocabulary-parallel embedding masks by ids that were masked already.

The ids of other ranks are set to 0 before the mask is taken from them, so it no longer
tells which they were.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, TP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="embedding_mask",
    title="The embedding's mask is taken from ids that were masked already",
    source="awslabs/slapo PR 80",
    breaks="the embedding's output, and everything after it",
    model=DENSE,
    layout=TP2,
    first_seen=(place("embedding.word_embeddings", Kind.OUTPUT),),
    paper_row=1,
    expected_code="embedding_rows",
)


def before_build(args):
    import torch
    from megatron.core.tensor_parallel import (
        VocabParallelEmbedding,
        reduce_from_tensor_model_parallel_region,
    )

    def forward(self, input_):
        def is_foreign(ids):
            return (ids < self.vocab_start_index) | (ids >= self.vocab_end_index)

        local_ids = input_ - self.vocab_start_index
        local_ids[is_foreign(input_)] = 0
        output = torch.nn.functional.embedding(local_ids, self.weight)
        output[is_foreign(local_ids), :] = 0.0  # should ask the ids before the masking
        return reduce_from_tensor_model_parallel_region(output, group=self.tp_group)

    VocabParallelEmbedding.forward = forward
