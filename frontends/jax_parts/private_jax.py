"""Every private API of JAX that ttrace uses, and the versions on which it was tried.

Nothing else imports ``jax._src``. What is public in ``jax.extend`` and
``jax.interpreters`` lies here as well where it belongs to the same subject.
"""

import contextlib
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax._src import (
    ad_checkpoint,
    custom_derivatives,
    debugging,
    pjit,
    source_info_util,
)
from jax._src import api as _api
from jax._src import api_util as _api_util
from jax._src import core as _core
from jax._src import linear_util as _linear_util
from jax._src import shard_map as _shard_map
from jax._src.interpreters import partial_eval as _partial_eval
from jax._src.lax.control_flow import conditionals, loops
from jax._src.named_sharding import UNSPECIFIED as UNSPECIFIED
from jax.extend import core as jex_core
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

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
closed_call_p = _core.closed_call_p
jaxprs_in_params = _core.jaxprs_in_params


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


def scopes_of(eqn: Any) -> tuple[str, ...]:
    """The names of ``jax.named_scope`` around an equation, in its jaxpr."""
    stack = eqn.source_info.name_stack.stack
    return tuple(
        entry.name for entry in stack if isinstance(entry, source_info_util.Scope)
    )


def lines_of(eqn: Any) -> tuple[tuple[str, int], ...]:
    """File and line of everything that ran when an equation was made, innermost first.

    Of the equations of a derivative these are the lines of what it is taken of.
    """
    traceback = eqn.source_info.traceback
    if traceback is None:
        return ()
    return tuple((frame.file_name, frame.line_num) for frame in traceback.frames)


def in_scope(eqn: Any, name: str) -> Any:
    """An equation in one more named scope, innermost."""
    info = eqn.source_info
    return eqn.replace(
        source_info=info.replace(name_stack=info.name_stack.extend(name))
    )


def eqn_behind(
    eqn: Any, primitive: Any, source: Any, target: Any, params: dict[str, Any]
) -> Any:
    """An equation of one variable, in the place of another one: names and settings."""
    return _core.new_jaxpr_eqn(
        [source],
        [target],
        primitive,
        params,
        _core.no_effects,
        eqn.source_info,
        eqn.ctx,
    )


def in_context_of(eqn: Any) -> Any:
    """Context in which an equation is to be bound again: its names and settings."""
    names = source_info_util.current_name_stack() + eqn.source_info.name_stack
    return _Both(
        source_info_util.user_context(eqn.source_info.traceback, name_stack=names),
        eqn.ctx.manager,
    )


def is_backward(eqn: Any) -> bool:
    """Whether an equation runs in backward: a transposition traced it."""
    return any(
        isinstance(part, source_info_util.Transform) and part.name == "transpose"
        for part in eqn.source_info.name_stack.stack
    )


def is_differentiated(eqn: Any) -> bool:
    """Whether an equation belongs to a forward or backward of differentiation.

    What is in a jaxpr of such an equation does, too, and need not say so itself.
    """
    return any(
        isinstance(part, source_info_util.Transform)
        and part.name in ("jvp", "transpose")
        for part in eqn.source_info.name_stack.stack
    )


def is_transposed(eqn: Any) -> bool:
    """Whether an equation belongs to the backward of differentiation.

    As in ``is_differentiated``, what is in a jaxpr of it need not say so itself.
    """
    return any(
        isinstance(part, source_info_util.Transform) and part.name == "transpose"
        for part in eqn.source_info.name_stack.stack
    )


def spec_entries(spec: PartitionSpec) -> tuple[Any, ...]:
    """The mesh axes that shard each dim, those that sums run over left out.

    A spec of JAX 0.9 is a tuple of them; one of JAX 0.10 refuses to be if it has sums.
    """
    return tuple(getattr(spec, "partitions", spec))


def device_arrays(array: Any) -> Sequence[jax.Array]:
    """What each device of this process holds of a ``jax.Array``: arrays of one device.

    Also of one that is still to be summed. JAX refuses its ``addressable_shards``, and
    JAX 0.9 takes it for a replicated one and gives the first device's data for each.
    """
    return array._arrays


def has_named_arguments(jaxpr: jex_core.Jaxpr) -> bool:
    """Whether a jaxpr was traced from a function that somebody wrote.

    What JAX makes of it for a derivative has other arguments, without names.
    """
    return jaxpr.debug_info.arg_names is not None


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


def jit_params_with(
    params: Mapping[str, Any],
    jaxpr: jex_core.ClosedJaxpr,
    *,
    num_more_ins: int,
    num_more_outs: int,
) -> dict[str, Any]:
    """The parameters of a ``jit`` equation, for another jaxpr with more behind.

    Args:
        params: Of the original.
        jaxpr: Takes and returns what the original does, and then more.
        num_more_ins: Number of its additional arguments.
        num_more_outs: Number of its additional results; their sharding is free.
    """
    new = {**params, "jaxpr": jaxpr}
    for names, number in (("in", num_more_ins), ("out", num_more_outs)):
        new[f"{names}_shardings"] += (UNSPECIFIED,) * number
        new[f"{names}_layouts"] += (None,) * number
    new["donated_invars"] += (False,) * num_more_ins
    return new


def consts_as_arguments(jaxpr: jex_core.ClosedJaxpr) -> jex_core.Jaxpr:
    """An open jaxpr without constants, which are its first arguments instead."""
    return _partial_eval.convert_constvars_jaxpr(jaxpr.jaxpr)


def with_leading_dim(aval: Any, length: int) -> Any:
    """The type of several values of a type, stacked in front."""
    return _core.unmapped_aval(length, 0, aval)


def zeros(aval: Any) -> Any:
    """Zeros of exactly that type: sharding and varying axes included."""
    return ad.instantiate_zeros(ad.Zero(aval))


@contextlib.contextmanager
def differentiating(
    around: Callable[[Callable[..., Any], bool], Callable[..., Any]],
) -> Iterator[None]:
    """Changes every function that reverse mode is about to differentiate.

    ``jax.grad``, ``jax.value_and_grad`` and ``jax.vjp`` meet here, also where a script
    has made its gradient function before.

    Args:
        around: Given a function of the differentiated arguments, and whether it returns
            a pair with something beside, the function to differentiate.
    """
    is_wrapped = hasattr(_api, "_vjp")  # until 0.9 it takes what linear_util wraps
    name = "_vjp" if is_wrapped else "vjp"
    original = getattr(_api, name)

    def vjp(function: Any, *primals: Any, has_aux: bool = False, **others: Any) -> Any:
        if is_wrapped:
            changed = around(function.call_wrapped, has_aux)
            changed = _linear_util.wrap_init(changed, debug_info=function.debug_info)
        else:
            changed = around(function, has_aux)
        return original(changed, *primals, has_aux=has_aux, **others)

    owners = [owner for owner in (_api, jax) if vars(owner).get(name) is original]
    for owner in owners:
        setattr(owner, name, vjp)
    try:
        yield
    finally:
        for owner in owners:
            setattr(owner, name, original)


def varying_axes(aval: Any) -> tuple[str, ...]:
    """Mesh axes over which a value inside ``shard_map`` differs, as its type says.

    Empty outside, and where ``check_vma`` is off: there, nothing is known.
    """
    manual = aval.mat if hasattr(aval, "mat") else aval
    axes = manual.varying if hasattr(manual, "varying") else manual.vma
    return tuple(axis for axis in aval.sharding.mesh.axis_names if axis in axes)


def is_unreduced(aval: Any) -> bool:
    """Whether a type says that a value still has to be summed over devices."""
    kinds = [aval.sharding.spec, getattr(aval, "mat", None)]
    return any(kind is not None and (kind.unreduced or kind.reduced) for kind in kinds)


def varying_over(x: Any, axes: Sequence[str]) -> Any:
    """The value, typed to differ over these mesh axes at least."""
    known = varying_axes(jax.typeof(x))
    missing = tuple(axis for axis in axes if axis not in known)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def manual_axes(eqn: Any) -> tuple[str, ...]:
    """The mesh axes that a ``shard_map`` equation makes manual, in mesh order."""
    params = eqn.params
    axes = params.get("newly_manual_axes", params.get("manual_axes"))
    return tuple(axis for axis in params["mesh"].axis_names if axis in axes)


NO_EXCESS_PRECISION = {"xla_allow_excess_precision": False}
"""Compiler options with which XLA rounds wherever the program says so."""

_OPTIONS = "compiler_options_kvs"

Handler = Callable[[jex_core.Primitive, Sequence[Any], dict[str, Any]], Any]
"""Given a primitive, its concrete arguments and its parameters: its results, or
``NotImplemented`` to have JAX evaluate it."""


def compiler_options(params: Mapping[str, Any]) -> dict[str, Any]:
    """The compiler options of a call of a jitted function; none of any other call."""
    return dict(params.get(_OPTIONS, ()))


def with_compiler_options(
    params: dict[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameters of a call with other compiler options, if it can have any."""
    if _OPTIONS not in params:
        return params
    return {**params, _OPTIONS: tuple(options.items())}


def compiled_with(
    program: jex_core.ClosedJaxpr, options: Mapping[str, Any]
) -> jex_core.ClosedJaxpr:
    """A program that runs its calls of jitted functions with these options."""
    eqns = [
        eqn.replace(params=with_compiler_options(eqn.params, options))
        for eqn in program.jaxpr.eqns
    ]
    return program.replace(jaxpr=program.jaxpr.replace(eqns=eqns))


def without_donation(program: jex_core.ClosedJaxpr) -> jex_core.ClosedJaxpr:
    """A program whose calls of jitted functions leave their arguments alive."""
    eqns = []
    for eqn in program.jaxpr.eqns:
        donated = eqn.params.get("donated_invars", ())
        if any(donated):
            kept = (False,) * len(donated)
            eqn = eqn.replace(params={**eqn.params, "donated_invars": kept})
        eqns.append(eqn)
    return program.replace(jaxpr=program.jaxpr.replace(eqns=eqns))


def has_effects(program: jex_core.ClosedJaxpr) -> bool:
    """Whether a program does something outside of itself, but print."""
    harmless = (
        debugging.DebugEffect,
        debugging.OrderedDebugEffect,
        _core.NamedAxisEffect,
    )
    return not all(isinstance(effect, harmless) for effect in program.effects)


_interception: Any = jax.make_user_context(None)
"""Part of the key of every cache of JAX. Without it, a jitted function that ran outside
would be found traced without taps, or run at once without asking the interceptor."""


@contextlib.contextmanager
def intercepting(
    handler: Handler,
    *,
    key: Hashable,
    added_options: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Shows a handler every primitive that is about to be evaluated, before JAX does.

    What is inside of a jitted function is not evaluated one by one: the handler is
    shown the call of the function, in every way that leads there, and decides.

    Args:
        handler: Not called for what it does itself.
        key: What JAX has traced and compiled is found again under the same key only.
        added_options: Compiler options that jitted functions get beside their own, but
            for those that the handler runs.

    Raises:
        UsageError: A transformation of JAX is on: values are not concrete.
    """
    with _core.take_current_trace() as trace:
        if not isinstance(trace, _core.EvalTrace):
            raise UsageError(
                "a traced step was called inside a function that JAX is transforming",
                expected="a call from plain Python, with concrete arrays",
                got=f"a call under {type(trace).__name__}",
                remedy="give jax_capture.trace the outermost step, with its jit and "
                "grad inside",
            )
        interceptor = _Interceptor(trace, handler, added_options or {})
        with _interception(key), _core.set_current_trace(interceptor):
            yield


class _Interceptor(_core.EvalTrace):
    """Evaluates as JAX does outside of any transformation."""

    def __init__(
        self,
        evaluation: _core.EvalTrace,
        handler: Handler,
        added_options: Mapping[str, Any],
    ):
        super().__init__()
        # NNX lets variables be changed at the level of their making only, and tells
        # levels apart by this. Values here are concrete, as they are out there.
        self._weakref = evaluation._weakref
        self._handler = handler
        self._added_options = added_options

    def process_primitive(self, primitive: Any, args: Any, params: Any, /) -> Any:
        result = self._handler(primitive, args, params)
        if result is not NotImplemented:
            return result
        if self._added_options:
            options = {**compiler_options(params), **self._added_options}
            params = with_compiler_options(params, options)
        return super().process_primitive(primitive, args, params)

    def process_custom_jvp_call(
        self, primitive: Any, fun: Any, jvp: Any, tracers: Any, /, **_: Any
    ) -> Any:
        with _core.set_current_trace(self):
            return fun.call_wrapped(*tracers)

    def process_custom_vjp_call(
        self, primitive: Any, fun: Any, fwd: Any, bwd: Any, tracers: Any, /, **_: Any
    ) -> Any:
        with _core.set_current_trace(self):
            return fun.call_wrapped(*tracers)
