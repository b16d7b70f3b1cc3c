"""jax.nn.gelu and torch.nn.GELU have other defaults: one tanh, the other erf."""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import GPT2, LINEN, SCRIPT, TORCH_SCRIPT
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="gelu_exact",
    title="The exact GELU stands in for its approximation by tanh",
    source="google/gemma_pytorch #33, jax #4428",
    breaks="all activations from the first MLP on, by some 1e-4",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=GPT2,
    layout=LINEN,
    map_name="gpt2_linen",
    world_size=1,
    first_seen=(place("transformer.h.0.mlp.c_proj", Kind.INPUT),),
    expected_code="activation_variant",
)


def before_build(args):
    import jax

    from ttrace.examples.jax_port import functional

    functional.gelu = lambda x: jax.nn.gelu(x, approximate=False)
