"""Inputs without gradient that one run gives to a module, and the other does not."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.align import Entry, Skipped, Unmatched, align
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.ir.trace import TraceInfo

ONE = np.ones(2, np.float32)


def entry_of_mask(reference: TraceInfo, candidate: TraceInfo) -> Entry:
    (entry,) = [e for e in align(reference, candidate).entries if str(e.id) == MASK]
    return entry


MODULE = "step0/mb0/attention"
BOTH = (
    f"{MODULE}/input/0",
    f"{MODULE}/output/0",
    f"{MODULE}/grad_input/0",
)
MASK = f"{MODULE}/input/mask"


def traces(mask: np.ndarray, *more: str, both=BOTH):
    plain = dict.fromkeys(both, ONE)
    masked = {**plain, MASK: mask, **dict.fromkeys(more, ONE)}
    return memory_trace(plain).info, memory_trace(masked).info


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.float32])
@pytest.mark.parametrize("side", list(Side))
def test_they_are_skipped_with_the_reason(dtype, side):
    without, having = traces(np.ones(2, dtype))
    infos = (having, without) if side is Side.REFERENCE else (without, having)
    entry = entry_of_mask(*infos)
    other = "candidate" if side is Side.REFERENCE else "reference"
    assert entry == Skipped(
        id=parse_tensor_id(MASK),
        reason=f"{side} only: an input without gradient, such as a mask, that the "
        f"{other} does not give this module",
    )


def test_an_input_with_a_gradient_is_unmatched():
    infos = traces(ONE, f"{MODULE}/grad_input/mask")
    assert isinstance(entry_of_mask(*infos), Unmatched)


def test_where_no_gradient_was_recorded_at_all_nobody_knows():
    infos = traces(ONE, both=BOTH[:2])
    assert isinstance(entry_of_mask(*infos), Unmatched)


def test_of_a_module_that_the_other_run_lacks_they_are_unmatched():
    other = "step0/mb0/other/output/0"
    _, having = traces(np.ones(2, np.bool_))
    assert isinstance(entry_of_mask(memory_trace({other: ONE}).info, having), Unmatched)


GIVEN = "step0/mb0/@root/input"


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
@pytest.mark.parametrize("side", list(Side))
def test_data_that_only_one_step_is_given_is_skipped(dtype, side):
    """Plain JAX is given labels beside what a module of another run is given."""
    plain = {f"{GIVEN}/x": ONE, "step0/mb0/hidden/output/0": ONE}
    other = plain | {f"{GIVEN}/y": np.ones(2, dtype)}
    infos = [memory_trace(tensors).info for tensors in (plain, other)]
    if side is Side.REFERENCE:
        infos.reverse()
    (entry,) = [e for e in align(*infos).entries if str(e.id) == f"{GIVEN}/y"]
    assert isinstance(entry, Skipped)
    assert entry.reason.startswith(f"{side} only: an input without gradient")


def test_where_another_call_has_it_that_is_said():
    """As of a mask that a scan is given once for all of its iterations."""
    mask = np.ones(2, np.bool_)
    calls = {f"{name}/call1": ONE for name in BOTH}
    once = memory_trace({**dict.fromkeys(BOTH, ONE), **calls, MASK: mask}).info
    twice = memory_trace(
        {**dict.fromkeys(BOTH, ONE), **calls, MASK: mask, f"{MASK}/call1": mask}
    ).info
    (entry,) = [e for e in align(twice, once).entries if isinstance(e, Skipped)]
    assert entry.id == parse_tensor_id(f"{MASK}/call1")
    assert entry.reason == (
        "reference only: an input without gradient, such as a mask, which the "
        f"candidate has of other calls only, such as {MASK}"
    )
