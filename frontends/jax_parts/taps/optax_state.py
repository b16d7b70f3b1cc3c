"""What an optimizer of optax keeps, tapped under the names of parameters.

What ``optax.MultiSteps`` and ``optax.apply_every`` keep beside is no optimizer's; how
far they are counts, and is marked.
"""

from collections.abc import Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ttrace.frontends.jax_parts.taps.mini_steps import (
    APPLY_EVERY,
    mini_step_site,
    not_added_up_site,
)
from ttrace.frontends.jax_parts.taps.module_calls import tap_in_program
from ttrace.frontends.jax_parts.taps.param_taps import param_site
from ttrace.frontends.jax_parts.taps.sites import value_site
from ttrace.frontends.jax_parts.taps.state_names import Name, state_names
from ttrace.frontends.jax_parts.taps.tap import is_tappable
from ttrace.frontends.jax_parts.taps.tree_names import parameter_name, path_segments
from ttrace.ir.kinds import Kind


def accumulates(state: Any) -> bool:
    """Whether there is an ``optax.MultiSteps`` in an optimizer, by its state."""
    return any(map(_is_multi_steps, jax.tree.leaves(state, is_leaf=_is_multi_steps)))


def tap_state(state: Any, params: Any, *, optimizer: int) -> Any:
    """Names all that an optimizer keeps, and how far its mini-steps are.

    Args:
        state: Of the optimizer, after the step.
        params: A tree of all parameters, or of their gradients.
        optimizer: Number of the optimizer among those that the step calls.
    """
    kept = jax.tree.map(
        lambda node: node.inner_opt_state if _is_multi_steps(node) else node,
        state,
        is_leaf=_is_multi_steps,
    )
    names = iter(state_names(_paths(state), params, kept))
    return _StateTaps(names, optimizer).tapped(state, _counts)


def tap_not_added_up(given: Any, added_up: Collection[Name]) -> Any:
    """Marks the parameters that no ``optax.MultiSteps`` has added up a gradient for.

    Args:
        given: Gradients of all parameters, as the optimizer is given them.
        added_up: The parameters for which one has.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(given)[0]:
        name = parameter_name(path_segments(path))
        if is_tappable(leaf) and name not in added_up:
            # Names are cleaned as those of the gradient are.
            site = value_site(name[0], Kind.MAIN_GRAD, name[1])
            marker = not_added_up_site(site.module, site.slot or "")
            tap_in_program(marker, jnp.zeros((), jnp.int32))
    return given


def _paths(state: Any) -> Iterator[tuple[Any, ...]]:
    """The paths of what is named, in order."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(state, is_leaf=_counts)[0]:
        if _is_multi_steps(leaf):
            inner, _ = jax.tree_util.tree_flatten_with_path(
                leaf.inner_opt_state, is_leaf=_is_apply_every
            )
            yield from (
                (*path, *below) for below, kept in inner if not _is_apply_every(kept)
            )
        elif not _is_apply_every(leaf):
            yield path


class _StateTaps:
    def __init__(self, names: Iterator[Name], optimizer: int):
        self._names = names
        self._optimizer = optimizer
        self._num_multi_steps = 0

    def tapped(self, state: Any, is_counting: Any) -> Any:
        leaves, structure = jax.tree.flatten(state, is_leaf=is_counting)
        return jax.tree.unflatten(structure, list(map(self._leaf, leaves)))

    def _leaf(self, leaf: Any) -> Any:
        if _is_apply_every(leaf):
            return leaf._replace(count=tap_in_program(APPLY_EVERY, leaf.count))
        if _is_multi_steps(leaf):
            inner = self.tapped(leaf.inner_opt_state, _is_apply_every)
            site = mini_step_site(self._optimizer, self._num_multi_steps)
            self._num_multi_steps += 1
            count = tap_in_program(site, leaf.mini_step)
            return leaf._replace(inner_opt_state=inner, mini_step=count)
        site = param_site(Kind.OPTIMIZER_STATE, *next(self._names))
        return tap_in_program(site, leaf)


def _counts(node: Any) -> bool:
    return _is_apply_every(node) or _is_multi_steps(node)


def _is_apply_every(node: Any) -> bool:
    return isinstance(node, optax.ApplyEvery)


def _is_multi_steps(node: Any) -> bool:
    return isinstance(node, optax.MultiStepsState)
