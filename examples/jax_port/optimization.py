"""AdamW as torch has it, written with optax."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ttrace.examples.jax_port.partition import path_name


def make_optimizer(
    *, lr: float, weight_decay: float, beta2: float, eps: float, clip_grad: float = 0.0
) -> optax.GradientTransformation:
    """AdamW; ``eps`` is added to the root of the second moment, as in torch.

    Args:
        lr: Learning rate.
        weight_decay: Of kernels and embeddings.
        beta2: Decay rate of the second moment; that of the first is 0.9.
        eps: See above.
        clip_grad: Largest norm of all gradients together; 0 for any.
    """
    adamw = optax.adamw(
        lr, b1=0.9, b2=beta2, eps=eps, weight_decay=weight_decay, mask=decay_mask
    )
    if not clip_grad:
        return adamw
    return optax.chain(clip_by_norm(clip_grad), adamw)


def clip_by_norm(largest: float) -> optax.GradientTransformation:
    """Clips as torch and Megatron do, who add 1e-6 to the norm; optax does not."""

    def clip(gradients: Any, _: Any) -> Any:
        factor = largest / (optax.tree.norm(gradients) + 1e-6)
        return jax.tree.map(lambda x: x * jnp.minimum(factor, 1), gradients)

    return optax.stateless(clip)


def decay_mask(parameters: Any) -> Any:
    """Kernels and embeddings decay, norms and biases do not.

    By name: where layers are stacked, a bias has two dims as well.
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        return path_name(path).endswith(("kernel", "embedding"))

    return jax.tree_util.tree_map_with_path(decays, parameters)
