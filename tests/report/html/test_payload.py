"""What the page's script reads is what the report says."""

import math
from dataclasses import replace

import pytest

from tests.factories.large_reports import large_report
from tests.factories.reports import FAILED, PASSED, some_report
from ttrace.report.html.payload import (
    CHUNK,
    build_payload,
    log_level,
    pack,
    shortened,
    tensor_details,
    unpack,
)
from ttrace.testing.report_samples import CONTROLS, HOSTILE, diverged_report, reports


def summary_of(report, **options):
    return unpack(build_payload(report, **options).summary)


def ids_in(summary):
    columns, tables = summary["columns"], summary["tables"]
    names = ("prefix", "module", "suffix")
    return [
        "".join(
            tables[name][number] for name, number in zip(names, numbers, strict=True)
        )
        for numbers in zip(*(columns[name] for name in names), strict=True)
    ]


@pytest.mark.parametrize("name", ["pass", "diverged", "nonfinite", "many tensors"])
def test_the_columns_hold_every_tensor(name):
    report = reports()[name]
    summary = summary_of(report)
    columns, tables = summary["columns"], summary["tables"]
    assert ids_in(summary) == [tensor.id for tensor in report.tensors]
    for field in ("kind", "status"):
        assert [tables[field][number] for number in columns[field]] == [
            getattr(tensor, field) for tensor in report.tensors
        ]
    assert sum(count for _, count in summary["chunk"]) == len(report.tensors)


@pytest.mark.parametrize("text", [*HOSTILE.values(), "x" * 10_000])
def test_names_of_others_come_back_as_they_are(text):
    report = diverged_report(text)
    assert ids_in(summary_of(report)) == [tensor.id for tensor in report.tensors]


@pytest.mark.parametrize("text", CONTROLS.values())
def test_control_characters_do_not_come_back(text):
    report = diverged_report(text, reason=text)
    payload = build_payload(report)
    for packed in (payload.summary, *payload.chunks):
        assert text not in str(unpack(packed)) and "\ufffd" in str(unpack(packed))


@pytest.mark.parametrize(
    ("value", "short"),
    [
        (None, None),
        (0.0, 0.0),
        (5.464886e-06, 5.46e-06),
        (1.0000001, 1.001),
        (1.0, 1.0),
        (0.9999, 1.0),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_shortened(value, short):
    assert shortened(value) == short


@pytest.mark.parametrize(
    ("margin", "level"),
    [(1.0, 0), (1000.0, 30), (0.02, -17), (0.0, -10_000), (math.inf, 10_000)],
)
def test_levels(margin, level):
    assert log_level(margin) == level


def test_details_of_failures_come_first():
    report = large_report(3000)
    full = build_payload(report)
    assert full.num_detailed == len(report.tensors)
    room = len(full.chunks[0]) + len(full.chunks[1]) + 10
    payload = build_payload(report, max_chars=room)
    assert payload.num_detailed == 2 * CHUNK and payload.chunks == full.chunks[:2]
    indices = [int(index) for chunk in payload.chunks for index in unpack(chunk)]
    assert (
        indices
        == [
            index
            for index, tensor in enumerate(report.tensors)
            if tensor.status == "failed"
        ][: 2 * CHUNK]
    )
    runs = unpack(payload.summary)["chunk"]
    chunks = [chunk for chunk, count in runs for _ in range(count)]
    assert [index for index, chunk in enumerate(chunks) if chunk == 1] == indices[
        CHUNK:
    ]


def test_details_have_what_the_columns_have_not():
    details = tensor_details(FAILED)
    assert details["reason"] == FAILED.reason and "rel_err" not in details
    assert details["nan"] == [0, 1] and details["rank_rel_err"] == {"0": "Infinity"}
    assert tensor_details(PASSED)["max_abs_err_at"] == [2, 1]


def test_reasons_that_figures_tell_are_not_repeated():
    by_error = replace(FAILED, cause="error", reason="rel_err 5 exceeds 1")
    by_shape = replace(FAILED, cause="shape", reason="shapes differ")
    summary = summary_of(some_report(tensors=(by_error, by_shape)))
    assert summary["tables"]["reason"] == ["", "shapes differ"]


def test_worst_margin_of_every_rank():
    tensors = (
        replace(PASSED, tolerance=0.1, rank_rel_err={"0": 0.1, "10": 0.0, "2": 1.0}),
        replace(PASSED, tolerance=0.1, rank_rel_err={"0": 10.0}),
        replace(FAILED, rank_rel_err=None),
    )
    ranks = summary_of(some_report(tensors=tensors))["ranks"]
    assert ranks["names"] == ["0", "2", "10"]
    levels = dict(zip(ranks["rank"], ranks["level"], strict=True))
    assert levels == {0: 20, 1: 10, 2: -10_000}


def test_packing():
    value = {"a": [1, None, "ü"], "b": {}}
    assert unpack(pack(value)) == value
    assert pack(value).isascii() and "<" not in pack(value)


def test_first_divergence_is_named():
    assert summary_of(some_report())["first"] == FAILED.id
    assert summary_of(some_report(first_divergence=None))["first"] is None


def test_ranks_that_hold_a_part_and_those_whose_part_is_off():
    tensors = (
        replace(PASSED, tolerance=0.1, rank_rel_err={"0": 0.05, "10": 0.2}),
        replace(PASSED, tolerance=0.0, rank_rel_err={"2": 0.0, "10": math.nan}),
        replace(FAILED, rank_rel_err=None),
    )
    ranks = summary_of(some_report(tensors=tensors))["ranks"]
    names = [[ranks["names"][k] for k in ks] for ks in ranks["sets"]]
    assert [names[k] for k in ranks["held"]] == [["0", "10"], ["2", "10"], []]
    assert [names[k] for k in ranks["beyond"]] == [["10"], ["10"], []]
