"""Applies a map to two traces: the candidate as the reference would have it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ttrace.compare.layouts.per_device_values import device_axes, per_device_reason
from ttrace.errors import MapError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import Kind
from ttrace.ir.left_out import IGNORED
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import ShardRecord, SkippedRecord, TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.mapping.grids import GroupGrid, check_shapes, place_on_grid
from ttrace.mapping.groups import Group, Position, StateNames, find_groups
from ttrace.mapping.mapped_trace import MappedTrace, ShardPlan, merge_shards
from ttrace.mapping.one_sided import one_sided_reasons
from ttrace.mapping.rearrange import GridTensor
from ttrace.mapping.rules import MapFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """Two traces under the same names, and what the map knows of the rest.

    Attributes:
        reference: Without padding, and without what the map ignores.
        candidate: Under the reference's ids and in its shapes.
        one_sided: Why tensors of rules are in one run only, by id.
        unverified: What rules bring together that somebody should read, by the
            reference's ids.
    """

    reference: TraceSource
    candidate: TraceSource
    one_sided: Mapping[TensorId, str]
    unverified: frozenset[TensorId] = frozenset()


def apply_map(
    map_file: MapFile, reference: TraceSource, candidate: TraceSource
) -> Mapped:
    """The same as ``map_traces``, with what the map knows of tensors of one run only.

    Raises:
        MapError: The map does not fit the traces.
    """
    mapping = _Mapping(map_file, reference, candidate)
    own, other = mapping.traces()
    reasons = one_sided_reasons(mapping.groups)
    return Mapped(
        reference=own,
        candidate=other,
        one_sided=reasons,
        unverified=frozenset(
            tensor_id
            for group in mapping.groups
            if not group.rule.verified
            for tensor_id in group.reference.values()
        ),
    )


def map_traces(
    map_file: MapFile, reference: TraceSource, candidate: TraceSource
) -> tuple[TraceSource, TraceSource]:
    """Presents the candidate under the reference's ids and in its shapes.

    Both traces come back changed: the reference without padding, and without what the
    map ignores. Nothing is read but what the traces say of themselves.

    Raises:
        MapError: The map does not fit the traces.
    """
    return _Mapping(map_file, reference, candidate).traces()


class _RunView:
    """What becomes of one trace: its tensors, what is skipped of it, and its plans."""

    def __init__(self, trace: TraceSource):
        self.trace = trace
        self.tensors: dict[TensorId, TensorRecord] = {}
        self.skipped: dict[TensorId, SkippedRecord] = dict(trace.info.skipped)
        self.plans: dict[tuple[int, TensorId], ShardPlan] = {}

    def add(
        self, tensor_id: TensorId, shards: Sequence[tuple[ShardRecord, ShardPlan]]
    ) -> None:
        """Adds a tensor; of shards with a layout, and what they come from."""
        self.tensors[tensor_id] = TensorRecord(
            id=tensor_id, shards=tuple(shard for shard, _ in shards)
        )
        for shard, plan in shards:
            self.plans[shard.rank, tensor_id] = plan

    def keep(self, tensor_id: TensorId, name: TensorId | None = None) -> None:
        """Adds a recorded tensor as it is, perhaps under another name."""
        shards = self.trace.info.tensors[tensor_id].shards
        self.add(
            name or tensor_id,
            [
                (replace(shard, id=name or tensor_id), ShardPlan(sources=(shard,)))
                for shard in shards
            ],
        )

    def skip(
        self,
        tensor_id: TensorId,
        reason: str,
        like: TensorId | None = None,
        *,
        is_ignored: bool = False,
    ) -> None:
        """Notes that a tensor is not compared."""
        seen = self._first(like or tensor_id)
        self.skipped.setdefault(
            tensor_id,
            SkippedRecord(
                id=tensor_id,
                rank=seen[0],
                sequence=seen[1],
                reason=reason,
                is_ignored=is_ignored,
            ),
        )

    def view(self, *, named_alike: bool) -> TraceSource:
        """The trace, with what has become of it."""
        ranks = self.trace.info.ranks
        if not named_alike:
            # Its patterns speak of other names; what they left out is skipped by now.
            ranks = tuple(
                replace(
                    info,
                    capture={k: v for k, v in info.capture.items() if k != "modules"},
                )
                for info in ranks
            )
        info = TraceInfo(ranks=ranks, tensors=self.tensors, skipped=self.skipped)
        return MappedTrace(self.trace, info, self.plans)

    def _first(self, tensor_id: TensorId) -> tuple[int, int]:
        """Rank and sequence of a tensor, recorded or skipped."""
        record = self.trace.info.tensors.get(tensor_id)
        if record is not None:
            return record.shards[0].rank, record.shards[0].sequence
        skipped = self.trace.info.skipped.get(tensor_id)
        if skipped is not None:
            return skipped.rank, skipped.sequence
        return self.trace.info.ranks[0].rank, 1 << 62  # behind all that is known


class _Mapping:
    """Applies a map to two traces."""

    def __init__(
        self, map_file: MapFile, reference: TraceSource, candidate: TraceSource
    ):
        self._map = map_file
        self._states = StateNames(map_file, reference.info)
        self.groups = find_groups(map_file, reference.info, candidate.info)
        self._reference = _RunView(reference)
        self._candidate = _RunView(candidate)
        self._ignored = {
            Side.REFERENCE: self._find_ignored(Side.REFERENCE, reference.info),
            Side.CANDIDATE: self._find_ignored(Side.CANDIDATE, candidate.info),
        }
        self._made_by: dict[TensorId, str] = {}

    def traces(self) -> tuple[TraceSource, TraceSource]:
        for tensor_id in self._reference.trace.info.tensors:
            if tensor_id in self._ignored[Side.REFERENCE]:
                reason = self._ignored[Side.REFERENCE][tensor_id]
                self._reference.skip(tensor_id, reason, is_ignored=True)
            else:
                self._reference.keep(tensor_id)
        owners = {
            tensor_id: group
            for group in self.groups
            for tensor_id in group.candidate.values()
        }
        done: set[int] = set()
        info = self._candidate.trace.info
        for tensor_id in dict.fromkeys((*info.tensors, *info.skipped)):
            group = owners.get(tensor_id)
            if group is None:
                self._keep_name(tensor_id)
            elif id(group) not in done:
                done.add(id(group))
                self._map_group(group)
        self._explain_absent()
        return (
            self._reference.view(named_alike=True),
            self._candidate.view(named_alike=False),
        )

    def _find_ignored(self, side: Side, info: TraceInfo) -> dict[TensorId, str]:
        ignored = {}
        # What is ignored may be gone with a module; a map that fits nowhere is wrong.
        fits = any(group.reference and group.candidate for group in self.groups)
        for rule in self._map.ignored:
            if rule.side is not side:
                continue
            ids = [id_ for id_ in (*info.tensors, *info.skipped) if rule.matches(id_)]
            if not ids and not fits and not info.ranks[0].capture:
                raise MapError(
                    f"a map ignores what the {side} does not have",
                    where=rule.place,
                    expected=f"a tensor that matches {rule.pattern}",
                    got=f"none of {len(info.tensors)} tensors",
                    remedy="correct the pattern, or take the entry out",
                )
            reason = f"{IGNORED}: {rule.reason}"
            ignored |= {id_: reason for id_ in ids if id_ not in ignored}
        return ignored

    def _keep_name(self, tensor_id: TensorId) -> None:
        """A tensor that no rule names keeps its name; states have the reference's."""
        reason = self._ignored[Side.CANDIDATE].get(tensor_id)
        skipped = self._candidate.trace.info.skipped
        name = self._states.id_in_reference(tensor_id)
        if reason is not None:
            self._candidate.skip(tensor_id, reason, is_ignored=True)
        elif tensor_id in self._candidate.trace.info.tensors:
            self._claim(name, f"{tensor_id} itself, that no rule names")
            self._candidate.keep(tensor_id, name)
        elif name != tensor_id and tensor_id in skipped:
            del self._candidate.skipped[tensor_id]
            self._candidate.skip(name, skipped[tensor_id].reason, tensor_id)

    def _map_group(self, group: Group) -> None:
        recorded = self._candidate.trace.info.tensors
        by_position = {p: i for p, i in group.candidate.items() if i in recorded}
        reasons = [
            self._ignored[Side.CANDIDATE][i]
            for i in group.candidate.values()
            if i in self._ignored[Side.CANDIDATE]
        ]
        if reasons:
            return self._skip_group(group, reasons[0], is_ignored=True)
        skipped = self._candidate.trace.info.skipped
        reasons = [skipped[i].reason for i in group.candidate.values() if i in skipped]
        if reasons:
            # On some ranks, or all: whether anything is missing shows in the plan.
            self._skip_group(group, reasons[0])
        if not by_position:
            return
        if group.rule.transform is None:
            self._rename(group, by_position)
        else:
            self._rearrange(group, by_position, is_known_incomplete=bool(reasons))

    def _rename(self, group: Group, by_position: Mapping[Position, TensorId]) -> None:
        ((position, tensor_id),) = by_position.items()
        name = group.reference_id(position)
        self._claim(name, group.rule.place)
        self._candidate.keep(tensor_id, name)

    def _rearrange(
        self,
        group: Group,
        by_position: Mapping[Position, TensorId],
        *,
        is_known_incomplete: bool,
    ) -> None:
        recorded = self._reference.trace.info.tensors
        shapes = {
            position: recorded[tensor_id].global_shape
            for position, tensor_id in group.reference.items()
            if tensor_id in recorded
        }
        own_shapes = {
            position: self._candidate.trace.info.tensors[tensor_id].global_shape
            for position, tensor_id in by_position.items()
        }
        if _is_other_state(group, shapes, own_shapes):
            if {*shapes.values(), *own_shapes.values()} == {()} and len(
                by_position
            ) == 1:
                self._rename(group, by_position)
            else:
                self._skip_group(
                    group, "this optimizer state has other dims than its parameter"
                )
            return
        of_devices = self._device_axes(group, by_position)
        if of_devices:
            if group.rule.only_renames:
                self._rename(group, by_position)
            else:
                reason = per_device_reason(of_devices, "one of the runs")
                self._skip_group(group, f"a map cannot rearrange it: {reason}")
            return
        grid = place_on_grid(group, shapes, own_shapes)
        if grid is None:
            if not is_known_incomplete:
                for tensor_id in by_position.values():
                    self._keep_name(tensor_id)
            return
        check_shapes(group, grid, shapes)
        if group.rule.only_renames:
            return self._rename(group, by_position)
        for position, target in grid.reference.items():
            name = group.reference_id(position)
            self._claim(name, group.rule.place)
            self._make(group, name, target, grid, by_position)
        self._take_padding_off(group, grid)

    def _device_axes(
        self, group: Group, by_position: Mapping[Position, TensorId]
    ) -> tuple[str, ...]:
        """The axes over which anything of a group was recorded device by device."""
        sides = (
            (self._reference.trace.info.tensors, group.reference.values()),
            (self._candidate.trace.info.tensors, by_position.values()),
        )
        return tuple(
            dict.fromkeys(
                axis
                for recorded, ids in sides
                for tensor_id in ids
                if tensor_id in recorded
                for axis in device_axes(recorded[tensor_id])
            )
        )

    def _make(
        self,
        group: Group,
        name: TensorId,
        target: GridTensor,
        grid: GroupGrid,
        by_position: Mapping[Position, TensorId],
    ) -> None:
        """Makes a tensor of the reference out of those of the candidate."""
        recorded = self._candidate.trace.info.tensors
        by_rank: dict[int, list[tuple[GridTensor, ShardRecord]]] = {}
        for position, tensor_id in sorted(
            by_position.items(), key=lambda x: _order(x[0])
        ):
            for shard in recorded[tensor_id].shards:
                by_rank.setdefault(shard.rank, []).append(
                    (grid.candidate[position], shard)
                )
        shards = []
        for rank in sorted(by_rank):
            transform = group.rule.transform
            assert transform is not None
            made = merge_shards(
                name, target, by_rank[rank], str(transform), transform.flipped
            )
            if isinstance(made, str):
                return self._candidate.skip(name, made, by_rank[rank][0][1].id)
            if made is not None:
                shards.append(made)
        if shards:
            self._candidate.add(name, shards)

    def _take_padding_off(self, group: Group, grid: GroupGrid) -> None:
        for position, source in grid.padded_reference.items():
            tensor_id = group.reference[position]
            if not source.padding or tensor_id not in self._reference.tensors:
                continue
            shards = []
            for shard in self._reference.trace.info.tensors[tensor_id].shards:
                made = merge_shards(
                    tensor_id,
                    replace(source, padding={}),
                    [(source, shard)],
                    shard.layout.dims,
                )
                assert not isinstance(made, str), "a single shard merges with itself"
                if made is not None:
                    shards.append(made)
            self._reference.add(tensor_id, shards)

    def _skip_group(
        self, group: Group, reason: str, *, is_ignored: bool = False
    ) -> None:
        """Skips what a group would make, under the names of the reference."""
        like = next(iter(group.candidate.values()))
        targets = list(group.reference.values())
        if not targets and not group.rule.stacked(Side.REFERENCE):
            targets = [
                group.reference_id(Position(member=member, indices=()))
                for member in range(len(group.rule.reference))
            ]
        for tensor_id in targets or group.candidate.values():
            self._candidate.skip(tensor_id, reason, like, is_ignored=is_ignored)
        for tensor_id in group.candidate.values():
            if tensor_id not in targets:
                self._candidate.skipped.pop(tensor_id, None)

    def _claim(self, tensor_id: TensorId, place: str) -> None:
        if tensor_id in self._made_by:
            raise MapError(
                "two tensors of the candidate become one of the reference",
                where=f"{self._made_by[tensor_id]} and {place}",
                expected="one tensor, or parts that are joined",
                got=tensor_id,
                remedy="make a pattern narrower, rename one of them, or [[ignore]] it",
            )
        self._made_by[tensor_id] = place

    def _explain_absent(self) -> None:
        """Skips what the candidate's filter left out, by the candidate's own names."""
        info = self._candidate.trace.info
        wants = CaptureFilter.from_json(dict(info.ranks[0].capture)).wants
        groups = {
            tensor_id: group
            for group in self.groups
            for tensor_id in group.reference.values()
        }
        for tensor_id in self._reference.tensors:
            if tensor_id in self._candidate.tensors:
                continue
            if tensor_id in groups:
                names = self._names_in_candidate(groups[tensor_id], tensor_id)
            else:
                names = self._states.ids_in_candidate(tensor_id)
            if not any(map(wants, names)):
                self._candidate.skip(tensor_id, "left out by a capture filter")

    def _names_in_candidate(
        self, group: Group, tensor_id: TensorId
    ) -> Sequence[TensorId]:
        """What a tensor of the reference might be called in the candidate."""
        states: tuple[str | None, ...] = (None,)
        if group.key.state is not None:
            states = self._states.in_candidate(group.key.state)
        num_stacked = len(group.rule.stacked(Side.CANDIDATE))
        return list(group.candidate.values()) or [
            group.candidate_id(
                Position(member=member, indices=(0,) * num_stacked), state
            )
            for member in range(len(group.rule.candidate))
            for state in states
        ]


def _is_other_state(
    group: Group,
    reference: Mapping[Position, tuple[int, ...]],
    candidate: Mapping[Position, tuple[int, ...]],
) -> bool:
    """Whether an optimizer keeps something that is not shaped like its parameter."""
    transform = group.rule.transform
    assert transform is not None
    kind = group.key.kind or group.rule.candidate[0].kind
    return kind is Kind.OPTIMIZER_STATE and (
        any(len(shape) != len(transform.reference.dims) for shape in reference.values())
        or any(
            len(shape) != len(transform.candidate.dims) for shape in candidate.values()
        )
    )


def _order(position: Position) -> tuple[tuple[int, ...], int]:
    return position.indices, position.member
