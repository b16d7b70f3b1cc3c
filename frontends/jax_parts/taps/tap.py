"""The tap: an identity in the program that names a value, and its cotangent.

It lowers to nothing, so a tapped program computes what it computes without. Only the
harvest (``ttrace.frontends.jax_parts.harvest.plan``) makes it visible.
"""

import dataclasses
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.taps.sites import (
    SpecEntry,
    TapSite,
    next_serial,
    parse_tap_name,
    value_site,
)
from ttrace.ir.kinds import Kind

_SCALAR_KINDS = frozenset({Kind.LOSS, Kind.GRAD_NORM, Kind.LEARNING_RATE})
"""Kinds whose only value of a module needs no slot."""


class Role(StrEnum):
    """What passes through a tap in a jaxpr."""

    VALUE = "value"
    TANGENT = "tangent"
    COTANGENT = "cotangent"


def _tangent(x: Any, x_dot: Any, params: dict[str, Any]) -> Any:
    if params["role"] is Role.VALUE and params["site"].grad is not None:
        return tap_p.bind(x_dot, **{**params, "role": Role.TANGENT})
    return x_dot  # the derivative of a derivative has no name


def _cotangent(ct: Any, params: dict[str, Any]) -> Any:
    if params["role"] is Role.TANGENT:
        return tap_p.bind(ct, **{**params, "role": Role.COTANGENT})
    return ct


def _batched(x: Any, dim: int, params: dict[str, Any]) -> Any:
    site, moved = params["site"], [d + (d >= dim) for d in params["batch_dims"]]
    if site.spec is not None:
        site = dataclasses.replace(site, spec=(None, *site.spec))
    return tap_p.bind(x, **{**params, "site": site, "batch_dims": (dim, *moved)})


tap_p = private_jax.define_identity(
    "ttrace_tap", tangent=_tangent, cotangent=_cotangent, batched=_batched
)
"""Parameters: ``site`` (TapSite), ``role``, ``serial`` (see ``sites.next_serial``) and
``batch_dims``: the dims that ``vmap`` put in, outermost first, as they lie now."""


def tap_value(site: TapSite, x: Any) -> Any:
    """Names one value.

    Args:
        site: What it is.
        x: Any value. One that JAX did not compute (a Python number, a numpy array) or
            that has no bits of its own (a PRNG key) is returned as it is.

    Returns:
        The same value; inside a transformation, to be used in place of ``x``.
    """
    if not is_tappable(x):
        return x
    return tap_p.bind(
        x, site=site, role=Role.VALUE, serial=next_serial(), batch_dims=()
    )


def is_tappable(x: Any) -> bool:
    """Whether a value is an array of the program that can be recorded."""
    return isinstance(x, jax.Array) and not (
        jnp.issubdtype(x.dtype, jax.dtypes.extended) or x.dtype == jax.dtypes.float0
    )


def tap(
    name: str,
    x: Any,
    *,
    kind: Kind | str | None = None,
    spec: PartitionSpec | Iterable[SpecEntry] | None = None,
) -> Any:
    """Names a value of a JAX program, and thereby its gradient.

    Use what it returns in place of the value. It is an identity that compiles to
    nothing, and works under every transformation: ``h = ttrace.tap("blocks.3", h)``.

    Args:
        name: Module path, such as ``blocks.3.mlp``, or module path, kind and slot:
            ``blocks.3.mlp/output/0``.
        x: An array or a pytree of arrays; their paths become slots, as in the outputs
            of a torch module: ``0`` for an array alone, ``1.mask`` in a tuple. Python
            numbers and numpy arrays in it are left alone.
        kind: What the value is, where the name does not say; ``output`` by default.
        spec: Inside ``jax.shard_map``, how the local value tiles the logical one;
            a ``PartitionSpec``, or what one is made of.

    Returns:
        ``x``, with the same structure.

    Raises:
        TensorIdError: The name cannot be that of a tensor.
    """
    module, named_kind, slot = parse_tap_name(
        name, None if kind is None else Kind(kind)
    )
    entries = None if spec is None else tuple(_entry(part) for part in spec)

    def named(path: tuple[Any, ...], leaf: Any) -> Any:
        inner = jax.tree_util.keystr(path, simple=True, separator=".")
        if not inner and slot is None:
            full = None if named_kind in _SCALAR_KINDS else "0"
        else:
            full = ".".join(part for part in (slot, inner) if part)
        return tap_value(value_site(module, named_kind, full, spec=entries), leaf)

    return jax.tree_util.tree_map_with_path(named, x)


def _entry(part: Any) -> SpecEntry:
    return part if part is None or isinstance(part, str) else tuple(part)
