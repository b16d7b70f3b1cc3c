"""Recorded runs of the Megatron example, and what must hold of a correct layout."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from ttrace.examples.worker_pool import Outcome, WorkerPools
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import Trace, open_trace
from ttrace.testing.assembled import assemble, errors

MODULE = "ttrace.examples.megatron_gpt.train"

SIZES = tuple(
    "--num-layers 4 --hidden-size 32 --num-attention-heads 4 --seq-length 16 "
    "--vocab-size 64 --train-iters 1 --global-batch-size 8".split()
)

ROUNDING = 5e-6
"""Relative error of a correct layout in float32: 7e-7 seen, of any tensor but below."""

EXACT = (Kind.PARAM, Kind.MAIN_GRAD, Kind.UPDATED_PARAM)


class Recordings:
    """Records runs of one size of model, each once.

    Args:
        folder: For the traces.
        pools: Workers that stay alive.
    """

    def __init__(self, folder: Path, pools: WorkerPools):
        self._folder = folder
        self._pools = pools
        self._numbers = itertools.count()
        self._traces: dict[tuple[int, tuple[str, ...]], Trace] = {}

    def trace(self, world_size: int, options: Sequence[str]) -> Trace:
        """The trace of a run with these options."""
        key = (world_size, tuple(options))
        if key not in self._traces:
            request = RecordRequest(out=self._folder / f"trace{next(self._numbers)}")
            outcomes = self.run(world_size, options, request.to_environment())
            for outcome in outcomes:
                assert outcome.status == 0, outcome.output + outcome.error
            self._traces[key] = open_trace(request.out)
        return self._traces[key]

    def recorded_output(self, world_size: int, options: Sequence[str]) -> str:
        """What rank 0 of a recorded run prints."""
        request = RecordRequest(out=self._folder / f"trace{next(self._numbers)}")
        return self.run(world_size, options, request.to_environment())[0].output

    def run(
        self,
        world_size: int,
        options: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> list[Outcome]:
        """How a run with these options ends, on every rank."""
        return self._pools.of_size(world_size).run(
            MODULE, [*SIZES, *options], environment=environment, timeout_s=120
        )


def assert_correct(reference: Trace, candidate: Trace) -> None:
    """Every tensor equals that of one process; replicas of parameters bit for bit."""
    found = errors(reference, candidate, _is_plain)
    worst = max(found, key=lambda id_: found[id_])
    assert found[worst] < ROUNDING, f"{worst}: {found[worst]:.1e}"
    given = errors(reference, candidate, lambda id_: id_.kind is Kind.PARAM)
    assert set(given.values()) == {0.0}
    for id_, record in candidate.info.tensors.items():
        if id_.is_index:
            continue
        assembled = assemble(candidate, record)
        assert assembled.is_covered, id_
        assert assembled.spread == 0 or id_.kind not in EXACT, id_


def assert_complete(
    reference: Trace, candidate: Trace, *, skipped: Mapping[str, str] | None = None
) -> None:
    """Nothing is missing, nothing is new, and only what is expected is skipped.

    Args:
        reference: The run of one process.
        candidate: The run of several.
        skipped: Start of the reason why tensors of a module are skipped in the
            candidate only, by path of the module.
    """
    recorded = candidate.info.tensors.keys()
    only_skipped = candidate.info.skipped.keys() - recorded
    missing = reference.info.tensors.keys() - recorded - only_skipped
    assert not missing
    assert not recorded - reference.info.tensors.keys()
    reasons = {
        id_.module: candidate.info.skipped[id_].reason
        for id_ in only_skipped - reference.info.skipped.keys()
    }
    expected = skipped or {}
    assert reasons.keys() == expected.keys()
    for module, reason in reasons.items():
        assert reason.startswith(expected[module])


def _is_plain(id_: TensorId) -> bool:
    # Adam's first step turns a gradient of 1e-9 into a whole step of either sign.
    return id_.kind is not Kind.UPDATED_PARAM
