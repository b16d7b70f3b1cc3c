"""A function with a state of its own is rematerialised.

Its second call, in the backward pass, does not compute what the first did: a running
scale that every call updates has moved on.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.jax_options import (
    GPT2,
    LINEN,
    SCRIPT,
    STACKED,
    TORCH_SCRIPT,
)
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="remat_with_state",
    title="A rematerialised function is not deterministic",
    source="jax #21046",
    breaks="recomputed activations of the MLP, and all gradients before them",
    script=SCRIPT,
    reference_script=TORCH_SCRIPT,
    model=(*GPT2, "--num-layers", "1"),
    layout=(*LINEN, *STACKED),
    map_name="gpt2_linen_stacked",
    world_size=1,
    first_seen=(
        place("transformer.h.0.mlp*", Kind.INPUT, Kind.OUTPUT, Kind.GRAD_INPUT),
    ),
    expected_code="recomputation",
)


def before_build(args):
    import itertools

    import jax
    import numpy as np

    from ttrace.examples.jax_port import functional

    gelu, calls = functional.gelu, itertools.count()

    def running_scale(largest):
        return np.float32(1 + next(calls) / 128)

    def scaled(x):
        like = jax.ShapeDtypeStruct((), x.dtype)
        largest = jax.lax.stop_gradient(x).max()
        return gelu(x) * jax.pure_callback(running_scale, like, largest)

    functional.gelu = scaled
