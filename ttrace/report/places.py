"""Where the tensors of a report belong: module and kind, as groups of tensors."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ttrace.report.tensor_report import TensorReport

_STEP = re.compile(r"step(\d+)/(?:mb(\d+)/)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor belongs.

    Attributes:
        step: The training step; None where the id does not say.
        microbatch: The global micro-batch; None for tensors of the whole step.
        module: Path of the module.
        slot: What follows the kind in the id, e.g. ``0`` or ``weight/call1``.
    """

    step: int | None
    microbatch: int | None
    module: str
    slot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleKind:
    """All tensors of one kind of one module, of all steps and micro-batches.

    Attributes:
        module: Path of the module.
        kind: What they are.
        tensors: At least one, in order of the dataflow.
    """

    module: str
    kind: str
    tensors: tuple[TensorReport, ...]

    def of_status(self, *statuses: str) -> tuple[TensorReport, ...]:
        """Those of some statuses."""
        return tuple(tensor for tensor in self.tensors if tensor.status in statuses)


def place_of(tensor: TensorReport) -> Place:
    """The parts of an id, also of a report whose ids no parser of today would take."""
    step = _STEP.match(tensor.id)
    rest = tensor.id[step.end() :] if step else tensor.id
    module, found, slot = rest.rpartition(f"/{tensor.kind}/")
    if not found:
        module, slot = rest.removesuffix(f"/{tensor.kind}"), ""
    return Place(
        step=int(step[1]) if step else None,
        microbatch=int(step[2]) if step and step[2] else None,
        module=module,
        slot=slot,
    )


def by_module_and_kind(tensors: Iterable[TensorReport]) -> list[ModuleKind]:
    """Groups in the order in which their first tensors come."""
    groups: dict[tuple[str, str], list[TensorReport]] = {}
    for tensor in tensors:
        key = (place_of(tensor).module, tensor.kind)
        groups.setdefault(key, []).append(tensor)
    return [
        ModuleKind(module=module, kind=kind, tensors=tuple(of_group))
        for (module, kind), of_group in groups.items()
    ]
