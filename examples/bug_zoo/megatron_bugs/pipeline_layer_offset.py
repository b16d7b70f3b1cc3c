"""Layers of an uneven pipeline are numbered as if the stages were even.

The number of a layer is that of its stage times the layers per stage; with a longer
first stage two layers have the same number, and the last number is not given.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, PP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="pipeline_layer_offset",
    title="Layers of an uneven pipeline get wrong numbers",
    source="Megatron-LM commit b759cd37e6",
    breaks="the identity of the layers after the first stage",
    model=(*DENSE, "--num-layers", "3"),
    layout=(*PP2, "--decoder-first-pipeline-num-layers", "2"),
    first_seen=(
        place("decoder.layers.1*", *Kind),
        place("decoder.layers.2*", *Kind),
        place("decoder.final_layernorm", Kind.INPUT),
    ),
    expected_code="repeated_layer",
)


def before_build(args):
    from megatron.core import parallel_state
    from megatron.core.transformer import transformer_block, transformer_layer

    def offset(config, vp_stage=None, pp_rank=None):
        rank = parallel_state.get_pipeline_model_parallel_rank()
        return rank * (config.num_layers // config.pipeline_model_parallel_size)

    transformer_block.get_transformer_layer_offset = offset
    transformer_layer.get_transformer_layer_offset = offset
