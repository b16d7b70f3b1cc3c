"""Layouts of Megatron's activations, which carry no sharding metadata: rules.

A rule says of the inputs or outputs of a class of modules which dims they have and
which axes cut them. The first rule that fits decides; what none fits is skipped, with
the reason in the report. The table for Megatron's own modules is in
``megatron_parts.rule_table``; a user's rules are asked first.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from ttrace.errors import LayoutError
from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.matching import is_a, matches
from ttrace.frontends.torch_parts.description import NoLayout
from ttrace.ir.dims import Dims, parse_dims
from ttrace.ir.layout import ShardLayout
from ttrace.ir.splits import Modifier, Split
from ttrace.ir.tensor_id import Kind

SEQUENCE_PARALLEL_AXIS = "sp"
"""In the dims of a rule: ``tp`` if sequence parallelism is on, nothing otherwise."""

KEY_VALUE_AXIS = "kv"
"""In the dims of a rule, at heads of keys and values: ``tp``, whose ranks share heads
where there are fewer heads than ranks. Of the gradient of such a head each then has the
part that comes from its own queries."""

VOCABULARY = "v"
"""Name of a dim whose last elements may be padding."""

_AXES = ("pp", "dp", "cp", "tp", SEQUENCE_PARALLEL_AXIS, KEY_VALUE_AXIS)


class Direction(StrEnum):
    """Whether a rule speaks of what a module takes or of what it gives."""

    INPUT = "input"
    OUTPUT = "output"


_DIRECTIONS = {
    Kind.INPUT: Direction.INPUT,
    Kind.GRAD_INPUT: Direction.INPUT,
    Kind.OUTPUT: Direction.OUTPUT,
    Kind.GRAD_OUTPUT: Direction.OUTPUT,
}

_GRADIENTS = (Kind.GRAD_INPUT, Kind.GRAD_OUTPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How inputs or outputs of some modules are laid out.

    For example, for an attention module of one's own that cuts its heads over ``tp``::

        Rule(module="MyAttention", direction=Direction.OUTPUT, slot="0",
             dims="s[cp:zigzag] b heads[tp] d")

    Attributes:
        module: Pattern over the name of the module's class and its bases.
        direction: Inputs or outputs.
        dims: Dims text (see ``ttrace.ir.dims``), on the mesh ``dense``; ``sp`` stands
            for ``tp`` where sequence parallelism is on, ``kv`` for ``tp`` as it cuts
            the heads of keys and values. A dim named ``v`` and cut over
            ``tp`` is the vocabulary, which may be padded. None to skip the tensors.
        slot: Patterns over the slot, separated by ``|``. An argument may be passed by
            position or by name: ``0|hidden_states``.
        path: Patterns over the module's canonical path, separated by ``|``.
        gradient_dims: Dims text of the gradients, where it is another one: a tensor
            that all ranks hold may have a gradient of which each has a share only.
        when: Further condition on the module and the run, or None.
        skipped: Why the tensors are skipped, for the report; instead of dims.
    """

    module: str
    direction: Direction
    dims: str | None = None
    slot: str = "*"
    path: str = "*"
    gradient_dims: str | None = None
    when: Callable[[torch.nn.Module, ShardingContext], bool] | None = None
    skipped: str | None = None

    def __post_init__(self):
        if (self.dims is None) == (self.skipped is None):
            raise LayoutError(
                "a layout rule either gives dims or says why there are none",
                where=f"rule for {self.module}",
                expected="dims or skipped",
                got="neither" if self.dims is None else "both",
                remedy="give one of them",
            )
        for text in filter(None, (self.dims, self.gradient_dims)):
            parsed = parse_dims(text)
            axes = [split.axis for dim in parsed.dims for split in dim.splits]
            for axis in (*axes, *parsed.partial_axes):
                if axis not in _AXES:
                    raise LayoutError(
                        "a layout rule names an axis that Megatron's mesh lacks",
                        where=f"rule for {self.module}: {text}",
                        expected=f"one of {', '.join(_AXES)}",
                        got=axis,
                        remedy="correct the dims of the rule",
                    )

    def fits(
        self,
        path: str,
        module: torch.nn.Module,
        kind: Kind,
        slot: str,
        num_dims: int,
        context: ShardingContext,
    ) -> bool:
        """Whether the rule speaks of this tensor."""
        return (
            _DIRECTIONS.get(kind) is self.direction
            and matches(slot, self.slot)
            and matches(path, self.path)
            and is_a(module, self.module)
            and (self.dims is None or len(self._dims(kind).dims) == num_dims)
            and (self.when is None or self.when(module, context))
        )

    def layout(
        self, kind: Kind, local_shape: tuple[int, ...], context: ShardingContext
    ) -> ShardLayout | NoLayout:
        """The layout of a tensor that the rule fits.

        Raises:
            LayoutError: The tensor has a length that cannot be what the rule says.
        """
        if self.skipped is not None:
            return NoLayout(reason=self.skipped)
        mesh = context.meshes.dense
        dims = _resolve(self._dims(kind), context, is_gradient=kind in _GRADIENTS)
        vocabulary = _padded_vocabulary(dims, context)
        if vocabulary is None:
            return dims.lower_local(local_shape, mesh)
        shape = list(dims.lower_local(local_shape, mesh).global_shape)
        shape[vocabulary] = context.vocab_size
        padded = list(dims.dims)
        (padded[vocabulary],) = parse_dims(context.vocabulary_dim(sharded=True)).dims
        return replace(dims, dims=tuple(padded)).lower(tuple(shape), mesh)

    def _dims(self, kind: Kind) -> Dims:
        of_gradient = self.gradient_dims if kind in _GRADIENTS else None
        text = of_gradient or self.dims
        return parse_dims(text or "")


def activation_layout(
    rules: Iterable[Rule],
    path: str,
    module: torch.nn.Module,
    kind: Kind,
    slot: str,
    local_shape: tuple[int, ...],
    context: ShardingContext,
) -> ShardLayout | NoLayout:
    """Layout of an input or output of a module, or of its gradient.

    Args:
        rules: Asked in this order.
        path: Canonical path of the module.
        module: The module.
        kind: What the tensor is.
        slot: Position or name of the argument or output.
        local_shape: Shape of this rank's array.
        context: The run.
    """
    described = f"{type(module).__name__} {kind} {slot} of shape {list(local_shape)}"
    for rule in rules:
        if rule.fits(path, module, kind, slot, len(local_shape), context):
            try:
                return rule.layout(kind, local_shape, context)
            except LayoutError as error:
                return NoLayout(
                    reason=f"the rule '{rule.dims}' does not fit {described}: "
                    f"{error.what} (expected {error.expected}, got {error.got})"
                )
    return NoLayout(
        reason=f"no layout rule for {described}; add one: "
        f"megatron_adapter.trace(..., rules=[Rule(module={type(module).__name__!r}, "
        f"direction=..., slot={slot!r}, dims=...)])"
    )


def _padded_vocabulary(dims: Dims, context: ShardingContext) -> int | None:
    """Index of the dim that is a vocabulary with padded rows, or None."""
    if context.vocab_size < context.padded_vocab_size:
        for index, dim in enumerate(dims.dims):
            if dim.name == VOCABULARY and dim.splits == (Split(axis="tp"),):
                return index
    return None


def _resolve(dims: Dims, context: ShardingContext, *, is_gradient: bool) -> Dims:
    """Puts axes of the mesh in the place of ``sp`` and ``kv``."""
    num_holders = context.num_kv_holders
    is_shared = num_holders > 1 and any(
        split.axis == KEY_VALUE_AXIS for dim in dims.dims for split in dim.splits
    )

    def resolved(split: Split) -> tuple[Split, ...]:
        if split.axis == SEQUENCE_PARALLEL_AXIS:
            return (replace(split, axis="tp"),) if context.sequence_parallel else ()
        if split.axis != KEY_VALUE_AXIS:
            return (split,)
        if not is_shared:
            return (replace(split, axis="tp"),)
        return (Split(axis="tp", modifier=Modifier.SHARED, numbers=(num_holders,)),)

    partial_axes = [
        "tp" if axis == SEQUENCE_PARALLEL_AXIS else axis
        for axis in dims.partial_axes
        if axis != SEQUENCE_PARALLEL_AXIS or context.sequence_parallel
    ]
    if is_shared and is_gradient:
        partial_axes.append("tp")
    return replace(
        dims,
        dims=tuple(
            replace(
                dim,
                splits=tuple(itertools.chain.from_iterable(map(resolved, dim.splits))),
            )
            for dim in dims.dims
        ),
        partial_axes=tuple(
            axis for axis in partial_axes if context.meshes.dense.sizes[axis] > 1
        ),
    )
