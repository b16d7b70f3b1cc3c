"""Layouts of what carries no sharding metadata: activations, some parameters. Rules.

A rule says of the inputs, outputs or parameters of a class of modules which dims they
have and which axes shard them. The first rule that fits decides; what none fits is
skipped, with the reason in the report and the line that would describe it. The table
for Megatron's own modules is in ``megatron_parts.rule_table``; a user's rules are asked
first.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import torch

from ttrace.errors import LayoutError
from ttrace.frontends.megatron_parts.context import ShardingContext
from ttrace.frontends.megatron_parts.matching import is_a, matches
from ttrace.frontends.torch_parts.description import NoLayout
from ttrace.ir.dims import Dims
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.kinds import Kind
from ttrace.ir.layout import ShardLayout, whole
from ttrace.ir.splits import Modifier, Split

SEQUENCE_PARALLEL_AXIS = "sp"
"""In the dims of a rule: ``tp`` if sequence parallelism is on, nothing otherwise."""

KEY_VALUE_AXIS = "kv"
"""In the dims of a rule, at heads of keys and values: ``tp``, whose ranks share heads
where there are fewer heads than ranks. Of the gradient of such a head each then has the
part that comes from its own queries."""

VOCABULARY = "v"
"""Name of a dim whose last elements may be padding."""

SEQUENCE, HIDDEN = "s", "h"
"""Names of dims whose length is known from the run: Megatron's own rules are checked
against it."""

_AXES = ("pp", "dp", "cp", "tp", SEQUENCE_PARALLEL_AXIS, KEY_VALUE_AXIS)


class Direction(StrEnum):
    """Whether a rule speaks of what a module takes, of what it returns or of what it
    holds."""

    INPUT = "input"
    OUTPUT = "output"
    PARAMETER = "parameter"


_DIRECTIONS = {
    Kind.INPUT: Direction.INPUT,
    Kind.GRAD_INPUT: Direction.INPUT,
    Kind.OUTPUT: Direction.OUTPUT,
    Kind.GRAD_OUTPUT: Direction.OUTPUT,
}
"""All other kinds are of parameters."""

_GRADIENTS = (Kind.GRAD_INPUT, Kind.GRAD_OUTPUT, Kind.PARAM_GRAD)
"""Before any reduction over ranks."""

DimsOf = Callable[[torch.nn.Module, tuple[int, ...], ShardingContext], str]
"""Dims text of a tensor: from the module, the local shape and the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How inputs, outputs or parameters of some modules are laid out.

    For example, for an attention module of one's own that shards its heads over ``tp``,
    and for a norm in it that every rank has, of its own heads::

        Rule(module="MyAttention", direction=Direction.OUTPUT, slot="0",
             dims="s[cp:zigzag] b heads[tp] d")
        Rule(module="MyNorm", parent="MyAttention", direction=Direction.PARAMETER,
             dims="d", gradient_dims="d partial[cp,tp]")

    Attributes:
        module: Patterns over the name of the module's class and its bases, separated by
            ``|``.
        direction: Inputs, outputs or parameters.
        dims: Dims text (see ``ttrace.ir.dims``), on the mesh ``dense``; ``sp`` stands
            for ``tp`` where sequence parallelism is on, ``kv`` for ``tp`` as it shards
            the heads of keys and values. A dim named ``v`` and sharded over
            ``tp`` is the vocabulary, which may be padded. None to skip the tensors.
        slot: Patterns over the slot, separated by ``|``. An argument may be passed by
            position or by name: ``0|hidden_states``. Of a parameter: its name.
        path: Patterns over the module's canonical path, separated by ``|``.
        parent: Patterns over the class of the module that it is a part of.
        gradient_dims: Dims text of the gradients of one micro-batch, where it is
            another one: a tensor that all ranks hold may have a gradient of which each
            has a partial only. Of a parameter without: ``dims``, partial over ``cp``.
        when: Further condition on the module and the run, or None.
        skipped: Why the tensors are skipped, for the report; instead of dims.
        dims_of: Computes the dims from the module, the local shape and the run;
            instead of dims.
    """

    module: str
    direction: Direction
    dims: str | None = None
    slot: str = "*"
    path: str = "*"
    parent: str = "*"
    gradient_dims: str | None = None
    when: Callable[[torch.nn.Module, ShardingContext], bool] | None = None
    skipped: str | None = None
    dims_of: DimsOf | None = None

    def __post_init__(self):
        given = {
            name: getattr(self, name)
            for name in ("dims", "skipped", "dims_of")
            if getattr(self, name) is not None
        }
        if len(given) != 1:
            raise LayoutError(
                "a layout rule either gives dims or says why there are none",
                where=f"rule for {self.module}",
                expected="dims or skipped",
                got=" and ".join(given) or "neither",
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

    def fits(self, subject: "Subject", context: ShardingContext) -> bool:
        """Whether the rule speaks of this tensor."""
        return (
            subject.direction is self.direction
            and matches(subject.slot, self.slot)
            and matches(subject.path, self.path)
            and is_a(subject.module, self.module)
            and (self.parent == "*" or is_a(subject.parent, self.parent))
            and (self.dims is None or len(self._dims(subject, context)) == subject.ndim)
            and (self.when is None or self.when(subject.module, context))
        )

    def layout(
        self,
        subject: "Subject",
        context: ShardingContext,
        lengths: Mapping[str, int] | None = None,
    ) -> ShardLayout | NoLayout:
        """The layout of a tensor that the rule fits.

        Args:
            subject: The tensor.
            context: The run.
            lengths: Of the whole dims of these names, where they are known.

        Raises:
            LayoutError: The tensor has a length that cannot be what the rule says.
        """
        if self.skipped is not None:
            return NoLayout(reason=self.skipped)
        mesh = context.meshes.dense
        dims = _resolve(
            Dims(
                dims=self._dims(subject, context),
                partial_axes=self._partial_axes(subject, context),
            ),
            context,
            is_gradient=subject.is_gradient,
        )
        layout = dims.lower_local(subject.local_shape, mesh)
        _require_lengths(dims, layout.global_shape, lengths or {})
        vocabulary = _padded_vocabulary(dims, context)
        if vocabulary is None:
            return layout
        shape = list(layout.global_shape)
        shape[vocabulary] = context.vocab_size
        padded = list(dims.dims)
        padded[vocabulary] = context.vocabulary_dim
        return replace(dims, dims=tuple(padded)).lower(tuple(shape), mesh)

    def text(self, subject: "Subject", context: ShardingContext) -> str:
        """The dims text that it gives a tensor, before axes are resolved."""
        if self.dims_of is not None:
            return self.dims_of(subject.owner, subject.local_shape, context)
        return (subject.is_gradient and self.gradient_dims) or self.dims or ""

    def _dims(self, subject: "Subject", context: ShardingContext):
        return parse_dims(self.text(subject, context)).dims

    def _partial_axes(
        self, subject: "Subject", context: ShardingContext
    ) -> tuple[str, ...]:
        if subject.is_gradient and self.gradient_dims is not None:
            return parse_dims(self.gradient_dims).partial_axes
        if subject.kind is Kind.PARAM_GRAD:
            return ("cp",)  # each of its ranks has seen a part of the sequence
        return parse_dims(self.text(subject, context)).partial_axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A tensor that rules are asked about.

    Attributes:
        path: Canonical path of its module.
        module: The module.
        parent: The module that this one is a part of, or None.
        kind: What the tensor is.
        slot: Position or name of the argument or output, or name of the parameter.
        local_shape: Shape of this rank's array.
    """

    path: str
    module: torch.nn.Module
    parent: torch.nn.Module | None = None
    kind: Kind
    slot: str
    local_shape: tuple[int, ...]

    @property
    def direction(self) -> Direction:
        """What the tensor is of its module."""
        return _DIRECTIONS.get(self.kind, Direction.PARAMETER)

    @property
    def is_gradient(self) -> bool:
        """It is a gradient that was not reduced over ranks yet."""
        return self.kind in _GRADIENTS

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.local_shape)

    @property
    def owner(self) -> torch.nn.Module:
        """The module that knows the sizes: that of which this one is a part."""
        return self.module if self.parent is None else self.parent

    @property
    def described(self) -> str:
        """The tensor, in words."""
        what = (
            f"parameter {self.slot}"
            if self.direction is Direction.PARAMETER
            else f"{self.kind} {self.slot}"
        )
        inside = "" if self.parent is None else f" in {type(self.parent).__name__}"
        return (
            f"{what} of {type(self.module).__name__}{inside}, "
            f"of shape {list(self.local_shape)}"
        )

    @property
    def line_to_add(self) -> str:
        """The rule that a user would write, with the dims to fill in."""
        names = " ".join(f"d{number}" for number in range(self.ndim))
        inside = (
            "" if self.parent is None else f"parent={type(self.parent).__name__!r}, "
        )
        return (
            "megatron_adapter.trace(..., rules=[Rule("
            f"module={type(self.module).__name__!r}, {inside}"
            f"direction=Direction.{self.direction.name}, slot={self.slot!r}, "
            f"dims={names!r})]), with the axes that shard each dim, such as d0[tp] "
            "(Rule and Direction: ttrace.frontends.megatron_rules)"
        )


def activation_layout(
    rules: Iterable[Rule],
    subject: Subject,
    context: ShardingContext,
    lengths: Mapping[str, int] | None = None,
) -> ShardLayout | NoLayout:
    """Layout of an input or output of a module, or of its gradient.

    Args:
        rules: Asked in this order.
        subject: The tensor.
        context: The run.
        lengths: Of the whole dims of these names, where they are known: a layout that
            contradicts them does not fit.
    """
    layout = rule_layout(rules, subject, context, lengths)
    if layout is not None:
        return layout
    if context.holds_everything:
        return whole(subject.local_shape, context.meshes.dense.name)
    return NoLayout(
        reason=f"no layout rule for {subject.described}; add one: {subject.line_to_add}"
    )


def rule_layout(
    rules: Iterable[Rule],
    subject: Subject,
    context: ShardingContext,
    lengths: Mapping[str, int] | None = None,
) -> ShardLayout | NoLayout | None:
    """What the first rule that fits says; None if none does.

    Args:
        rules: Asked in this order.
        subject: The tensor.
        context: The run.
        lengths: As in ``activation_layout``.
    """
    rule = next((rule for rule in rules if rule.fits(subject, context)), None)
    if rule is None:
        return None
    try:
        return rule.layout(subject, context, lengths)
    except LayoutError as error:
        if context.holds_everything:
            return whole(subject.local_shape, context.meshes.dense.name)
        return NoLayout(
            reason=f"the layout rule '{rule.text(subject, context)}' does not fit "
            f"{subject.described}: {error.what} (expected {error.expected}, got "
            f"{error.got}); add one: {subject.line_to_add}"
        )


def _require_lengths(
    dims: Dims, shape: tuple[int, ...], lengths: Mapping[str, int]
) -> None:
    for dim, length in zip(dims.dims, shape, strict=True):
        if lengths.get(dim.name, length) != length:
            raise LayoutError(
                f"dim {dim.name} of the whole tensor would have another length than in "
                "this run",
                where=f"dims {dims}",
                expected=lengths[dim.name],
                got=length,
                remedy="give the axes that shard this tensor",
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
