"""Modules whose results were not compared, though what fails may come from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.left_out import SAME_CONTENT
from ttrace.ir.tensor_id import ROOT_MODULE, TensorId
from ttrace.judge.verdicts.verdict import Status

_MAX_NAMED = 3

Seen = tuple[TensorId, str, str]
"""A tensor, its status and the reason of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncompared:
    """Modules of which nothing that they return was compared.

    Attributes:
        modules: Their paths, in order; of one within another only the outer one.
        reason: Why that of the first was not.
    """

    modules: tuple[str, ...]
    reason: str

    @property
    def names(self) -> str:
        """``pooler, lm_head and binary_head``."""
        named = list(self.modules[:_MAX_NAMED])
        more = len(self.modules) - len(named)
        if more:
            named.append(f"{more} more module{'s' * (more > 1)}")
        return " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))

    @property
    def sentence(self) -> str:
        """``nothing that pooler returns was compared (no layout rule for ...)``."""
        verb = "returns" if len(self.modules) == 1 else "return"
        why = self.reason.partition(";")[0]
        return f"nothing that {self.names} {verb} was compared ({why})"


def uncompared_before(
    failed: TensorId, within: str, tensors: Iterable[Seen]
) -> Uncompared | None:
    """The modules whose results come before a failed tensor, and were not compared.

    One that runs within a module whose result was compared is none: an error of it
    would show there.

    Args:
        failed: The tensor.
        within: Path of the module whose code makes it; ``@root`` is the model.
        tensors: All, in order of the dataflow.
    """
    compared: set[str] = set()
    skipped: dict[str, str] = {}
    for id_, status, reason in tensors:
        if id_ == failed:
            break
        if (id_.step, id_.microbatch) != (failed.step, failed.microbatch):
            continue
        if id_.kind is not Kind.OUTPUT:
            continue
        if status != Status.SKIPPED or SAME_CONTENT in reason:
            compared.add(id_.module)
        else:
            skipped.setdefault(id_.module, reason)
    found: dict[str, str] = {}
    for module, reason in skipped.items():
        outer = _around(module, within)
        if outer is None or _is_within(failed.module, module):
            continue
        if compared.isdisjoint((module, *outer)):
            found.setdefault(next((m for m in outer if m in skipped), module), reason)
    if not found:
        return None
    return Uncompared(modules=tuple(found), reason=next(iter(found.values())))


def _around(module: str, within: str) -> Sequence[str] | None:
    """The modules between, the outermost first; None if it is not within that."""
    if module in (ROOT_MODULE, within):
        return None
    if within != ROOT_MODULE and not _is_within(module, within):
        return None
    parts = module.split(".")
    first = 1 if within == ROOT_MODULE else within.count(".") + 2
    return [".".join(parts[:end]) for end in range(first, len(parts))]


def _is_within(module: str, outer: str) -> bool:
    return module == outer or module.startswith(f"{outer}.")
