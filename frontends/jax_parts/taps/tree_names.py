"""Names of parameters from their paths in pytrees: flax linen, NNX and optax alike."""

from collections.abc import Sequence
from typing import Any

from jax.tree_util import keystr

from ttrace.ir.parameter_names import parameter_name as parameter_name


def path_segments(path: Sequence[Any]) -> tuple[str, ...]:
    """The keys of a path of ``jax.tree_util``, as text.

    ``['params']['h_0']['kernel'].value`` gives ``("params", "h_0", "kernel",
    "value")``.
    """
    return tuple(keystr((key,), simple=True) for key in path)
