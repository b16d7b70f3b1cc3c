"""The copies of the tied embedding are not synchronized over pipeline stages.

The first stage embeds with it, the last one makes logits of it; each has its share of
the gradient, and the all-reduce that adds them is missing.
"""

import importlib
from typing import Any

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, PP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="tied_embedding_pipeline",
    title="Gradients of the tied embedding are not summed over the pipeline's ends",
    source="Megatron-LM, finalize_model_grads._allreduce_word_embedding_grads",
    breaks="the main gradient of the word embedding; its copies differ",
    model=DENSE,
    layout=PP2,
    first_seen=(place("embedding.word_embeddings", Kind.MAIN_GRAD),),
    diagnosis="replicas_differ",
    expected_code="replicas_differ",
)


def before_build(args):
    # The package has a function of the same name.
    name = "megatron.core.distributed.finalize_model_grads"
    module: Any = importlib.import_module(name)
    module._allreduce_word_embedding_grads = _do_nothing


def _do_nothing(*args, **kwargs):
    pass
