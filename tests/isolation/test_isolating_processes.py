"""Which modules are named of models over two processes: DDP, FSDP2, DTensor."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories.recorded_job import Record, recorder
from tests.paths import ROOT
from ttrace.compare.backend import load_backend
from ttrace.examples.worker_pool import WorkerPools
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.isolation.isolating import IsolationRequest, isolate
from ttrace.store.reader import Trace, open_trace


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Iterator[Record]:
    with WorkerPools() as pools, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        folder = tmp_path_factory.mktemp("jobs")
        yield recorder(pools, folder, "tests.factories.isolated_job")


@pytest.fixture(scope="module")
def reference(record) -> Trace:
    return open_trace(record(1, "none", "right", "right"))


@pytest.mark.parametrize(
    ("way", "bugs", "expected"),
    [
        ("ddp", ("right", "right"), []),
        ("ddp", ("right", "scales"), ["layers.1"]),
        ("fsdp2", ("scales", "right"), ["layers.0"]),
        ("tp", ("right", "right"), []),
        ("tp", ("right", "averages"), ["layers.1"]),
        ("tp", ("averages", "scales"), ["layers.0"]),  # of one form: one place
    ],
)
def test_exactly_the_wrong_modules_are_named(
    record, reference, tmp_path, way, bugs, expected
):
    def rerun(values: Path, capture: CaptureFilter) -> Trace:
        return open_trace(record(2, way, *bugs, rewrite=values, capture=capture))

    request = IsolationRequest(
        reference=reference,
        candidate=open_trace(record(2, way, *bugs)),
        rerun=rerun,
        folder=tmp_path / "values",
    )
    isolation = isolate(request, load_backend("numpy"), step=0)
    assert isolation.obstacle == "" and not isolation.notes
    assert [place.module for place in isolation.isolated] == expected
    assert isolation.num_overwritten > 20
    assert not isolation.left_out
