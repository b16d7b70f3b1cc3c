"""The default epsilon of flax is 1e-6, that of torch and of the model 1e-5."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, NNX, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="layer_norm_epsilon",
    title="The port leaves the norms at the framework's own epsilon",
    source="torchtune #290, candle PR 271, CTranslate2 PR 951",
    breaks="all activations from the first norm on, by some 1e-4",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=NNX,
    map_name="gpt2_nnx",
    world_size=1,
    first_seen=(place("transformer.h.0.ln_1", Kind.OUTPUT),),
    expected_code="norm_epsilon",
)


def before_build(args):
    from flax import nnx

    from ttrace.examples.jax_port import nnx_gpt2

    nnx_gpt2.layer_norm = lambda config, rngs: nnx.LayerNorm(
        config.hidden_size, use_fast_variance=False, rngs=rngs
    )
