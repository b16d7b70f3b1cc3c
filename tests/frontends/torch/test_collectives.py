"""Collectives of real processes: recorded right, and without changing a bit."""

import itertools
from pathlib import Path

import pytest
import torch

from tests.factories import collective_job
from ttrace.compare.collectives.collective_results import check_collectives
from ttrace.examples.worker_pool import WorkerPools
from ttrace.ir.capture_filter import CaptureFilter, parse_kinds
from ttrace.ir.collective import CollectivePart
from ttrace.ir.kinds import Kind
from ttrace.judge.collectives import collective_faults
from ttrace.pipeline import compare
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import Trace, open_trace

LINE = "tests/factories/collective_job.py:"


class Runs:
    """Runs of a job, each once, on processes that stay."""

    def __init__(self, folder: Path, pools: WorkerPools):
        self._folder, self._pools = folder, pools
        self._traces: dict[tuple, Trace] = {}
        self._numbers = itertools.count()

    def trace(
        self, size: int, case: str, job: str = "collective_job", kinds="collective"
    ) -> Trace:
        key = (size, case, job, kinds)
        if key not in self._traces:
            out = self._folder / str(next(self._numbers))
            capture = CaptureFilter(kinds=parse_kinds(kinds))
            self.output(size, case, job, RecordRequest(out=out, capture=capture))
            self._traces[key] = open_trace(out)
        return self._traces[key]

    def output(
        self,
        size: int,
        case: str,
        job: str = "collective_job",
        request: RecordRequest | None = None,
    ) -> list[str]:
        outcomes = self._pools.of_size(size).run(
            f"tests.factories.{job}",
            [case],
            environment={} if request is None else request.to_environment(),
            timeout_s=240,
        )
        assert [o.status for o in outcomes] == [0] * size, outcomes
        return [outcome.output for outcome in outcomes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pools):
    return Runs(tmp_path_factory.mktemp("runs"), pools)


def parts(trace: Trace, rank: int = 0) -> dict[str, CollectivePart]:
    found = {}
    for id_, record in trace.info.tensors.items():
        (shard,) = record.shards
        if shard.rank == rank:
            assert id_.kind is Kind.COLLECTIVE and shard.collective is not None
            found[str(id_)] = shard.collective
    return found


def line_of(text: str) -> str:
    lines = Path(collective_job.__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, start=1) if text in line]
    return f"{LINE}{number}"


def test_tracing_changes_no_bit(runs, tmp_path):
    request = RecordRequest(
        out=tmp_path / "trace", capture=CaptureFilter(kinds=frozenset(Kind))
    )
    plain, traced = runs.output(2, "every"), runs.output(2, "every", request=request)
    # A release of torch warns of names that it is going to take away, once a process.
    assert [o.splitlines()[-1] for o in plain] == [o.splitlines()[-1] for o in traced]
    assert all(output.splitlines()[-1].startswith("bits") for output in plain)


def test_every_collective_is_recorded_and_is_what_it_is_defined_to_be(runs):
    trace = runs.trace(2, "every")
    checks = check_collectives(trace)
    assert {check.call.part.name for check in checks} == {
        "all_reduce",
        "all_gather",
        "all_gather_into_tensor",
        "all_to_all",
        "all_to_all_single",
        "broadcast",
        "gather",
        "reduce",
        "reduce_scatter",
        "reduce_scatter_tensor",
        "scatter",
    }
    assert not any(check.reason or check.wrong for check in checks)
    assert {rank for check in checks for rank in check.call.shares} == {0, 1}
    # In each of two steps, of two micro-batches: 16 forward, 1 backward.
    assert len(checks) == 4 * 17
    assert all(check.num_checked for check in checks)
    assert collective_faults(trace) == ()
    assert not trace.info.skipped


def test_a_collective_says_where_it_ran(runs):
    found = parts(runs.trace(2, "every"), rank=1)
    first = found["step0/mb1/@root/collective/all_reduce.0.operand.rank1"]
    assert (first.reduction, first.group, first.root) == ("sum", (0, 1), None)
    assert first.source == line_of("dist.all_reduce(total)")
    backward = "step0/mb1/copied/collective/all_reduce.backward.0.result.rank1"
    assert found[backward].source == line_of("dist.all_reduce(gradient)")
    assert found[backward].library == ""
    sent = found["step1/mb3/@root/collective/broadcast.0.operand.rank1"]
    assert sent.root == 1
    rows = found["step0/mb1/@root/collective/all_to_all_single.0.operand.rank1"]
    assert rows.splits == (2, 2)


def test_what_a_rank_neither_sends_nor_gets_is_not_recorded(runs):
    ids = parts(runs.trace(2, "every"))
    assert not any("broadcast.0.operand" in id_ for id_ in ids)
    assert not any("reduce.0.result" in id_ for id_ in ids if "/reduce." in id_)
    assert any("/gather.0.result.1" in id_ for id_ in ids)


def test_paused_collectives_count_and_are_not_recorded(runs):
    numbers = {part.number for part in parts(runs.trace(2, "every")).values()}
    assert max(numbers) == 2 * 35 - 2
    assert not numbers & {34, 69}


def test_ranks_that_reduce_otherwise_are_named(runs):
    (finding,) = collective_faults(runs.trace(2, "mixed"))
    line = line_of("dist.all_reduce(given.clone(), op=op)")
    assert finding.code == "collective_order"
    assert f"rank 0 runs all_reduce at {line} (sum of float32 [4, 8])" in (
        finding.sentence
    )
    assert f"and rank 1 runs all_reduce at {line} (max of float32 [4, 8])" in (
        finding.sentence
    )


def test_what_nobody_waits_for_is_skipped(runs):
    trace = runs.trace(2, "lost")
    ids = [id_ for id_ in trace.info.skipped if ".result" in (id_.slot or "")]
    assert len(ids) == 8
    assert "call wait()" in trace.info.skipped[ids[0]].reason


def test_two_runs_of_one_layout_are_compared(runs):
    right, wrong = runs.trace(4, "groups"), runs.trace(4, "wrong-group")
    assert collective_faults(right) == collective_faults(wrong) == ()
    report = compare(right.path, right.path, backend="numpy")
    assert report.counts.passed == len(right.info.tensors)
    report = compare(right.path, wrong.path, backend="numpy")
    found = report.diagnosis[0]
    line = line_of("group=own[0]")
    assert found.code == "collective_differs"
    assert found.sentence.startswith(
        f"all_reduce at {line} in @root runs sum over ranks [0, 2], and in the "
        f"reference, at {line}, sum over ranks [0, 1]: give it the group"
    )


@pytest.mark.parametrize(
    ("size", "layout", "names"),
    [
        (2, "ddp", {"all_reduce", "broadcast"}),
        (2, "fsdp", {"all_gather_into_tensor", "reduce_scatter_tensor"}),
        (2, "sp", {"all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce"}),
        (
            4,
            "tp-fsdp",
            {"all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce"},
        ),
    ],
)
def test_layouts_of_torch(runs, size, layout, names):
    trace = runs.trace(size, layout, "native_job")
    checks = check_collectives(trace)
    assert {check.call.part.name for check in checks} >= names
    assert collective_faults(trace) == ()
    assert not any(check.wrong or check.reason for check in checks)
    skipped = {id_.slot.partition(".")[0] for id_ in trace.info.skipped}
    assert skipped == ({"broadcast"} if layout == "ddp" else set())
    for part in parts(trace).values():
        assert part.source.startswith("tests/factories/native_job.py:")


class Deaf:
    """An observer that hears nothing."""

    def before(self, call):
        return None

    def after(self, token, work):
        pass

    def waited(self, work):
        pass

    def waited_for_tensor(self, tensor):
        pass


def test_the_operators_are_as_before_when_a_trace_ends():
    from ttrace.frontends.torch_parts.collective_kernels import observed_collectives

    def registered():
        return [
            torch._C._dispatch_dump(f"c10d::{name}")
            for name in ("allreduce_", "_allgather_base_")
        ]

    before, wait = registered(), torch.distributed.Work.wait
    with observed_collectives(Deaf()):
        assert registered() != before
        assert torch.distributed.Work.wait is not wait
    assert registered() == before
    assert torch.distributed.Work.wait is wait
