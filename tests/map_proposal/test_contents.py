"""Digests that do not depend on order, and tensors put together from shards."""

import ml_dtypes
import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.map_proposal.contents import (
    assemble,
    digest_of,
    read_content,
    sum_digests,
)

FULL = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
ID = "step0/a/param/w"


def record_of(tensor, sizes=None):
    trace = memory_trace({ID: tensor}, sizes)
    return trace, trace.info.tensors[parse_tensor_id(ID)]


def test_a_digest_does_not_depend_on_order_and_adds_up():
    digest = digest_of(FULL)
    assert digest == digest_of(FULL.T) == digest_of(FULL[::-1].reshape(3, 8))
    parts = digest_of(FULL[:2]) + digest_of(FULL[2:])
    assert digest == parts % (1 << 64)
    changed = FULL.copy()
    changed[2, 3] = np.nextafter(changed[2, 3], np.float32(9))
    assert digest != digest_of(changed)
    swapped = np.stack([FULL[0] + FULL[1], FULL[0] - FULL[1]])
    assert digest_of(FULL[:2]) != digest_of(swapped)


def test_narrow_dtypes_are_the_same_numbers():
    narrow = FULL.astype(ml_dtypes.bfloat16)
    assert digest_of(narrow) == digest_of(narrow.astype(np.float32))


@pytest.mark.parametrize(
    "dims", [None, "a[tp] b", "a b[tp:uneven]", "(a b)[tp:chunk]", "a b partial[tp]"]
)
def test_put_together(dims):
    trace, record = record_of(Tensor(full=FULL, dims=dims), {"tp": 2})
    np.testing.assert_array_equal(assemble(trace, record), FULL)
    content = read_content(trace, record)
    assert content is not None
    assert content.digest == digest_of(FULL) and content.is_distinct
    assert content.size == 24 and sum_digests([content]) == content.digest


def test_what_was_not_recorded_whole(monkeypatch):
    tensor = Tensor(full=FULL, dims="a[tp] b")
    trace = memory_trace({ID: tensor}, {"tp": 2}, recorded=[1])
    assert read_content(trace, trace.info.tensors[parse_tensor_id(ID)]) is None
    trace, record = record_of(FULL)
    monkeypatch.setattr("ttrace.map_proposal.contents.MAX_ELEMENTS", 10)
    assert read_content(trace, record) is None


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.ones((4, 4), np.float32), False),
        (np.zeros(3, np.float32), False),
        (np.array([0, 1], np.float32), False),
        (np.repeat(FULL[:1], 9, 0), False),
        (np.array([0.5], np.float32), True),
    ],
)
def test_distinct_values(array, expected):
    content = read_content(*record_of(array))
    assert content is not None and content.is_distinct is expected
