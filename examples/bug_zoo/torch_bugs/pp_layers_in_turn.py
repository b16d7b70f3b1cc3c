"""Layers are dealt out to the stages in turn, as for virtual stages, but run as one."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.native_options import MODEL, PP, SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="pp_layers_in_turn",
    title="A pipeline runs the layers in another order",
    source="ColossalAI #796, mlx-lm #1688 (which layers a stage has)",
    breaks="the inputs of all layers that run out of order, and all that follows",
    script=SCRIPT,
    model=(*MODEL, "--num-layers", "4"),
    layout=PP,
    first_seen=(
        place("layers.1", Kind.INPUT),
        place("layers.2", Kind.INPUT),
    ),
    expected_code="wiring",
)


def before_build(args):
    from ttrace.examples.torch_native import pipeline

    def layers_of(stage, num_stages, num_layers):
        return range(stage, num_layers, num_stages)

    pipeline.layers_of = layers_of
