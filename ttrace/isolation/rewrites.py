"""The reference's values in the candidate's own layouts: planned, then written.

Made from what a comparison of the two runs sets against each other: the blocks of each
shard of the candidate, and what the reference has of them. So whatever a comparison can
match (other layouts, micro-batches cut otherwise, names and dims of a map, scales) can
be put in; what it cannot is left out, with the reason.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ttrace.compare.align import Match, Skipped, Unmatched
from ttrace.compare.execute import read_blocks
from ttrace.compare.numbering import NumberedTrace, Presentation, presented_over
from ttrace.compare.operands import Operand
from ttrace.compare.overlaps import find_overlaps
from ttrace.compare.plan import TensorPlan, plan_comparison
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.layout import Region
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import (
    RankInfo,
    ShardRecord,
    SkippedRecord,
    TensorRecord,
    TraceInfo,
)
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.views import block_view
from ttrace.lining_up import LinedUp
from ttrace.recording.rewrites import NO_MODULE_BEHIND, REWRITTEN_KINDS
from ttrace.store.writer import TraceWriter

Held = tuple[TensorId, int]
"""A shard of the candidate, as it was recorded: its id there, and its rank."""

_NO_VALUE = "nothing takes its place"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewritePlan:
    """Which values of the reference take the place of the candidate's.

    Attributes:
        step: The step in which they do.
        tensors: Those that can be made, of both runs.
        left_out: Number of others by the reason.
    """

    step: int
    tensors: tuple[TensorPlan, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrites:
    """What was written for a rewriting run.

    Attributes:
        folder: Of the trace that holds it.
        shards: Where the candidate holds each tensor whose value was written, by the id
            under which it is compared.
        left_out: Number of tensors that keep the candidate's own value, by the reason.
    """

    folder: Path
    shards: Mapping[TensorId, frozenset[Held]]
    left_out: Mapping[str, int] = field(default_factory=dict)


def plan_rewrites(lined: LinedUp, step: int) -> RewritePlan:
    """Plans what takes the place of the inputs and output gradients of a step.

    Args:
        lined: Both runs.
        step: The step.
    """
    left_out: Counter[str] = Counter()
    matches: list[Match] = []
    for entry in lined.alignment.entries:
        if entry.id.step != step or entry.id.kind not in REWRITTEN_KINDS:
            continue
        if isinstance(entry, Match):
            reason = _obstacle(entry)
            if reason is None:
                matches.append(entry)
            else:
                left_out[reason] += 1
        elif isinstance(entry, Skipped):
            if entry.reason.endswith(NO_MODULE_BEHIND):
                continue
            left_out[entry.reason] += 1
        elif isinstance(entry, Unmatched) and entry.present is Side.CANDIDATE:
            left_out["the reference has no such tensor"] += 1
    planned = plan_comparison(matches, lined.reference.info, lined.candidate.info)
    tensors = []
    for tensor in planned.tensors:
        cover = tensor.reference_cover
        if cover.num_uncovered or cover.missing_partials:
            left_out["the reference recorded only a part of it"] += 1
        else:
            tensors.append(tensor)
    return RewritePlan(step=step, tensors=tuple(tensors), left_out=left_out)


def write_rewrites(
    plan: RewritePlan, lined: LinedUp, candidate: TraceSource, folder: Path
) -> Rewrites:
    """Writes the values, rank by rank, as a trace in the candidate's own layouts.

    Holds the arrays of a rank that are begun and not complete.

    Args:
        plan: What to write.
        lined: Both runs.
        candidate: The candidate as it was recorded.
        folder: For the trace; empty.

    Raises:
        TraceError: A trace cannot be read, or this one not be written.
    """
    by_rank: dict[int, list[tuple[TensorPlan, ShardRecord]]] = {}
    for tensor in plan.tensors:
        for shard in tensor.match.candidate.shards:
            by_rank.setdefault(shard.rank, []).append((tensor, shard))
    arranged = _Arranged(lined.candidate, candidate)
    held: dict[TensorId, set[Held]] = {}
    written: set[Held] = set()
    recorded = _recorded(candidate.info, plan.step)
    for info in candidate.info.ranks:
        values = _RankValues(arranged, lined.reference, candidate, info)
        rewriting = replace(info, run_id=f"{info.run_id}-rewrites", settings={})
        with TraceWriter(folder, rewriting) as writer:
            for tensor, shard in by_rank.get(info.rank, ()):
                places = held.setdefault(tensor.id, set())
                places |= {(s.id, s.rank) for s in values.take(tensor, shard)}
                for done, array in values.completed():
                    writer.add(done, array)
                    written.add((done.id, done.rank))
            # Frontends that number calls at the end of a step count these, too.
            for note in recorded.get(info.rank, ()):
                if (note.id, note.rank) not in written:
                    writer.skip(note)
        if writer.failure is not None:
            raise writer.failure
    left_out = Counter(plan.left_out)
    complete = {id_: places for id_, places in held.items() if places <= written}
    if len(complete) < len(held):
        reason = "the reference has only some of the elements that a rank holds"
        left_out[reason] += len(held) - len(complete)
    return Rewrites(
        folder=folder,
        shards={id_: frozenset(places) for id_, places in complete.items()},
        left_out=left_out,
    )


def _recorded(info: TraceInfo, step: int) -> dict[int, list[SkippedRecord]]:
    """What a step had of inputs and output gradients, by rank, noted as left out."""
    found: dict[int, list[SkippedRecord]] = {}
    shards = (shard for record in info.tensors.values() for shard in record.shards)
    for record in (*shards, *info.skipped.values()):
        if record.id.step == step and record.id.kind in REWRITTEN_KINDS:
            note = SkippedRecord(
                id=record.id,
                rank=record.rank,
                sequence=record.sequence,
                reason=_NO_VALUE,
            )
            found.setdefault(record.rank, []).append(note)
    return found


def _obstacle(match: Match) -> str | None:
    """Why a tensor of the reference cannot take the place of the candidate's."""
    if match.reference.global_shape != match.candidate.global_shape:
        return "it has another shape in the reference"
    for record in (match.reference, match.candidate):
        if any(shard.layout.index is not None for shard in record.shards):
            return "the order of its rows depends on data"
    kinds = [_kind_of_number(record) for record in (match.reference, match.candidate)]
    if kinds[0] != kinds[1]:
        return f"it holds {kinds[1]}, and {kinds[0]} in the reference"
    return None


def _kind_of_number(record: TensorRecord) -> str:
    name = record.shards[0].dtype
    if name == "bool":
        return "truth values"
    if dtype_named(name).epsilon is None:
        return "whole numbers"
    return "complex numbers" if name.startswith("complex") else "floating-point numbers"


class _Arranged:
    """Where the elements of a presented shard lie in the recorded ones.

    Args:
        presented: The candidate as it is compared.
        recorded: The candidate as it was recorded.
    """

    def __init__(self, presented: TraceSource, recorded: TraceSource):
        self._numbered = self._numbers = None
        if isinstance(presented, Presentation):
            self._numbered = NumberedTrace(recorded)
            self._numbers = presented_over(presented, self._numbered)

    def within(
        self, shard: ShardRecord
    ) -> tuple[np.ndarray, list[tuple[ShardRecord, int]]] | None:
        """The numbers of a shard's elements, and the recorded shards that they are of.

        None where the shard is a recorded one.
        """
        if self._numbers is None or self._numbered is None:
            return None
        numbers = self._numbers.load(shard)
        sources, seen = [], numbers.reshape(-1)
        while seen.size:
            source, start = self._numbered.shard_of(int(seen[0]))
            sources.append((source, start))
            stop = start + math.prod(source.layout.local_shape)
            seen = seen[(seen < start) | (seen >= stop)]
        return numbers, sources


class _RankValues:
    """The arrays of one rank that are being filled.

    Args:
        arranged: Where elements lie.
        reference: The reference, as it is compared.
        candidate: The candidate as it was recorded.
        info: What the rank says of itself.
    """

    def __init__(
        self,
        arranged: _Arranged,
        reference: TraceSource,
        candidate: TraceSource,
        info: RankInfo,
    ):
        self._arranged = arranged
        self._reference = reference
        self._candidate = candidate
        self._info = info
        self._done: set[TensorId] = set()
        self._begun: dict[TensorId, tuple[ShardRecord, np.ndarray]] = {}
        self._missing: dict[TensorId, int] = {}

    def take(self, tensor: TensorPlan, shard: ShardRecord) -> list[ShardRecord]:
        """Fills in what the reference has of a shard; the recorded shards it is of."""
        found = self._arranged.within(shard)
        sources = [(shard, 0)] if found is None else found[1]
        recorded = [source for source, _ in sources]
        if self._done.issuperset(source.id for source in recorded):
            return recorded  # under another name
        for source in recorded:
            self._begin(source)
        pieces = tensor.reference_cover.pieces
        layout = shard.layout
        overlaps = find_overlaps(
            tuple(region for region, _ in pieces),
            tuple(block.region for block in layout.blocks),
        )
        for overlap in overlaps:
            block = layout.blocks[overlap.second]
            values = self._values(pieces[overlap.first][1], overlap.region, shard)
            if found is None:
                local = self._begun[shard.id][1]
                block_view(local, layout, block, overlap.region)[...] = values
                self._missing[shard.id] -= overlap.region.size
                continue
            numbers = block_view(found[0], layout, block, overlap.region)
            self._scatter(numbers.reshape(-1), values.reshape(-1), sources)
        return recorded

    def completed(self) -> Iterator[tuple[ShardRecord, np.ndarray]]:
        """Arrays of which all is filled in; each once."""
        for id_ in [id_ for id_, missing in self._missing.items() if missing <= 0]:
            del self._missing[id_]
            self._done.add(id_)
            yield self._begun.pop(id_)

    def _begin(self, source: ShardRecord) -> None:
        if source.id not in self._begun and source.id not in self._done:
            # What no block covers is padding, and stays as it was.
            self._begun[source.id] = source, np.array(self._candidate.load(source))
            blocks = source.layout.blocks
            self._missing[source.id] = sum(block.region.size for block in blocks)

    def _scatter(
        self,
        numbers: np.ndarray,
        values: np.ndarray,
        sources: Sequence[tuple[ShardRecord, int]],
    ) -> None:
        for source, start in sources:
            stop = start + math.prod(source.layout.local_shape)
            chosen = (numbers >= start) & (numbers < stop)
            local = self._begun[source.id][1].reshape(-1)
            local[numbers[chosen] - start] = values[chosen]
            self._missing[source.id] -= int(chosen.sum())

    def _values(
        self, operand: Operand, region: Region, shard: ShardRecord
    ) -> np.ndarray:
        """The reference's values of a region, as the candidate has them in a shard."""
        values = read_blocks(operand, region, self._reference)
        dtype = dtype_named(shard.dtype)
        factor = shard.scale / operand.scale / self._num_partials(shard)
        if factor == 1 or dtype.epsilon is None:
            return values.astype(dtype.numpy)
        wide = np.complex128 if values.dtype.kind == "c" else np.float64
        with np.errstate(over="ignore", invalid="ignore"):  # as in the reference
            return (values.astype(wide) * factor).astype(dtype.numpy)

    def _num_partials(self, shard: ShardRecord) -> int:
        """Shards that make up a sum, of which each gets an equal part."""
        layout = shard.layout
        if not layout.partial_axes:
            return 1
        sizes = self._info.mesh(layout.mesh).sizes
        return layout.num_partials or math.prod(
            sizes[axis] for axis in layout.partial_axes
        )
