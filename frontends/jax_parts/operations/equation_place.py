"""Where in the user's program an equation was asked for."""

import sys
from typing import NamedTuple

from ttrace.frontends.jax_parts import private_jax
from ttrace.recording.source_lines import is_of_library, is_of_script, short_line

_LIBRARIES = frozenset(
    {
        "chex",
        "distrax",
        "equinox",
        "flax",
        "haiku",
        "jax",
        "jaxlib",
        "jaxtyping",
        "jmp",
        "optax",
        "ttrace",
    }
)
"""Packages whose lines are none of the script's."""

_PLUMBING = (
    "chex",
    "equinox._jit",
    "equinox._module",
    "flax.core",
    "flax.linen.module",
    "flax.linen.transforms",
    "flax.linen.summary",
    "flax.nnx.graph",
    "flax.nnx.graphlib",
    "flax.nnx.module",
    "flax.nnx.object",
    "flax.nnx.pytreelib",
    "flax.nnx.transforms",
    "flax.nnx.variablelib",
    "flax.typing",
    "jaxlib",
    "jaxtyping",
    "ttrace",
)
"""Modules that stand between a library and an equation, and say nothing of why."""

_JAX_LAYERS = ("jax._src.nn", "jax._src.image", "jax._src.scipy", "jax._src.random")
"""What of JAX itself is a library of what others are made of."""


class EquationPlace(NamedTuple):
    """As in ``ttrace.ir.operation.OperationPart``."""

    source: str
    library: str


class EquationPlaces:
    """Finds the places of equations; modules are looked up once."""

    def __init__(self):
        self._modules: dict[str, str] = {}
        self._num_known = 0

    def place(self, eqn: object) -> EquationPlace:
        """The innermost line of the script, and that of the innermost library."""
        library = ""
        for file, line in private_jax.lines_of(eqn):
            module = self._module(file)
            if is_of_script(module, file, _LIBRARIES):
                return EquationPlace(short_line(module, file, line), library)
            if not library and _tells(module):
                library = short_line(module, file, line)
        return EquationPlace("", library)

    def _module(self, file: str) -> str:
        """Name of the module that a file was loaded as; empty for none."""
        if file not in self._modules and self._num_known != len(sys.modules):
            self._num_known = len(sys.modules)
            for name, module in list(sys.modules.items()):
                known = getattr(module, "__file__", None)
                if isinstance(known, str):
                    self._modules.setdefault(known, name)
        return self._modules.get(file, "")


def _tells(module: str) -> bool:
    if module.partition(".")[0] == "jax":
        return module.startswith(_JAX_LAYERS)
    return is_of_library(module, _LIBRARIES, _PLUMBING)
