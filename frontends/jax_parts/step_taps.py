"""Everything that names values without an edit of the model, switched on together."""

import contextlib
import importlib
import sys
from collections.abc import Iterator

from ttrace.frontends.jax_parts.grad_taps import grad_taps
from ttrace.frontends.jax_parts.patching import Missed

_MODULE_TAPS = {
    "flax.linen": ("linen_taps", "linen_taps"),
    "flax.nnx": ("nnx_taps", "nnx_taps"),
    "equinox": ("equinox_taps", "equinox_taps"),
}
"""Package -> our module and function; used where the script has imported it."""

_PARTS = "ttrace.frontends.jax_parts"


@contextlib.contextmanager
def step_taps() -> Iterator[list[Missed]]:
    """Taps modules, gradients and optimizers while a step runs.

    Yields:
        A list that fills with what could not be tapped.

    Raises:
        UsageError: The taps are on already.
    """
    with contextlib.ExitStack() as stack:
        missed: list[Missed] = []
        stack.enter_context(grad_taps())
        for package, (module, function) in _MODULE_TAPS.items():
            if package in sys.modules:
                taps = getattr(importlib.import_module(f"{_PARTS}.{module}"), function)
                stack.enter_context(taps())
        if "optax" in sys.modules:
            from ttrace.frontends.jax_parts.optax_taps import optax_taps

            missed = stack.enter_context(optax_taps())
        yield missed
