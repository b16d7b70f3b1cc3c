"""Trees of parameters, and of tensors that belong to them one by one, tapped."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ttrace.frontends.jax_parts.taps.module_calls import tap_in_program
from ttrace.frontends.jax_parts.taps.sites import TapSite, value_site
from ttrace.frontends.jax_parts.taps.tree_names import parameter_name, path_segments
from ttrace.ir.kinds import Kind


def tap_params(
    kind: Kind,
    tree: Any,
    *,
    own_path: Callable[[Sequence[Any]], Sequence[Any]] = tuple,
    with_gradient: bool = False,
) -> Any:
    """Names every leaf of a tree by its path.

    Args:
        kind: What the leaves are.
        tree: Parameters, gradients of them, or the like. What is no array in it, such
            as the place of a masked parameter, is left alone.
        own_path: Given the path of a leaf, that of the parameter in its model.
        with_gradient: The cotangents of the leaves are gradients of a backward.

    Returns:
        The tree to use in place of the one given.
    """

    def tap(path: Sequence[Any], leaf: Any) -> Any:
        site = param_site(kind, *parameter_name(path_segments(own_path(path))))
        if not with_gradient:
            site = dataclasses.replace(site, grad=None)
        return tap_in_program(site, leaf)

    return jax.tree_util.tree_map_with_path(tap, tree)


def param_site(kind: Kind, module: str, slot: str) -> TapSite:
    """The site of a tensor that belongs to a parameter; it gets no noise."""
    return value_site(module, kind, slot, noise=False)
