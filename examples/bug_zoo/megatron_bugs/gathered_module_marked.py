"""Parameters of a module that gathers the sequence are marked as sequence-parallel.

Every tensor-parallel rank then has the whole gradient, and Megatron sums it over the
ranks. Reported of a module of a fork; the indexer of sparse attention is another one
that gathers the sequence first.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import SPARSE, TP2_SP
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="gathered_module_marked",
    title="A module that gathers the sequence is marked as sequence-parallel",
    source="flagos-ai/Megatron-LM-FL PR 75",
    breaks="main gradients of the module, which are TP times too large",
    model=SPARSE,
    layout=TP2_SP,
    first_seen=(
        place(
            "decoder.layers.*.self_attention.core_attention.indexer.*", Kind.MAIN_GRAD
        ),
    ),
    expected_code="scaled",
)


def after_build(args, models):
    for model in models:
        for name, parameter in model.named_parameters():
            if ".indexer." in name:
                parameter.sequence_parallel = True
