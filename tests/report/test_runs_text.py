"""What the runs were: ranks, meshes, and over what parameters are sharded."""

import json

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report
from ttrace.report.runs_text import runs_lines

VALUES = np.arange(16, dtype=np.float32).reshape(4, 4)


def lines(dims: dict[str, str | None], sizes: dict[str, int]) -> list[str]:
    """Of a run on one rank, and of one whose parameters have some dims."""
    reference = memory_trace(
        {f"step0/{name}/param/weight": VALUES for name in dims or {"a": None}}
    )
    candidate = memory_trace(
        {
            f"step0/{name}/param/weight": Tensor(full=VALUES, dims=text)
            for name, text in dims.items()
        },
        sizes,
    )
    report = compare_traces(reference, candidate, NumpyBackend())
    assert Report.from_json(json.loads(report.json_text())) == report
    return list(runs_lines(report.setup))


@pytest.mark.parametrize(
    ("dims", "sizes", "expected"),
    [
        (
            {"a": "i j", "b": "i j"},
            {"dp": 2},
            "2 ranks (dp 2), none of its 2 parameters sharded",
        ),
        (
            {"a": "i[dp] j", "b": "i[dp] j[tp]", "c": "i j[tp]"},
            {"dp": 2, "tp": 2},
            "4 ranks (dp 2, tp 2), 2 of its 3 parameters sharded over dp, 2 over tp",
        ),
        (
            {"a": "i[dp,tp] j", "b": "i j"},
            {"dp": 2, "tp": 2, "pp": 1},
            "4 ranks (dp 2, tp 2), 1 of its 2 parameters sharded over dp, 1 over tp",
        ),
    ],
)
def test_what_parameters_are_sharded_over(dims, sizes, expected):
    assert lines(dims, sizes) == [
        f"runs: the reference on 1 rank; the candidate on {expected}"
    ]


def test_two_single_ranks_say_nothing():
    assert lines({"a": None}, {"dp": 1}) == []


def test_devices_of_jax_that_hold_nothing_are_no_ranks_of_the_run():
    on_one = Tensor(full=VALUES, holders=(0,))
    wide = memory_trace({"step0/a/param/w": VALUES}, {"dp": 4}, framework="jax")
    idle = memory_trace({"step0/a/param/w": on_one}, {"dp": 4}, framework="jax")

    def said(reference, candidate):
        report = compare_traces(reference, candidate, NumpyBackend())
        assert Report.from_json(json.loads(report.json_text())) == report
        return list(runs_lines(report.setup))

    assert said(idle, idle) == []
    (line,) = said(idle, wide)
    assert line == (
        "runs: the reference on 1 rank; the candidate on 4 ranks (dp 4), none of its "
        "1 parameters sharded"
    )
