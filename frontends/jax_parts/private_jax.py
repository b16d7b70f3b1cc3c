"""Every private API of JAX that ttrace uses, and the versions on which it was tried.

Nothing else imports ``jax._src``. What is public in ``jax.extend`` and
``jax.interpreters`` lies here as well where it belongs to the same subject.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax._src import ad_checkpoint, custom_derivatives, pjit, source_info_util
from jax._src import api_util as _api_util
from jax._src import core as _core
from jax._src import linear_util as _linear_util
from jax._src import shard_map as _shard_map
from jax._src.interpreters import partial_eval as _partial_eval
from jax._src.lax.control_flow import conditionals, loops
from jax._src.named_sharding import UNSPECIFIED as UNSPECIFIED
from jax.extend import core as jex_core
from jax.interpreters import ad, batching, mlir

from ttrace.errors import UsageError

TESTED_VERSIONS = ((0, 9), (0, 10))
"""The oldest and the newest minor release on which every rule was tested."""

jit_p = pjit.jit_p
scan_p = loops.scan_p
while_p = loops.while_p
cond_p = conditionals.cond_p
remat_p = ad_checkpoint.remat_p
shard_map_p = _shard_map.shard_map_p
custom_jvp_call_p = custom_derivatives.custom_jvp_call_p
custom_vjp_call_p = custom_derivatives.custom_vjp_call_p


def require_tested_version(version: str = jax.__version__) -> None:
    """Refuses a version of JAX on which the rules were not tested.

    Raises:
        UsageError: The version is older or newer than what was tested.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    oldest, newest = TESTED_VERSIONS
    if not oldest <= number <= newest:
        first, last = (".".join(map(str, tested)) for tested in TESTED_VERSIONS)
        raise UsageError(
            "this version of JAX was not tested: ttrace rewrites its programs through "
            "private interfaces, which change between releases",
            expected=f"jax {first} to {last}",
            got=f"jax {version}",
            remedy=f"install jax {last} to record, or a newer ttrace",
        )


def define_identity(
    name: str,
    *,
    tangent: Callable[[Any, Any, dict[str, Any]], Any],
    cotangent: Callable[[Any, dict[str, Any]], Any],
    batched: Callable[[Any, int, dict[str, Any]], Any],
) -> jex_core.Primitive:
    """Defines a primitive that hands its only operand on, and lowers to nothing.

    Args:
        name: Its name in a jaxpr.
        tangent: Given the operand, its tangent and the parameters, the tangent of the
            result.
        cotangent: Given the cotangent of the result and the parameters, that of the
            operand.
        batched: Given the operand, the position of its batch dim and the parameters,
            the result with the batch dim in the same place.
    """
    primitive = jex_core.Primitive(name)
    primitive.def_impl(lambda x, **_: x)
    primitive.def_abstract_eval(lambda x, **_: x)
    mlir.register_lowering(primitive, lambda ctx, x, **_: [x])

    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any):
        (x,), (x_dot,) = primals, tangents
        y = primitive.bind(x, **params)
        if type(x_dot) is ad.Zero:
            return y, x_dot
        return y, tangent(x, x_dot, params)

    def transpose(ct: Any, _: Any, **params: Any):
        return [ct if type(ct) is ad.Zero else cotangent(ct, params)]

    def batch(args: Sequence[Any], dims: Sequence[int], **params: Any):
        (x,), (dim,) = args, dims
        return batched(x, dim, params), dim

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    return primitive


def in_context_of(eqn: Any) -> Any:
    """Context in which an equation is to be bound again: its names and settings."""
    names = source_info_util.current_name_stack() + eqn.source_info.name_stack
    return _Both(
        source_info_util.user_context(eqn.source_info.traceback, name_stack=names),
        eqn.ctx.manager,
    )


class _Both:
    """Two context managers; ``contextlib.ExitStack`` is slow for so many equations."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Any, second: Any):
        self._first, self._second = first, second

    def __enter__(self):
        self._first.__enter__()
        self._second.__enter__()

    def __exit__(self, *error: Any):
        try:
            self._second.__exit__(*error)
        finally:
            self._first.__exit__(*error)


def retrace(
    function: Callable[..., Sequence[Any]], avals: Sequence[Any], name: str
) -> jex_core.ClosedJaxpr:
    """The jaxpr of a function of abstract values, in the mesh of the caller.

    Args:
        function: Takes and returns flat values.
        avals: Types of the arguments, with everything that JAX knows of them.
        name: Name of the function in messages of JAX.
    """
    debug_info = _api_util.debug_info(name, function, tuple(avals), {})
    wrapped = _linear_util.wrap_init(function, debug_info=debug_info)
    jaxpr, _, consts = _partial_eval.trace_to_jaxpr_dynamic(wrapped, tuple(avals))
    return jex_core.ClosedJaxpr(jaxpr, consts)


def consts_as_arguments(jaxpr: jex_core.ClosedJaxpr) -> jex_core.Jaxpr:
    """An open jaxpr without constants, which are its first arguments instead."""
    return _partial_eval.convert_constvars_jaxpr(jaxpr.jaxpr)


def with_leading_dim(aval: Any, length: int) -> Any:
    """The type of several values of a type, stacked in front."""
    return _core.unmapped_aval(length, 0, aval)


def zeros(aval: Any) -> Any:
    """Zeros of exactly that type: sharding and varying axes included."""
    return ad.instantiate_zeros(ad.Zero(aval))
