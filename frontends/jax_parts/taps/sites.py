"""Where a program is tapped: which tensor a value is, and what its gradient is."""

import itertools
from dataclasses import dataclass

from ttrace.errors import TensorIdError
from ttrace.frontends.jax_parts.taps.operation_sites import OperationSite
from ttrace.ir.kinds import GRADIENT_OF, OF_LAYOUT, Kind
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.recording.slots import clean_name as clean_name

SpecEntry = None | str | tuple[str, ...]
"""One dim of a ``jax.sharding.PartitionSpec``: the mesh axes that shard it."""

TAPPED_KINDS = frozenset(Kind) - OF_LAYOUT - frozenset(GRADIENT_OF.values())
"""Kinds of values that a program computes; gradients come with their forward."""

_serials = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class TapSite:
    """A place in a program where a value is named.

    The site has no call number: a module that is called twice, a jitted function
    whose trace is used twice and the iterations of a scan all have the same one.

    Attributes:
        module: Module path, as in ``TensorId``.
        kind: What the value is.
        slot: As in ``TensorId``.
        spec: Inside ``shard_map``, how the local value tiles the logical one, as the
            entries of a ``PartitionSpec``; None where that is not known, and outside.
        grad: What the cotangent of the value is; None where it is nobody's.
        noise: The value gets noise in a perturbed run.
        is_kept: The module keeps the value for the next step: the last one of a step
            is its updated buffer as well.
        operation: Of which equation it is a value; of no other kind than ``op``.
    """

    module: str
    kind: Kind
    slot: str | None = None
    spec: tuple[SpecEntry, ...] | None = None
    grad: Kind | None = None
    noise: bool = False
    is_kept: bool = False
    operation: OperationSite | None = None

    def __post_init__(self):
        is_operation = self.kind is Kind.OP and self.operation is not None
        if self.kind not in TAPPED_KINDS and not is_operation:
            raise TensorIdError(
                "a value of this kind cannot be tapped",
                where=self.module,
                expected=f"one of {', '.join(sorted(TAPPED_KINDS))}: a gradient is "
                "recorded where the value that it belongs to is tapped",
                got=self.kind.value,
                remedy="tap the value itself",
            )
        self.tensor_id(self.kind)

    def tensor_id(self, kind: Kind) -> TensorId:
        """The id of the value, or of its gradient, without step and call."""
        return TensorId(step=0, module=self.module, kind=kind, slot=self.slot)


def value_site(
    module: str,
    kind: Kind,
    slot: str | None,
    *,
    spec: tuple[SpecEntry, ...] | None = None,
    noise: bool | None = None,
) -> TapSite:
    """A site with the gradient that belongs to its kind.

    Args:
        module: Module path; empty for the model itself.
        kind: What the value is.
        slot: As in ``TensorId``.
        spec: As in ``TapSite``.
        noise: As in ``TapSite``; where None, outputs get it and nothing else.
    """
    return TapSite(
        module=clean_name(module) if module else ROOT_MODULE,
        kind=kind,
        slot=None if slot is None else clean_name(slot),
        spec=spec,
        grad=GRADIENT_OF.get(kind),
        noise=kind is Kind.OUTPUT if noise is None else noise,
    )


def parse_tap_name(name: str, kind: Kind | None) -> tuple[str, Kind, str | None]:
    """Reads ``blocks.3.mlp`` or ``blocks.3.mlp/output/0``.

    Args:
        name: A module path, or a module path with kind and, perhaps, slot.
        kind: The kind where the name has none; None for ``output``.

    Returns:
        Module path, kind, slot.

    Raises:
        TensorIdError: The name is of neither form, or its kind contradicts ``kind``.
    """
    module, *rest = name.split("/")
    kinds = {kind.value: kind for kind in TAPPED_KINDS}
    if not module or len(rest) > 2 or (rest and rest[0] not in kinds):
        raise TensorIdError(
            "a tap has a malformed name",
            expected="<module>, or <module>/<kind>, or <module>/<kind>/<slot>, with a "
            f"kind out of {', '.join(sorted(kinds))}",
            got=repr(name),
            remedy="give the tap a name such as 'blocks.3.mlp'",
        )
    named_kind = kinds[rest[0]] if rest else None
    if kind is not None and named_kind not in (None, kind):
        raise TensorIdError(
            "a tap is given two kinds",
            where=repr(name),
            expected=rest[0],
            got=f"kind={kind.value}",
            remedy="leave one of the two out",
        )
    return module, named_kind or kind or Kind.OUTPUT, rest[1] if rest[1:] else None


def next_serial() -> int:
    """Sets one execution of a tap in Python apart from all others.

    A value, its recomputation and its cotangent carry the same number.
    """
    return next(_serials)
