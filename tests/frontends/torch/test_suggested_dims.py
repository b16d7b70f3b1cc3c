"""What a message says to write for a plain tensor is right, for every parallel style.

Two processes with a style run without any dims text first. What the trace and the
report then say to write is written, and everything is compared.
"""

import json
import re
from pathlib import Path

import pytest

from tests.factories.recorded_job import Record, recorder
from tests.factories.style_job import STYLES
from ttrace.pipeline import compare
from ttrace.report.model import Report
from ttrace.store.reader import Trace, open_trace

pytest.importorskip("torch")

MODULE = "tests.factories.style_job"

WRITE = re.compile(r"dims=\{'([^']+)': '([^']+)'\}")
OR = re.compile(r"partial: '([^']+)' says the first, '([^']+)' the second")

DIMS = re.compile(r"torch_capture\.trace\(\.\.\., dims=(\{.*?\})\)")

PARTIAL = ("after/output/0",)
"""What is a partial where a row-wise linear returns one."""

ALL_KNOWN = ("colwise-dtensor", "output-dtensor")
"""Styles that leave no tensor between column-wise and row-wise linears plain."""


@pytest.fixture(scope="module")
def record(pools, tmp_path_factory) -> Record:
    return recorder(pools, tmp_path_factory.mktemp("styles"), MODULE)


@pytest.fixture(scope="module")
def reference(record) -> Path:
    return record(1, "colwise", "{}")


def compared(reference: Path, candidate: Path) -> Report:
    return compare(reference, candidate, backend="numpy")


def unknown(trace: Trace) -> dict[str, str]:
    """Why layouts are not known, by id; not of those that are assumed."""
    reasons = {str(id_): r.reason for id_, r in trace.info.skipped.items()}
    for id_, tensor in trace.info.tensors.items():
        layout = tensor.shards[0].layout
        if layout.unknown_reason and not layout.assumed_axes:
            reasons[str(id_)] = layout.unknown_reason
    return {id_: reason for id_, reason in reasons.items() if "dims=" in reason}


def texts_of(trace: Trace, report: Report, style: str) -> dict[str, str]:
    """The dims that messages say to write."""
    texts: dict[str, str] = {}
    for reason in (*unknown(trace).values(), *report.counts.skipped_reasons):
        found = WRITE.search(reason)
        if found is None:
            continue
        key, text = found.groups()
        either = OR.search(reason)
        if either is not None:
            is_partial = style == "rowwise-partial" and key in PARTIAL
            text = either.group(2 if is_partial else 1)
            texts[key] = text
        texts.setdefault(key, text)
    return texts


@pytest.mark.parametrize("style", STYLES)
def test_what_a_message_says_to_write_is_right(record, reference, style):
    first = record(2, style, "{}")
    report = compared(reference, first)
    assert report.verdict == "pass", report.summary
    trace = open_trace(first)
    asked = unknown(trace)
    assert bool(asked) is (style not in ALL_KNOWN)
    texts = texts_of(trace, report, style)
    assert bool(texts) is bool(asked)

    second = record(2, style, json.dumps(texts))
    assert not unknown(open_trace(second))
    report = compared(reference, second)
    assert report.verdict == "pass", report.summary
    of_ids = {tensor.id: tensor for tensor in report.tensors}
    for id_ in asked:
        assert of_ids[id_].rel_err is not None, (id_, of_ids[id_].reason)
    assert not [r for r in report.counts.skipped_reasons if "dims" in r]


def test_plain_parameters_beside_dtensors_are_described_as_the_report_says(
    record, reference
):
    """What is known of the DTensors stays, and the parts of a rank are told."""
    report = compared(reference, record(2, "own-cut", "{}"))
    assert report.verdict == "error"
    found = DIMS.search(report.summary)
    assert found is not None, report.summary
    texts = json.loads(found[1])
    assert texts["block.up/*/weight"] == "d0[tp:parts(2)] d1"
    assert texts["block.down/*/weight"] == "d0 d1[tp:parts(2)]"

    described = record(2, "own-cut", json.dumps(texts))
    report = compared(reference, described)
    assert report.verdict == "pass", report.summary
    of_ids = {tensor.id: tensor for tensor in report.tensors}
    for kind in ("param", "main_grad", "updated_param"):
        for name in ("first", "block.up", "block.down"):
            assert of_ids[f"step0/{name}/{kind}/weight"].status == "passed"
    assert of_ids["step0/mb0/block.up/output/0"].status == "passed"


def test_a_partial_is_compared_as_the_sum(record, reference):
    first = record(2, "rowwise-partial", "{}")
    texts = texts_of(open_trace(first), compared(reference, first), "rowwise-partial")
    assert texts["after/output/0"] == "b s f partial[tp]"
    # All of it on each rank, said of a partial, is found to be wrong.
    wrong = record(
        2, "rowwise-partial", json.dumps(texts | {"after/output/0": "b s f"})
    )
    report = compared(reference, wrong)
    assert report.verdict == "diverged"
    assert report.first_divergence is not None
    assert report.first_divergence.module == "after"


def test_a_text_that_does_not_fit_is_skipped_with_the_text(record, reference):
    trace = record(2, "colwise", json.dumps({"block.mid/output/0": "b f[tp]"}))
    (reason,) = {
        reason
        for reason in compared(reference, trace).counts.skipped_reasons
        if "block.mid" in reason
    }
    assert "dims, 'block.mid/output/0': 'b f[tp]'" in reason


def test_one_process_runs_the_same_script(record, reference):
    """It has no such axis."""
    trace = record(1, "colwise", json.dumps({"block.mid": "b s f[tp]"}))
    assert compared(reference, trace).verdict == "pass"
