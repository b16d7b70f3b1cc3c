"""Under the distributed optimizer the embedding and the LM head are updated apart.

The optimizer takes the gradients as they are reduced over data-parallel ranks; the sum
over the pipeline's ends, which keeps both copies equal, goes somewhere else.
"""

import importlib
from typing import Any

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, PP2, ZERO
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="zero_embedding_untied",
    title="ZeRO: embedding and LM head come untied",
    source="Megatron-LM #656",
    breaks="the main gradient of the word embedding; its copies drift apart",
    model=DENSE,
    layout=(*PP2, *ZERO),
    world_size=4,
    first_seen=(place("embedding.word_embeddings", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    paper_row=5,
    expected_code="replicas_differ",
)


def before_build(args):
    # The package has a function of the same name.
    name = "megatron.core.distributed.finalize_model_grads"
    module: Any = importlib.import_module(name)
    module._get_main_grad_attr = _attribute_that_nobody_reads


def _attribute_that_nobody_reads(parameter):
    # Should be main_grad: the sum is written to a copy.
    parameter.grad = parameter.main_grad.clone()
    return "grad"
