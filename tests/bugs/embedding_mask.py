"""The vocabulary-parallel embedding masks by ids that were masked already.

The ids of other ranks are set to 0 before the mask is taken from them, so it no longer
tells which they were (the class of slapo pull request 80).
"""

import torch
from megatron.core.tensor_parallel import (
    VocabParallelEmbedding,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)


def before_build(args):
    VocabParallelEmbedding.forward = _forward


def _forward(self, input_):
    def is_foreign(ids):
        return (ids < self.vocab_start_index) | (ids >= self.vocab_end_index)

    local_ids = input_ - self.vocab_start_index
    local_ids[is_foreign(input_)] = 0
    output = torch.nn.functional.embedding(local_ids, self.weight)
    output[is_foreign(local_ids), :] = 0.0  # should ask the ids before the masking
    if self.reduce_scatter_embeddings:
        return reduce_scatter_to_sequence_parallel_region(
            output.transpose(0, 1).contiguous(), group=self.tp_group
        )
    return reduce_from_tensor_model_parallel_region(output, group=self.tp_group)
