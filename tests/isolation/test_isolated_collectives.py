"""Mistakes in collectives of a model that is cut by hand over four processes.

Each is recorded with its collectives and without: the run of an isolation records those
of its suspects.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.factories import collective_mistakes
from tests.factories.recorded_job import Record, recorder
from tests.paths import ROOT
from ttrace.compare.backend import load_backend
from ttrace.comparison import compare_traces
from ttrace.examples.worker_pool import WorkerPools
from ttrace.ir.capture_filter import CaptureFilter, parse_kinds
from ttrace.ir.kinds import Kind
from ttrace.isolation.isolating import IsolationRequest, isolate, suspects_of
from ttrace.judge.diagnosis import Diagnosis
from ttrace.pipeline import lint
from ttrace.store.reader import Trace, open_trace

OUTPUT = "step0/mb0/layers.1.fc2/output/0"
FILE = "tests/factories/collective_mistakes.py"


def line_of(text: str) -> str:
    lines = Path(collective_mistakes.__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, start=1) if text in line]
    return f"{FILE}:{number}"


REDUCED = line_of("dist.all_reduce(x, op=op, group=group)")
AGAIN = line_of("dist.all_reduce(x, group=place.tp_group)")


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Iterator[Record]:
    with WorkerPools() as pools, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        folder = tmp_path_factory.mktemp("jobs")
        yield recorder(pools, folder, "tests.factories.collective_mistakes")


@pytest.fixture(scope="module")
def reference(record) -> Trace:
    return open_trace(record(1, "right"))


@pytest.fixture(scope="module")
def with_collectives(record) -> Callable[[str], Trace]:
    capture = CaptureFilter(kinds=parse_kinds("default,collective"))
    traces: dict[str, Trace] = {}

    def trace(case: str) -> Trace:
        if case not in traces:
            traces[case] = open_trace(record(4, case, capture=capture))
        return traces[case]

    return trace


def sentences(found: tuple[Diagnosis, ...]) -> dict[str, str]:
    return {one.code: one.sentence for one in found if "collective" in one.code}


def test_a_right_run_shows_nothing(reference, with_collectives):
    trace = with_collectives("right")
    assert lint(trace, backend=load_backend("numpy")) == ()
    report = compare_traces(reference, trace, load_backend("numpy"))
    assert report.verdict == "pass" and not report.diagnosis


LINT = {
    "missing": (
        "collective_missing",
        "was recorded in that forward of layers.1.fc2; in layers.0.fc2 all_reduce at "
        f"{REDUCED} runs over tp ",
    ),
    "twice": (
        "collective_repeated",
        f"all_reduce at {AGAIN} in layers.1.fc2 sums over tp ",
    ),
    "wrong-group": ("collective_missing", f"what ran there is all_reduce at {REDUCED}"),
    "in-flight": (
        "collective_result",
        f"what all_reduce at {line_of('group=place.tp_group, async_op=True')} gave",
    ),
    "not-averaged": ("collective_missing", "that is as large was recorded in step 0"),
}


@pytest.mark.parametrize("case", LINT)
def test_what_needs_no_reference(with_collectives, case):
    code, text = LINT[case]
    found = sentences(lint(with_collectives(case), backend=load_backend("numpy")))
    assert text in found[code]


CHECK = {
    "missing": ("collective_missing", f"{OUTPUT} must agree over tp [0, 1]"),
    "twice": ("collective_repeated", f"all_reduce at {AGAIN} in layers.1.fc2 sums"),
    "wrong-group": (
        "collective_group",
        f"all_reduce at {REDUCED} in layers.1.fc2 sums over dp ",
    ),
    "other-operation": (
        "collective_group",
        f"all_reduce at {REDUCED} in layers.1.fc2 runs max over tp [0, 1]; the sum of ",
    ),
}


@pytest.mark.parametrize("case", CHECK)
def test_a_comparison_names_it_first(reference, with_collectives, case):
    report = compare_traces(reference, with_collectives(case), load_backend("numpy"))
    code, text = CHECK[case]
    assert report.diagnosis[0].code == code
    assert report.diagnosis[0].sentence.startswith(text)


@pytest.mark.parametrize("case", ["twice", "wrong-group"])
def test_an_isolation_records_those_of_its_suspects(record, reference, tmp_path, case):
    candidate = open_trace(record(4, case))
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert not sentences(report.diagnosis)
    assert suspects_of(report)[0] == "layers.1.fc2"
    again: list[Trace] = []

    def rerun(values: Path, capture: CaptureFilter) -> Trace:
        again.append(open_trace(record(4, case, rewrite=values, capture=capture)))
        return again[0]

    request = IsolationRequest(
        reference=reference,
        candidate=candidate,
        rerun=rerun,
        folder=tmp_path / "values",
        suspects=suspects_of(report),
    )
    isolation = isolate(request, load_backend("numpy"), step=0)
    assert [place.module for place in isolation.isolated] == ["layers.1.fc2"]
    code, text = CHECK[case]
    assert any(note.startswith(f"in that run, {text}") for note in isolation.notes)
    ids = [id_ for id_ in again[0].info.tensors if id_.kind is Kind.COLLECTIVE]
    assert {id_.module for id_ in ids} <= set(request.suspects)
