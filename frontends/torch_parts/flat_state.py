"""The state of LBFGS: vectors over all of its parameters, one behind the other."""

from collections.abc import Mapping

import torch

from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.frontends.torch_parts.local_tensor import NoLayout

_VECTORS = ("d", "prev_flat_grad")
"""The direction of the last update, and the gradient that it was made of. The history
of both is what the direction was computed from, and is not recorded."""

_SCALARS = ("n_iter", "func_evals", "t", "H_diag")
"""``prev_loss`` is left out: under data parallelism that is each rank's own."""

_SHARDED = NoLayout(
    reason="LBFGS keeps one vector for all of its parameters, of which DTensors are "
    "sharded otherwise than each of them; updated_param is compared"
)


class FlatState:
    """Tells what of the vectors belongs to which parameter.

    Args:
        optimizer: Its state is read when asked for.
    """

    def __init__(self, optimizer: torch.optim.LBFGS):
        self._parameters: list[torch.Tensor] = optimizer.param_groups[0]["params"]
        # Looking a parameter up in the optimizer's defaultdict would add it.
        self._state = optimizer.state.get(self._parameters[0], {})

    def of(self, named: NamedParameter) -> Mapping[str, torch.Tensor | NoLayout] | None:
        """A parameter's elements of each vector, in its shape; or why not, by name."""
        vectors = {
            name: vector
            for name in _VECTORS
            if isinstance(vector := self._state.get(name), torch.Tensor)
        }
        offset = 0
        for parameter in self._parameters:
            if parameter is named.parameter and vectors:
                if any(type(vector) is not torch.Tensor for vector in vectors.values()):
                    return dict.fromkeys(vectors, _SHARDED)
                return {
                    name: vector[offset : offset + parameter.numel()].view(
                        parameter.shape
                    )
                    for name, vector in vectors.items()
                }
            offset += parameter.numel()
        return None

    def scalars(self) -> Mapping[str, torch.Tensor | float]:
        """What it has once: counts, the length of the last step, the curvature."""
        return {
            name: value
            for name in _SCALARS
            if isinstance(value := self._state.get(name), (torch.Tensor, float, int))
        }
