"""Conformance of a frontend: what it records, and that it disturbs nothing.

Everything goes through the door that users' scripts go through: the environment that
``ttrace record`` sets, and a trace on disk. So a training may be of one process or of
many, in any framework.
"""

import atexit
import itertools
import shutil
import tempfile
import unittest
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ttrace.errors import TtraceError
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.kinds import COMES_WITH, RECORDED_BY_DEFAULT, Kind
from ttrace.ir.operation import OperationPart
from ttrace.ir.tensor_id import TensorId, parse_tensor_id
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.store.reader import Trace, open_trace
from ttrace.testing.assembled import assemble, relative_error
from ttrace.testing.source_suite import TraceSourceSuite
from ttrace.testing.suite import Suite, failed_checks
from ttrace.testing.training import Training, full_disk, in_environment

_FILTERS = ("kinds", "gradients", "steps", "microbatches", "modules", "ranks")


class FrontendSuite(Suite):
    """Subclass it, and let ``train`` run a small training.

    It takes at least two steps, of at least two micro-batches where the frontend knows
    them; parameters start from the same values in every layout.

    Attributes:
        layouts: Names of layouts; the first one holds whole tensors, and the tensors
            of all others are put together and compared with those of the first.
        num_steps: Steps of the training.
        records_operations: Operations are recorded where they are asked for.
        not_recorded: Kinds of which this training shows nothing, neither a tensor nor
            a reason for its lack, and why.
        max_rel_err: Largest relative error of a correct layout: what rounding explains
            after so few steps.
        max_file_bytes: Size at which files are cut short to see what a full disk does;
            less than what a rank records.
    """

    layouts: ClassVar[Sequence[str]] = ("one",)
    num_steps: ClassVar[int] = 2
    records_operations: ClassVar[bool] = False
    not_recorded: ClassVar[Mapping[Kind, str]] = {}
    max_rel_err: ClassVar[float] = 1e-5
    max_file_bytes: ClassVar[int] = 8192

    _recordings: ClassVar[dict[tuple, tuple[Training, Trace]]]
    _plain: ClassVar[dict[str, Training]]

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        cls._recordings, cls._plain = {}, {}

    def train(self, layout: str, environment: Mapping[str, str]) -> Training:
        """Trains from the same beginning, every time.

        Args:
            layout: One of ``layouts``.
            environment: Variables that every process of the training must see before
                the frontend is called; empty for a plain run. The trace must be
                closed when this returns.
        """
        raise NotImplementedError("run a few steps of training")

    def is_compared(self, tensor_id: TensorId) -> bool:
        """False for a tensor that is zero but for rounding, in every layout."""
        del tensor_id
        return True

    @classmethod
    def parameters(cls) -> Mapping[str, Mapping[str, Any]]:
        return {
            "layout": {name: name for name in cls.layouts},
            "filtered": {name: name for name in _FILTERS},
        }

    def test_every_kind_is_recorded_or_skipped_with_a_reason(self, layout: str) -> None:
        info = self._recorded(layout).info
        for id_, skipped in info.skipped.items():
            assert skipped.reason.strip(), f"{id_} is skipped without a reason"
        seen = {id_.kind for id_ in itertools.chain(info.tensors, info.skipped)}
        # What completes another kind is there only where something makes it differ.
        required = RECORDED_BY_DEFAULT - COMES_WITH.keys()
        for kind in sorted(required - self.not_recorded.keys()):
            assert kind in seen, (
                f"nothing of kind {kind} is recorded or skipped in layout {layout}; "
                "where the training has none, say so in not_recorded"
            )

    def test_what_is_said_not_to_be_recorded_is_not(self, layout: str) -> None:
        info = self._recorded(layout).info
        for kind, reason in self.not_recorded.items():
            assert reason.strip(), f"not_recorded gives no reason for {kind}"
            found = [str(id_) for id_ in info.tensors if id_.kind is kind]
            assert not found, f"not_recorded names {kind}, and there is {found[0]}"

    def test_kinds_on_request_are_not_recorded_without_one(self, layout: str) -> None:
        for id_ in self._recorded(layout).info.tensors:
            assert id_.kind in RECORDED_BY_DEFAULT, f"{id_} was recorded unasked"

    def test_operations_take_what_is_recorded(self, layout: str) -> None:
        if not self.records_operations or layout != next(iter(self.layouts)):
            raise unittest.SkipTest("no operations are asked for in this layout")
        capture = CaptureFilter(
            kinds=RECORDED_BY_DEFAULT | {Kind.OP}, steps=frozenset({0})
        )
        info = self._recorded(layout, capture=capture).info
        calls: dict[tuple, dict[str, OperationPart]] = {}
        for record in info.tensors.values():
            for shard in record.shards:
                part = shard.operation
                if part is not None:
                    call = replace(shard.id, slot=None), shard.rank, part.is_backward
                    calls.setdefault(call, {})[part.key] = part
        assert calls, "operations were asked for, and none is recorded"
        for call, parts in calls.items():
            for key, part in parts.items():
                for operand in filter(None, part.operands):
                    taken = parts.get(operand)
                    where = f"{part.name} ({key}) of {call[0]} takes {operand}"
                    assert taken is not None, f"{where}, which is not there"
                    is_before = taken.number <= part.number
                    assert is_before, f"{where}, which comes behind it"

    def test_every_step_is_recorded(self, layout: str) -> None:
        steps = {id_.step for id_ in self._recorded(layout).info.tensors}
        assert steps == set(range(self.num_steps)), (
            f"steps {sorted(steps)} were recorded of {self.num_steps}"
        )

    def test_ids_round_trip(self, layout: str) -> None:
        info = self._recorded(layout).info
        for id_ in itertools.chain(info.tensors, info.skipped):
            again = parse_tensor_id(str(id_))
            assert again == id_, f"{id_!r} is read back as {again!r}"

    def test_the_trace_is_a_conforming_source(self, layout: str) -> None:
        path = self._recorded(layout).path

        class Recorded(TraceSourceSuite):
            def source(self) -> Trace:
                return open_trace(path)

        failed = failed_checks(Recorded)
        assert not failed, f"the trace of layout {layout}: {failed}"

    def test_the_trace_names_its_origin(self, layout: str) -> None:
        for rank in self._recorded(layout).info.ranks:
            assert rank.framework, f"rank {rank.rank} names no framework"
            assert rank.versions, f"rank {rank.rank} names no version of it"
            assert rank.noise_seed is None, f"rank {rank.rank} says it has noise"

    def test_two_runs_record_the_same(self, layout: str) -> None:
        first, second = self._recorded(layout), self._recorded(layout, again=True)
        _require_same_ids(first, second, "a second run")
        different = _first_difference(first, second)
        assert different is None, f"{different} has other values in a second run"

    def test_recording_changes_no_bit(self, layout: str) -> None:
        recorded, _ = self._run(layout)
        plain = self._plain_run(layout)
        assert plain.losses and plain.parameters, (
            "the training returns no losses or no parameters: nothing to compare"
        )
        difference = plain.difference(recorded)
        assert not difference, (
            f"layout {layout}, without recording and with it: {difference}"
        )

    def test_layouts_put_the_whole_tensor_together(self, layout: str) -> None:
        reference, trace = self._recorded(self.layouts[0]), self._recorded(layout)
        one_sided = [
            str(id_)
            for id_ in (*reference.info.tensors, *trace.info.tensors)
            if not id_.is_index
            and not (id_ in reference.info.tensors and id_ in trace.info.tensors)
            and not (id_ in reference.info.skipped or id_ in trace.info.skipped)
        ]
        assert not one_sided, (
            f"{len(one_sided)} tensors, {one_sided[0]} first, are in one of the "
            f"layouts {self.layouts[0]} and {layout} only"
        )
        for id_, record in trace.info.tensors.items():
            if id_.is_index:
                continue
            whole = assemble(trace, record)
            assert whole.is_covered, f"{id_}: no rank of {layout} holds some elements"
            if not self.is_compared(id_) or id_ not in reference.info.tensors:
                continue
            is_exact = all(shard.exact_replicas for shard in record.shards)
            allowed = 0.0 if is_exact else self.max_rel_err
            assert whole.spread <= allowed, (
                f"{id_}: replicas in {layout} differ by {whole.spread:.2g}"
            )
            other = reference.info.tensors[id_]
            assert other.global_shape == record.global_shape, (
                f"{id_} is {list(other.global_shape)} in {self.layouts[0]} and "
                f"{list(record.global_shape)} in {layout}"
            )
            expected = assemble(reference, other).values
            error = relative_error(expected, whole.values)
            assert error <= self.max_rel_err, (
                f"{id_}: put together from {layout} it differs from "
                f"{self.layouts[0]} by {error:.2g}, relative"
            )

    def test_filters_are_honoured(self, layout: str, filtered: str) -> None:
        everything = self._recorded(layout)
        capture = self._filter(filtered, everything)
        trace = self._recorded(layout, capture=capture)
        ranks = set(capture.recorded_ranks(everything.info.ranks[0].world_size))
        assert {rank.rank for rank in trace.info.ranks} == ranks, (
            f"ranks {[rank.rank for rank in trace.info.ranks]} recorded; {ranks} should"
        )
        expected = [
            id_
            for id_, record in everything.info.tensors.items()
            if capture.wants(id_)
            and not id_.is_index
            and ranks.intersection(shard.rank for shard in record.shards)
        ]
        assert expected, f"no tensor passes the filter {capture.to_json()}"
        found = [id_ for id_ in trace.info.tensors if not id_.is_index]
        lost = [str(id_) for id_ in expected if id_ not in trace.info.tensors]
        # What recording begins with is initial, too.
        excused = {
            id_
            for id_ in found
            if id_.kind in (Kind.PARAM, Kind.BUFFER)
            and id_.step == min(capture.steps or {-1})
        }
        excess = [str(i) for i in set(found).difference(expected, excused)]
        assert not lost, f"{capture.to_json()}: {len(lost)} lost, {lost[0]} first"
        assert not excess, f"{capture.to_json()}: {len(excess)} too many, {excess[0]}"
        different = _first_difference(trace, everything, skips=excused)
        assert different is None, f"{different} has other values under a filter"

    def test_filters_change_no_bit_of_the_training(self, filtered: str) -> None:
        layout = self.layouts[0]
        capture = self._filter(filtered, self._recorded(layout))
        training, _ = self._run(layout, capture=capture)
        difference = self._plain_run(layout).difference(training)
        assert not difference, f"under the filter {capture.to_json()}: {difference}"

    def test_a_full_disk_does_not_reach_the_training(self, layout: str) -> None:
        request = RecordRequest(out=_new_folder())
        plain = self._plain_run(layout)
        try:
            with full_disk(self.max_file_bytes):
                training = self.train(layout, request.to_environment())
        except Exception as error:
            raise AssertionError(
                f"a full disk raised {type(error).__name__} into the training: {error}"
            ) from error
        difference = plain.difference(training)
        assert not difference, f"with a full disk: {difference}"
        try:
            open_trace(request.out)
        except TtraceError:
            return
        raise AssertionError(
            "the trace counts as complete although the disk was full; if the training "
            f"records less than {self.max_file_bytes} bytes, set a lower max_file_bytes"
        )

    def test_noise_changes_values_and_no_ids(self, layout: str) -> None:
        quiet, noisy = self._recorded(layout), self._recorded(layout, noise_seed=1)
        # Nodes that noise adds to a graph may move its hooks within a backward pass.
        _require_same_ids(quiet, noisy, "a noise run", in_order=False)
        for rank in noisy.info.ranks:
            assert rank.noise_seed == 1, (
                f"the noise seed is said to be {rank.noise_seed}"
            )
        for kind in (Kind.OUTPUT, Kind.UPDATED_PARAM):
            assert _first_difference(quiet, noisy, {kind}) is not None, (
                f"noise changes no value of kind {kind}"
            )
        different = _first_difference(quiet, noisy, {Kind.PARAM, Kind.BUFFER})
        assert different is None, f"noise changes the initial value of {different}"

    def test_noise_is_small(self) -> None:
        layout = self.layouts[0]
        quiet, noisy = self._recorded(layout), self._recorded(layout, noise_seed=1)
        for id_, record in quiet.info.tensors.items():
            if id_.kind is Kind.OUTPUT and id_.step == 0 and self.is_compared(id_):
                changed = assemble(noisy, noisy.info.tensors[id_]).values
                error = relative_error(assemble(quiet, record).values, changed)
                assert error <= 0.1, f"noise changes {id_} by {error:.2g}, relative"

    def test_the_noise_seed_decides_the_noise(self, layout: str) -> None:
        first = self._recorded(layout, noise_seed=1)
        second = self._recorded(layout, noise_seed=1, again=True)
        different = _first_difference(first, second)
        assert different is None, f"{different} differs in two runs of one noise seed"
        other = self._recorded(layout, noise_seed=2)
        assert _first_difference(first, other, {Kind.OUTPUT}) is not None, (
            "two noise seeds give the same outputs"
        )

    def test_noise_is_the_same_in_every_layout(self, layout: str) -> None:
        """The first value that noise changes, where it is the same bits without."""
        pairs = [
            (self._recorded(name), self._recorded(name, noise_seed=1))
            for name in (self.layouts[0], layout)
        ]
        (quiet, noisy), (other_quiet, other_noisy) = pairs
        for id_, record in quiet.info.tensors.items():
            other = other_quiet.info.tensors.get(id_)
            if id_.kind not in (Kind.INPUT, Kind.OUTPUT) or other is None:
                continue
            one = assemble(quiet, record).values
            changed = assemble(noisy, noisy.info.tensors[id_]).values
            if id_.is_index or (one == changed).all():
                continue
            if (one != assemble(other_quiet, other).values).any():
                break
            there = assemble(other_noisy, other_noisy.info.tensors[id_]).values
            assert (changed == there).all(), (
                f"{id_}: the noise in {layout} is not that in {self.layouts[0]}"
            )
            return
        raise unittest.SkipTest(
            f"the first value that noise changes is not the same bits in {layout} and "
            f"{self.layouts[0]} without noise"
        )

    def _filter(self, name: str, everything: Trace) -> CaptureFilter:
        info = everything.info
        match name:
            case "kinds":
                return CaptureFilter(kinds=frozenset({Kind.PARAM, Kind.OUTPUT}))
            case "gradients":
                return CaptureFilter(kinds=frozenset({Kind.MAIN_GRAD}))
            case "steps":
                return CaptureFilter(steps=frozenset({1}))
            case "microbatches":
                return CaptureFilter(microbatches=frozenset({0}))
            case "modules":
                outputs = [id_ for id_ in info.tensors if id_.kind is Kind.OUTPUT]
                assert outputs, "no output was recorded"
                return CaptureFilter(modules=(outputs[len(outputs) // 2].module,))
            case _:
                holders = {s.rank for r in info.tensors.values() for s in r.shards}
                return CaptureFilter(ranks=frozenset({max(holders)}))

    def _plain_run(self, layout: str) -> Training:
        if layout not in self._plain:
            # Whoever runs the suite may have been asked for a trace itself.
            with in_environment({RECORD_VARIABLE: ""}):
                self._plain[layout] = self.train(layout, {})
        return self._plain[layout]

    def _recorded(self, layout: str, **options: Any) -> Trace:
        return self._run(layout, **options)[1]

    def _run(
        self,
        layout: str,
        *,
        capture: CaptureFilter | None = None,
        noise_seed: int | None = None,
        again: bool = False,
    ) -> tuple[Training, Trace]:
        capture = capture or CaptureFilter()
        key = (layout, repr(sorted(capture.to_json().items())), noise_seed, again)
        if key not in self._recordings:
            request = RecordRequest(
                out=_new_folder(), capture=capture, noise_seed=noise_seed
            )
            training = self.train(layout, request.to_environment())
            self._recordings[key] = training, open_trace(request.out)
        return self._recordings[key]


def _new_folder() -> Path:
    """A folder that does not exist, removed when the process ends."""
    parent = Path(tempfile.mkdtemp(prefix="ttrace-conformance-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    return parent / "trace"


def _require_same_ids(
    first: Trace, second: Trace, what: str, *, in_order: bool = True
) -> None:
    for part in ("tensors", "skipped"):
        before, after = (list(getattr(t.info, part)) for t in (first, second))
        changed = sorted(map(str, set(before) ^ set(after)))
        assert not changed, (
            f"{what} has other ids among its {part}: {len(changed)} of them, "
            f"{changed[0]} first"
        )
        assert before == after or not in_order, (
            f"{what} has its {part} in another order"
        )


def _first_difference(
    first: Trace,
    second: Trace,
    kinds: set[Kind] | None = None,
    *,
    skips: Collection[TensorId] = (),
) -> str | None:
    """The first shard of ``first`` that is other bits, or is not, in ``second``."""
    for id_, record in first.info.tensors.items():
        if id_ in skips or (kinds is not None and id_.kind not in kinds):
            continue
        held = second.info.tensors.get(id_)
        others = {shard.rank: shard for shard in held.shards} if held else {}
        for shard in record.shards:
            other = others.get(shard.rank)
            if (
                other is None
                or (shard.dtype, shard.layout) != (other.dtype, other.layout)
                or first.load(shard).tobytes() != second.load(other).tobytes()
            ):
                return f"{id_} of rank {shard.rank}"
    return None
