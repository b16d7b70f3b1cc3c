"""Models that torch shards itself, in real processes, against one process.

README's two lines on a script, nothing else: parameters, main gradients, optimizer
state and updated parameters are DTensors and are recorded as what each rank holds.
"""

import itertools
from pathlib import Path

import pytest

from ttrace.examples.worker_pool import WorkerPools
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import Trace, open_trace
from ttrace.testing.assembled import assemble, errors, relative_error

pytest.importorskip("torch")

MODULE = "tests.factories.dtensor_job"

LAYOUTS = [("fsdp", 2), ("fsdp", 4), ("hsdp", 4), ("tp", 2), ("fsdp-tp", 4)]

KINDS = (Kind.PARAM, Kind.MAIN_GRAD, Kind.OPTIMIZER_STATE, Kind.UPDATED_PARAM)

ROUNDING = 5e-6
"""Relative error of a correct layout in float32: 3e-7 seen."""


class Runs:
    """Runs of the job, each once; worker processes stay alive.

    Args:
        folder: For the traces.
        pools: Their processes.
    """

    def __init__(self, folder: Path, pools: WorkerPools):
        self._folder = folder
        self._pools = pools
        self._numbers = itertools.count()
        self._traces: dict[tuple[str, int], tuple[Trace, list[str]]] = {}

    def printed(
        self, layout: str, world_size: int, request: RecordRequest | None = None
    ) -> list[str]:
        """What each rank prints: its parameters in the end, in every bit."""
        outcomes = self._pools.of_size(world_size).run(
            MODULE,
            [layout],
            environment=request.to_environment() if request else None,
        )
        for outcome in outcomes:
            assert outcome.status == 0, outcome.output + outcome.error
        return [outcome.output for outcome in outcomes]

    def recorded(
        self, layout: str, world_size: int, *, noise_seed: int | None = None
    ) -> tuple[Trace, list[str]]:
        """The trace of a run, and what its ranks print."""
        key = (f"{layout}/{noise_seed}", world_size)
        if key not in self._traces:
            out = self._folder / f"trace{next(self._numbers)}"
            request = RecordRequest(out=out, noise_seed=noise_seed)
            printed = self.printed(layout, world_size, request)
            self._traces[key] = open_trace(out), printed
        return self._traces[key]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pools) -> Runs:
    return Runs(tmp_path_factory.mktemp("sharded"), pools)


@pytest.mark.parametrize(("layout", "world_size"), LAYOUTS)
def test_what_an_optimizer_sees_is_that_of_one_process(runs, layout, world_size):
    reference, _ = runs.recorded("one", 1)
    candidate, _ = runs.recorded(layout, world_size)
    wanted = {id_ for id_ in reference.info.tensors if id_.kind in KINDS}
    assert {id_.kind for id_ in wanted} == set(KINDS)
    assert not wanted & candidate.info.skipped.keys()
    found = errors(reference, candidate, lambda id_: id_.kind in KINDS)
    assert found.keys() == wanted
    for id_, error in found.items():
        assembled = assemble(candidate, candidate.info.tensors[id_])
        assert assembled.is_covered and assembled.spread == 0.0, id_
        assert error <= (0.0 if id_.kind is Kind.PARAM else ROUNDING), id_


@pytest.mark.parametrize(("layout", "world_size"), LAYOUTS)
def test_recording_changes_no_bit(runs, layout, world_size):
    _, printed = runs.recorded(layout, world_size)
    assert printed == runs.printed(layout, world_size)


def test_shards_are_recorded_as_what_each_rank_holds(runs):
    trace, _ = runs.recorded("fsdp-tp", 4)
    (up,) = (
        record
        for id_, record in trace.info.tensors.items()
        if str(id_) == "step0/up/main_grad/weight"
    )
    starts = [s.layout.blocks[0].region.start[0] for s in up.shards]
    assert [s.layout.local_shape for s in up.shards] == [(3, 6)] * 4
    assert starts == [0, 6, 3, 9]  # tp cuts first, then dp
    (mesh,) = {s.layout.mesh for s in up.shards}
    assert mesh == "dp=2,tp=2"


@pytest.mark.parametrize(("layout", "world_size"), [("fsdp", 2), ("fsdp-tp", 4)])
def test_unsharded_parameters_tell_the_gradients_of_microbatches(
    runs, layout, world_size
):
    """With the ranks as known factor, as FSDP averages over them afterwards."""
    trace, _ = runs.recorded(layout, world_size)
    gradients = {
        id_: record
        for id_, record in trace.info.tensors.items()
        if id_.kind is Kind.PARAM_GRAD
    }
    assert {id_.microbatch for id_ in gradients} == {0, 1}
    scales = {s.scale for record in gradients.values() for s in record.shards}
    assert scales == {2.0}
    assert not any(id_.kind is Kind.PARAM_GRAD for id_ in trace.info.skipped)


def test_ranks_that_share_the_model_share_their_microbatches(runs):
    reference, _ = runs.recorded("one", 1)
    candidate, _ = runs.recorded("tp", 2)
    id_ = parse_tensor_id("step0/mb0/up/param_grad/weight")
    shards = candidate.info.tensors[id_].shards
    starts = [shard.layout.blocks[0].region.start for shard in shards]
    assert starts == [(0, 0), (6, 0)]
    whole = reference.load(reference.info.tensors[id_].shards[0])
    for shard, rows in zip(shards, (whole[:6], whole[6:]), strict=True):
        assert relative_error(rows, candidate.load(shard)) <= ROUNDING


@pytest.mark.parametrize(("layout", "world_size"), [("fsdp", 2), ("tp", 2)])
def test_noise_does_not_disturb_a_sharded_run(runs, layout, world_size):
    plain, _ = runs.recorded(layout, world_size)
    noised, _ = runs.recorded(layout, world_size, noise_seed=1)
    assert noised.info.tensors.keys() == plain.info.tensors.keys()
    found = errors(plain, noised, lambda id_: id_.kind is Kind.MAIN_GRAD)
    assert 0 < max(found.values()) < 1e-4
