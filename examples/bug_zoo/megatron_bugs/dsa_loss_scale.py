"""The indexer's loss of sparse attention is not averaged over micro-batches.

The schedules tell the losses of routers and of multi-token prediction by what the main
loss is divided; the indexer's was forgotten, so its weight depends on how many
micro-batches a rank has. megatron-core 0.16.1 leaves it to the training script.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import PP2, SPARSE
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="dsa_loss_scale",
    title="The loss of the sparse attention's indexer is not divided by micro-batches",
    source="Megatron-LM PR 4070",
    breaks="all gradients of the indexers",
    model=SPARSE,
    layout=PP2,
    first_seen=(
        place(
            "decoder.layers.1.self_attention.core_attention.indexer.*",
            Kind.GRAD_OUTPUT,
            Kind.GRAD_INPUT,
            Kind.PARAM_GRAD,
        ),
    ),
    expected_code="scaled",
)


def before_build(args):
    import torch
    from megatron.core.transformer.experimental_attention_variant.dsa import (
        DSAIndexerLossAutoScaler,
    )

    set_loss_scale = DSAIndexerLossAutoScaler.set_loss_scale

    def set_undivided(scale):
        set_loss_scale(torch.ones_like(scale))

    DSAIndexerLossAutoScaler.set_loss_scale = staticmethod(set_undivided)
