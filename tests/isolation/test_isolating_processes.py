"""Which modules are named of models over two processes: DDP, FSDP2, DTensor."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import isolated_job
from tests.factories.recorded_job import Record, recorder
from tests.paths import ROOT
from ttrace.compare.backend import load_backend
from ttrace.examples.worker_pool import WorkerPools
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.isolation.isolating import IsolationRequest, isolate
from ttrace.report.isolation import Isolation
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


def isolated(record, reference, folder, way, bugs, *, inside=False) -> Isolation:
    def rerun(values: Path, capture: CaptureFilter) -> Trace:
        return open_trace(record(2, way, *bugs, rewrite=values, capture=capture))

    def record_reference(capture: CaptureFilter) -> Trace:
        return open_trace(record(1, "none", "right", "right", capture=capture))

    request = IsolationRequest(
        reference=reference,
        candidate=open_trace(record(2, way, *bugs)),
        rerun=rerun,
        folder=folder / "values",
        rerun_again=rerun if inside else None,
        record_reference=record_reference if inside else None,
    )
    return isolate(request, load_backend("numpy"), step=0)


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
    isolation = isolated(record, reference, tmp_path, way, bugs)
    assert isolation.obstacle == "" and not isolation.notes
    assert [place.module for place in isolation.isolated] == expected
    assert isolation.num_overwritten > 20
    assert not isolation.left_out


def line_of(text: str) -> str:
    lines = Path(isolated_job.__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, start=1) if text in line]
    return f"tests/factories/isolated_job.py:{number}"


@pytest.mark.parametrize(
    ("way", "bugs", "line", "factor"),
    [
        ("ddp", ("right", "scales"), "return x + y * (1.01", 1.01),
        # On the local tensors of DTensors, behind an all-reduce of partial sums.
        ("tp", ("right", "averages"), "return total * factor", 0.5),
    ],
)
def test_the_wrong_operation_is_named_with_its_line(
    record, reference, tmp_path, way, bugs, line, factor
):
    isolation = isolated(record, reference, tmp_path, way, bugs, inside=True)
    (place,) = isolation.isolated
    found = place.operation
    assert found is not None and not isolation.notes
    assert (found.name, found.source, found.what) == (
        "mul",
        line_of(line),
        "other_result",
    )
    assert found.reference_source == line_of("return x + y * (1.01")
    assert found.factor == pytest.approx(factor)
