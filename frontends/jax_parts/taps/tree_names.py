"""Names of parameters from their paths in pytrees: flax linen, NNX and optax alike."""

from collections.abc import Sequence
from typing import Any

from ttrace.ir.parameter_names import parameter_name as parameter_name


def path_segments(path: Sequence[Any]) -> tuple[str, ...]:
    """The keys of a path of ``jax.tree_util``, as text.

    ``['params']['h_0']['kernel'].value`` gives ``("params", "h_0", "kernel",
    "value")``.
    """
    segments = []
    for key in path:
        for attribute in ("key", "name", "idx"):  # of dicts, attributes, sequences
            if hasattr(key, attribute):
                segments.append(str(getattr(key, attribute)))
                break
        else:
            segments.append(str(key))
    return tuple(segments)
