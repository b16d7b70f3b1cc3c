"""Where a program has its parameters from, and which results are made of them.

Also which of its arguments a scan goes through, and which are random keys. Reads jaxprs
and changes nothing. A result that is made of a parameter only by what is differentiated
(its gradient, the loss) is told from one that is made of it outside of that as well, as
an updated parameter is. A differentiated function may hand a parameter on (NNX does so
with the whole model): that is the parameter itself.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
from jax.extend import core as jex_core
from jax.sharding import Mesh

from ttrace.frontends.jax_parts import private_jax
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.frontends.jax_parts.taps.tap import Role, tap_p
from ttrace.ir.kinds import Kind

_IDENTITIES = frozenset(
    {"copy", "device_put", "optimization_barrier", "reshard", "sharding_constraint"}
)
"""Primitives whose results are their operands: placed elsewhere, perhaps."""

_VIEWS = frozenset(
    {"broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "transpose"}
)
"""Primitives that give an array another form, or dtype, before it is computed with."""

_PRODUCTS = frozenset({"conv_general_dilated", "dot_general", "ragged_dot_general"})

Name = tuple[str, str | None]
"""Module and slot of a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """How the devices of a mesh divide an argument: as ``jax.pmap`` does.

    Attributes:
        mesh: The mesh.
        axis: The mesh axis that one dim of the argument counts.
        dim: That dim; each device has one index of it, and not the dim.
    """

    mesh: Mesh
    axis: str
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramParams:
    """What one program says of the parameters that are tapped in it.

    Attributes:
        arguments: For every parameter, which flat argument of the program it is; None
            where it is none, or not always the same one.
        has_optimizer: A main gradient is tapped in the program.
        is_differentiated: The program differentiates, or computes a part of that.
        direct: For every result, the arguments that it is, or is made of outside of
            what is differentiated.
        read: Differentiated parameters in the order in which the program first computes
            with each: casts and the like are no computation.
        product_dtypes: Of matrix products and convolutions that are differentiated, how
            many are of operands of each floating dtype.
        forward: Results that the differentiated function itself computes, as what it
            returns beside the loss: no gradient had a part in them.
        scanned: Arguments whose elements a ``scan`` takes one by one, first to last,
            and in which shape: as they are given, or reshaped.
        keys: Arguments that are random keys, as ``jax.random.PRNGKey`` makes them.
        mapped: Arguments of which each device is given one index of a dim, as those of
            ``jax.pmap`` are; ``scanned`` is then the shape of what one device has.
        handed_on: For results that are arguments as they were given, which ones.
        computed_with: Arguments that what is differentiated computes with.
    """

    arguments: Mapping[Name, int | None]
    has_optimizer: bool
    is_differentiated: bool
    direct: tuple[frozenset[int], ...]
    scanned: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    keys: frozenset[int] = frozenset()
    forward: frozenset[int] = frozenset()
    read: tuple[Name, ...] = ()
    product_dtypes: Mapping[str, int] = field(default_factory=dict)
    mapped: Mapping[int, Mapped] = field(default_factory=dict)
    handed_on: Mapping[int, int] = field(default_factory=dict)
    computed_with: frozenset[int] = frozenset()


def program_params(
    primitive: jex_core.Primitive,
    params: Mapping[str, Any],
    *,
    num_args: int,
    num_results: int,
) -> ProgramParams:
    """Follows the arguments of a call through its program.

    Args:
        primitive: What is called: a tap, or what holds a program.
        params: Its parameters, with the program.
        num_args: Number of its flat arguments.
        num_results: Number of its flat results.
    """
    walk = _Walk()
    ins = [_Flow(same=index, elements=index) for index in range(num_args)]
    outs = walk.call(primitive, params, ins, num_results)
    return ProgramParams(
        arguments={name: _only(found) for name, found in walk.arguments.items()},
        has_optimizer=walk.has_optimizer,
        is_differentiated=walk.is_differentiated,
        direct=tuple(
            frozenset(i for i in range(num_args) if out.all >> i & 1) for out in outs
        ),
        read=tuple(walk.read),
        product_dtypes=collections.Counter(
            dtype
            for jaxpr in private_jax.jaxprs_in_params(params)
            for dtype in _product_dtypes(jaxpr)
        ),
        forward=frozenset(i for i, out in enumerate(outs) if out.is_forward),
        scanned=walk.scanned,
        keys=frozenset(walk.keys),
        mapped=walk.mapped,
        handed_on={i: out.same for i, out in enumerate(outs) if out.same is not None},
        computed_with=frozenset(walk.computed_with),
    )


def _only(found: set[int | None]) -> int | None:
    """A copy of other precision is no argument, but may be tapped beside it."""
    known = found - {None}
    return known.pop() if len(known) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    """What is known of a value.

    Attributes:
        same: The argument that it is; None where it is none.
        made_of: Bit i is set where it is made of argument i outside of what is
            differentiated.
        elements: The argument whose elements it has, in their order: the same one, or
            reshaped; None where there is none.
        first: The argument that it is in the first iteration of a loop that carries it;
            None where there is none.
        is_differentiated: What is differentiated has computed it, or a part of it.
        is_backward: A gradient has a part in it.
        param: The differentiated parameter that it is, or is a view or a cast of.
    """

    same: int | None = None
    made_of: int = 0
    elements: int | None = None
    first: int | None = None
    is_differentiated: bool = False
    is_backward: bool = False
    param: Name | None = None

    @property
    def all(self) -> int:
        """Bits of what it is, or is made of."""
        return self.made_of if self.same is None else self.made_of | 1 << self.same

    @property
    def is_forward(self) -> bool:
        """Whether what is differentiated has computed it, and no gradient."""
        return self.is_differentiated and not self.is_backward


_NOTHING = _Flow()


def _joined(flows: Iterable[_Flow]) -> _Flow:
    """What is made of several values."""
    made_of, is_differentiated, is_backward = 0, False, False
    for flow in flows:
        made_of |= flow.all
        is_differentiated |= flow.is_differentiated
        is_backward |= flow.is_backward
    return _Flow(
        made_of=made_of, is_differentiated=is_differentiated, is_backward=is_backward
    )


@dataclass(slots=True, eq=False)
class _Walk:
    arguments: dict[Name, set[int | None]] = field(default_factory=dict)
    has_optimizer: bool = False
    is_differentiated: bool = False
    scanned: dict[int, tuple[int, ...]] = field(default_factory=dict)
    keys: set[int] = field(default_factory=set)
    mapped: dict[int, Mapped] = field(default_factory=dict)
    read: dict[Name, None] = field(default_factory=dict)
    computed_with: set[int] = field(default_factory=set)

    def through(self, jaxpr: Any, ins: Sequence[_Flow]) -> list[_Flow]:
        """The results of a jaxpr, open or closed, given its arguments."""
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        flows: dict[Any, _Flow] = dict(zip(jaxpr.invars, ins, strict=True))

        def read(atom: Any) -> _Flow:
            if isinstance(atom, jex_core.Literal):
                return _NOTHING
            return flows.get(atom, _NOTHING)  # a constant, where it is not there

        for eqn in jaxpr.eqns:
            operands = list(map(read, eqn.invars))
            outs = self.call(eqn.primitive, eqn.params, operands, len(eqn.outvars))
            outs = self._note_read(eqn, operands, outs)
            if private_jax.is_differentiated(eqn):
                self.computed_with |= {
                    argument
                    for operand in operands
                    for argument in (operand.same, operand.first)
                    if argument is not None
                }
                is_backward = private_jax.is_transposed(eqn)
                outs = [
                    replace(
                        out,
                        made_of=0,
                        is_differentiated=True,
                        is_backward=out.is_backward or is_backward,
                    )
                    for out in outs
                ]
            flows.update(zip(eqn.outvars, outs, strict=True))
        return list(map(read, jaxpr.outvars))

    def call(
        self,
        primitive: Any,
        params: Mapping[str, Any],
        ins: Sequence[_Flow],
        num_results: int,
    ) -> list[_Flow]:
        """The results of one equation."""
        if primitive is tap_p:
            return [self._tap(params, ins[0])]
        if primitive.name in _IDENTITIES and len(ins) == num_results:
            return list(ins)
        if primitive.name == "reshape" and params.get("dimensions") is None:
            return [replace(_joined(ins), elements=ins[0].elements)]
        if primitive.name == "squeeze" and ins[0].elements in self.mapped:
            return [replace(_joined(ins), elements=ins[0].elements)]
        if primitive.name == "random_wrap" and ins[0].same is not None:
            self.keys.add(ins[0].same)
        if primitive is private_jax.shard_map_p:
            return self._shard_map(params, ins)
        if primitive is private_jax.cond_p:
            return self._cond(params, ins)
        if primitive is private_jax.while_p:
            return self._while(params, ins)
        if primitive is private_jax.scan_p:
            consts, carry = params["num_consts"], params["num_carry"]
            if not params["reverse"]:
                self._note_scanned(params, ins, consts + carry)
            return self._loop(
                params["jaxpr"], ins, consts, carry, runs=params["length"] > 0
            )
        inner = list(private_jax.jaxprs_in_params(params))
        if len(inner) == 1 and _fits(inner[0], len(ins), num_results):
            return self.through(inner[0], ins)
        everything = _joined(ins)
        for jaxpr in inner:  # for the taps in it
            self.through(jaxpr, [everything] * len(jaxpr.invars))
        return [everything] * num_results

    def _note_read(
        self, eqn: Any, operands: Sequence[_Flow], outs: list[_Flow]
    ) -> list[_Flow]:
        """Follows views of parameters to what computes with them; the first one counts.

        What holds a program notes it there.
        """
        name = eqn.primitive.name
        if name in _VIEWS:
            return [replace(out, param=operands[0].param) for out in outs]
        is_call = any(True for _ in private_jax.jaxprs_in_params(eqn.params))
        if eqn.primitive is not tap_p and name not in _IDENTITIES and not is_call:
            self.read |= {op.param: None for op in operands if op.param is not None}
        return outs

    def _tap(self, params: Mapping[str, Any], x: _Flow) -> _Flow:
        site: TapSite = params["site"]
        role, dims = params["role"], params["batch_dims"]
        if role is Role.COTANGENT:
            self.is_differentiated |= site.grad is Kind.PARAM_GRAD
        if role is not Role.VALUE:
            return x
        self.has_optimizer |= site.kind is Kind.MAIN_GRAD
        if site.kind is not Kind.PARAM:
            return x
        is_as_it_is = tuple(dims) == tuple(range(len(dims)))
        found = self.arguments.setdefault((site.module, site.slot), set())
        found.add(x.same if is_as_it_is else None)
        if site.grad is None:
            return x
        self.is_differentiated = True
        return replace(x, made_of=0, param=(site.module, site.slot))

    def _shard_map(self, params: Mapping[str, Any], ins: Sequence[_Flow]) -> Any:
        """Notes arguments that lose the dim which the devices divide, at once."""
        body, mesh = params["jaxpr"], params["mesh"]
        squeezed = {
            eqn.invars[0]: eqn.params["dimensions"]
            for eqn in body.eqns
            if eqn.primitive.name == "squeeze"
        }
        inside = list(ins)
        for number, (variable, spec) in enumerate(
            zip(body.invars, params["in_specs"], strict=True)
        ):
            index, dims = ins[number].elements, squeezed.get(variable)
            mapped = _mapped(mesh, spec, dims)
            if index is not None and ins[number].same == index and mapped is not None:
                self.mapped[index] = mapped
            elif index is not None:
                # What a device has of it does not say how the whole is taken apart.
                inside[number] = replace(ins[number], elements=None)
        return self.through(body, inside)

    def _cond(self, params: Mapping[str, Any], ins: Sequence[_Flow]) -> list[_Flow]:
        index, *operands = ins
        branches = [self.through(branch, operands) for branch in params["branches"]]
        return [_joined([index, *outs]) for outs in zip(*branches, strict=True)]

    def _while(self, params: Mapping[str, Any], ins: Sequence[_Flow]) -> list[_Flow]:
        of_condition, of_body = params["cond_nconsts"], params["body_nconsts"]
        rest = ins[of_condition:]
        num_carried = len(rest) - of_body
        outs = self._loop(params["body_jaxpr"], rest, of_body, num_carried, runs=False)
        self.through(params["cond_jaxpr"], [*ins[:of_condition], *outs])
        return outs

    def _note_scanned(
        self, params: Mapping[str, Any], ins: Sequence[_Flow], num_before: int
    ) -> None:
        elements = params["jaxpr"].in_avals[num_before:]
        for flow, aval in zip(ins[num_before:], elements, strict=True):
            if flow.elements is not None:
                shape = (params["length"], *aval.shape)
                self.scanned.setdefault(flow.elements, shape)

    def _loop(
        self,
        body: Any,
        ins: Sequence[_Flow],
        num_consts: int,
        num_carried: int,
        *,
        runs: bool,
    ) -> list[_Flow]:
        """Of consts, carry and elements to carry and results; until nothing changes.

        What a loop that runs carries out of it is what its last iteration has made.
        """
        consts = list(ins[:num_consts])
        end = num_consts + num_carried
        firsts = [
            flow.first if flow.same is None else flow.same
            for flow in ins[num_consts:end]
        ]
        carry = [_joined([flow]) for flow in ins[num_consts:end]]
        # Of stacked layers an iteration reads its own.
        elements = [replace(_joined([flow]), param=flow.param) for flow in ins[end:]]
        while True:
            carried = [
                replace(flow, first=first)
                for flow, first in zip(carry, firsts, strict=True)
            ]
            outs = self.through(body, [*consts, *carried, *elements])
            after = [
                _joined(flows) for flows in zip(carry, outs[:num_carried], strict=True)
            ]
            if after == carry:
                made = map(_of_element, outs[:num_carried]) if runs else carry
                return [*made, *map(_of_element, outs[num_carried:])]
            carry = after


def _product_dtypes(jaxpr: Any, is_inside: bool = False) -> Iterator[str]:
    """Dtypes of the operands of products in what is differentiated, one for each."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        is_within = is_inside or private_jax.is_differentiated(eqn)
        if eqn.primitive.name in _PRODUCTS:
            dtype = eqn.invars[0].aval.dtype
            if is_within and jnp.issubdtype(dtype, jnp.floating):
                yield jnp.dtype(dtype).name
            continue
        for inner in private_jax.jaxprs_in_params(eqn.params):
            yield from _product_dtypes(inner, is_within)


def _of_element(flow: _Flow) -> _Flow:
    """What is stacked is no argument, but is made of the same ones."""
    return _joined([flow])


def _fits(jaxpr: Any, num_args: int, num_results: int) -> bool:
    return len(jaxpr.invars) == num_args and len(jaxpr.outvars) == num_results


def _mapped(mesh: Any, spec: Any, squeezed: Sequence[int] | None) -> Mapped | None:
    """How devices divide an argument of a body that takes such dims out of it."""
    if squeezed is None or len(squeezed) != 1 or not isinstance(mesh, Mesh):
        return None
    (dim,) = squeezed
    entries = list(private_jax.spec_entries(spec))
    named = [number for number, entry in enumerate(entries) if entry is not None]
    axis = entries[dim] if named == [dim] else None
    if isinstance(axis, tuple) and len(axis) == 1:
        (axis,) = axis
    return Mapped(mesh=mesh, axis=axis, dim=dim) if isinstance(axis, str) else None
