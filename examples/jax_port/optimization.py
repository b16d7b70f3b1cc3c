"""AdamW as torch has it, written with optax."""

from typing import Any

import jax
import optax

from ttrace.examples.jax_port.partition import path_name


def make_optimizer(
    *, lr: float, weight_decay: float, eps: float
) -> optax.GradientTransformation:
    """AdamW; ``eps`` is added to the root of the second moment, as in torch."""
    return optax.adamw(
        lr, b1=0.9, b2=0.95, eps=eps, weight_decay=weight_decay, mask=decay_mask
    )


def decay_mask(parameters: Any) -> Any:
    """Kernels and embeddings decay, norms and biases do not.

    By name: where layers are stacked, a bias has two dims as well.
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        return path_name(path).endswith(("kernel", "embedding"))

    return jax.tree_util.tree_map_with_path(decays, parameters)
