"""What a script says to ``jax_capture.trace`` and no value of the step takes up."""

from collections.abc import Collection, Mapping
from typing import Any

from ttrace.frontends.jax_parts.record.declared import DeclaredDims
from ttrace.ir.tensor_id import TensorId


def idle_options(
    dims: DeclaredDims,
    microbatches: int,
    ids: Collection[TensorId],
    num_calls: Mapping[Any, int],
) -> tuple[str, ...]:
    """Sentences about options that had no effect on a step, to warn with.

    Args:
        dims: Of the script.
        microbatches: Of the script.
        ids: All values of the step, recorded or skipped.
        num_calls: How often each value of a micro-batch was called, by what it is.
    """
    found = [
        f"no value of the first recorded step matches {pattern!r} of "
        f"jax_capture.trace(dims=...); correct it, or leave it out"
        for pattern in dims.unmatched(ids)
    ]
    if num_calls and all(count % microbatches for count in num_calls.values()):
        found.append(
            f"jax_capture.trace(microbatches={microbatches}), but no value of the "
            f"first recorded step was called {microbatches} times, or a multiple of "
            "that; give the number of iterations of the loop that accumulates gradients"
        )
    return tuple(found)
