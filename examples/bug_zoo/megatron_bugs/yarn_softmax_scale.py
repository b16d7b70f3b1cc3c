"""MLA scales its softmax by another of YaRN's two factors.

The scores are to be multiplied by what follows from ``mscale_all_dim``; ``mscale`` was
taken, which belongs to the rotary embedding.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import LATENT, TP2_SP, WHOLE_DOWN
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="yarn_softmax_scale",
    title="MLA's softmax scale follows from mscale in place of mscale_all_dim",
    source="Megatron-LM #1429",
    breaks="attention scores, and everything after them",
    model=(*LATENT, *WHOLE_DOWN, *"--rope-type yarn --mscale 0.5".split()),
    layout=TP2_SP,
    first_seen=(
        place(
            "decoder.layers.0.self_attention.core_attention.scale_mask_softmax",
            Kind.INPUT,
        ),
    ),
    expected_code="scaled",
)


def after_build(args, models):
    from megatron.core.models.common.embeddings import _yarn_get_mscale

    for model in models:
        for layer in model.decoder.layers:
            attention = layer.self_attention
            config = attention.config
            factor = _yarn_get_mscale(config.rotary_scaling_factor, config.mscale)
            scale = factor * factor * attention.q_head_dim**-0.5
            attention.core_attention.softmax_scale = scale
