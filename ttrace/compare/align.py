"""Lines the tensors of two traces up by identity; touches no array and no block."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.run.filters import CaptureFilter


class Side(StrEnum):
    """One of the two runs."""

    REFERENCE = "reference"
    CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A logical tensor that both runs recorded.

    Attributes:
        id: The candidate's id of it (a recomputation keeps its own).
        reference: The reference's shards.
        candidate: The candidate's shards.
    """

    id: TensorId
    reference: TensorRecord
    candidate: TensorRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """A logical tensor that only one run recorded, for no known reason.

    Attributes:
        id: Its identity.
        present: The run that has it.
    """

    id: TensorId
    present: Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A logical tensor that is not compared, with the reason.

    Attributes:
        id: Its identity.
        reason: One sentence for the report.
    """

    id: TensorId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Every tensor of either trace, once.

    Attributes:
        entries: In order of the dataflow: that of the reference, each tensor that
            only the candidate has right behind its predecessor there.
    """

    entries: tuple[Match | Unmatched | Skipped, ...]

    @property
    def matches(self) -> tuple[Match, ...]:
        """The tensors that can be compared."""
        return tuple(entry for entry in self.entries if isinstance(entry, Match))


def align(reference: TraceInfo, candidate: TraceInfo) -> Alignment:
    """Finds the counterpart of every tensor.

    A recomputed forward has no counterpart in a reference that does not recompute: it
    is matched with the reference's first forward, which it must repeat.
    """
    entries: dict[TensorId, Match | Unmatched | Skipped] = {}
    for tensor_id in _merge_orders(_all_ids(reference), _all_ids(candidate)):
        entry = _align_one(tensor_id, reference, candidate)
        if entry is not None:
            entries[tensor_id] = entry
    return Alignment(entries=tuple(entries.values()))


def _align_one(
    tensor_id: TensorId, reference: TraceInfo, candidate: TraceInfo
) -> Match | Unmatched | Skipped:
    of_reference = reference.tensors.get(tensor_id)
    of_candidate = candidate.tensors.get(tensor_id)
    if tensor_id.pass_ is Pass.RECOMPUTE:
        if of_reference is None:
            first_forward = replace(tensor_id, pass_=Pass.FORWARD)
            of_reference = reference.tensors.get(first_forward)
        elif of_candidate is None:
            return Skipped(
                id=tensor_id,
                reason="recomputed in the reference only; nothing to check",
            )
    if of_reference is not None and of_candidate is not None:
        return Match(id=tensor_id, reference=of_reference, candidate=of_candidate)
    for side, info, record in (
        (Side.REFERENCE, reference, of_reference),
        (Side.CANDIDATE, candidate, of_candidate),
    ):
        if record is not None:
            continue
        if tensor_id in info.skipped:
            return Skipped(
                id=tensor_id, reason=f"{side}: {info.skipped[tensor_id].reason}"
            )
        if not _capture_filter(info).wants(tensor_id):
            return Skipped(id=tensor_id, reason=f"{side}: left out by a capture filter")
    present = Side.CANDIDATE if of_reference is None else Side.REFERENCE
    return Unmatched(id=tensor_id, present=present)


def _capture_filter(info: TraceInfo) -> CaptureFilter:
    return CaptureFilter.from_json(dict(info.ranks[0].capture))


def _all_ids(info: TraceInfo) -> list[TensorId]:
    """Recorded and skipped ids in order of capture."""
    position: dict[TensorId, tuple[int, int]] = {}
    for order, record in enumerate(info.tensors.values()):
        position[record.id] = (record.shards[0].sequence, order)
    for order, skipped in enumerate(info.skipped.values()):
        position.setdefault(skipped.id, (skipped.sequence, order))
    return sorted(position, key=position.__getitem__)


def _merge_orders(
    first: Iterable[TensorId], second: Iterable[TensorId]
) -> Iterable[TensorId]:
    """Both orders in one: that of ``first``, newcomers behind their predecessor."""
    followers: dict[TensorId | None, list[TensorId]] = {}
    known = dict.fromkeys(first)
    previous: TensorId | None = None
    for tensor_id in second:
        if tensor_id in known:
            previous = tensor_id
        else:
            followers.setdefault(previous, []).append(tensor_id)
    yield from followers.get(None, ())
    for tensor_id in known:
        yield tensor_id
        yield from followers.get(tensor_id, ())


def differing_settings(
    reference: Mapping[str, object], candidate: Mapping[str, object]
) -> dict[str, tuple[object, object]]:
    """The settings that are not the same in both runs, with both values."""
    names = dict.fromkeys((*reference, *candidate))
    pairs = {name: (reference.get(name), candidate.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
