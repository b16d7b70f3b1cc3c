"""Everything that names values without an edit of the model, switched on together."""

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator

from ttrace.frontends.jax_parts.taps.call_marks import marking_calls
from ttrace.frontends.jax_parts.taps.grad_taps import grad_taps
from ttrace.frontends.jax_parts.taps.patching import Missed
from ttrace.frontends.jax_parts.taps.scopes import tapping_scopes
from ttrace.frontends.jax_parts.taps.stated import Stated

_MODULE_TAPS = {
    "flax.linen": ("linen_taps", "linen_taps"),
    "flax.nnx": ("nnx_taps", "nnx_taps"),
    "equinox": ("equinox_taps", "equinox_taps"),
}
"""Package -> our module and function; used where the script has imported it."""

_OTHER_TAPS = {
    "jmp": ("compute_dtypes", "jmp_taps"),
    "optax": ("optax_taps", "optax_taps"),
}

_PARTS = "ttrace.frontends.jax_parts.taps"


@contextlib.contextmanager
def step_taps(
    missed: list[Missed],
    stated: Stated | None = None,
    *,
    scopes: bool | None = None,
    marks: Callable[[str], bool] | None = None,
) -> Iterator[None]:
    """Taps modules or scopes, gradients and optimizers while a step runs.

    Args:
        missed: In the end gets what could not be tapped, each only once. A jitted step
            comes here without being traced in all steps but the first, so what it says
            holds for the whole run.
        stated: Is told settings that modules and optimizers show; None for nobody.
        scopes: Whether what leaves a ``jax.named_scope`` is tapped; None for where the
            script has imported no package of modules. Linen has scopes of its own.
        marks: Whether the equations of a module are wanted, by its path: then those of
            all modules are marked. None where nobody wants any.

    Raises:
        UsageError: The taps are on already.
    """
    loaded = [taps for package, taps in _MODULE_TAPS.items() if package in sys.modules]
    if scopes is None:
        scopes = not loaded
    loaded += [taps for package, taps in _OTHER_TAPS.items() if package in sys.modules]
    stated = stated or Stated()
    with contextlib.ExitStack() as stack:
        of_scopes: list[Missed] = []
        change = None
        if scopes or marks is not None:
            change = functools.partial(
                tapping_scopes, missed=of_scopes, scopes=scopes, marks=marks
            )
        stack.enter_context(marking_calls(marks is not None))
        found = [of_scopes, stack.enter_context(grad_taps(change))]
        for module, function in loaded:
            taps = getattr(importlib.import_module(f"{_PARTS}.{module}"), function)
            found.append(stack.enter_context(taps(stated)))
        yield
    for entries in found:
        missed += [entry for entry in entries if entry not in missed]
