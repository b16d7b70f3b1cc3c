"""Layers that do not divide evenly over pipeline stages are dropped.

Every stage builds the number of layers over the number of stages, rounded down: 30
layers on 4 stages make a model of 28.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, PP2
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="pipeline_stage_division",
    title="A pipeline with uneven stages builds too few layers",
    source="Megatron-LM #1304",
    breaks="the last layers, which are missing",
    model=(*DENSE, "--num-layers", "3"),
    layout=(*PP2, "--decoder-first-pipeline-num-layers", "1"),
    first_seen=(
        place("decoder.layers.2*", *Kind),
        place("decoder.final_layernorm", Kind.INPUT),
        place("decoder", Kind.OUTPUT),
    ),
    paper_row=10,
    expected_code="missing_layers",
)


def before_build(args):
    from ttrace.examples.megatron_gpt import layers

    # One for both stages: 3 // 2. The second one should build two.
    layers.get_num_layers_to_build = lambda config, vp_stage=None: (
        config.num_layers // config.pipeline_model_parallel_size
    )
