import dataclasses

import numpy as np
import pytest

from ttrace.frontends.jax_parts.harvest.captured import (
    Event,
    Loop,
    Plane,
    Recomputation,
)
from ttrace.frontends.jax_parts.harvest.numbering import (
    AMBIGUOUS_GRADIENT,
    AMBIGUOUS_RECOMPUTATION,
    NOT_TAKEN,
    captures,
)
from ttrace.frontends.jax_parts.taps.sites import value_site
from ttrace.frontends.jax_parts.taps.tap import Role
from ttrace.ir.kinds import Kind

AGAIN = Recomputation()
SITE = value_site("m", Kind.OUTPUT, "0")


def forward(*path, serial=0, plane: int | None = 0, site=SITE, **others):
    return Event(
        site=site,
        role=Role.VALUE,
        serial=serial,
        path=path,
        value=None if plane is None else Plane(slot=plane, dims=_dims(path)),
        **others,
    )


def gradient(*path, **others):
    return dataclasses.replace(forward(*path, **others), role=Role.COTANGENT)


def _dims(path):
    return (None,) * sum(isinstance(part, Loop) for part in path)


ZEROS = (np.zeros((8, 8, 8)),)


def calls(*events, extras=ZEROS):
    """What was captured, in order: f or g or r, the call, and the iterations."""
    found = []
    for capture in captures(events, extras):
        letter = "f" if capture.kind is Kind.OUTPUT else "g"
        letter = "r" if capture.pass_ == "recompute" else letter
        found.append(f"{letter}{capture.call}" + "!" * (capture.skip is not None))
    return " ".join(found)


def test_forwards_count_up_and_gradients_down():
    assert calls(forward(0), forward(1), gradient(2), gradient(3)) == "f0 f1 g1 g0"


def test_events_come_in_the_order_of_their_paths():
    assert (
        calls(gradient(3, 0), forward(1, 2), forward(0), gradient(2)) == "f0 f1 g1 g0"
    )


def test_gradients_of_one_call_after_the_other():
    assert calls(forward(0), gradient(1), forward(2), gradient(3)) == "f0 g0 f1 g1"


def test_serials_tell_calls_apart_whatever_the_order_of_backward():
    events = [forward(0, serial=7), forward(1, serial=8)]
    first_first = [gradient(2, serial=7), gradient(3, serial=8)]
    assert calls(*events, *first_first) == "f0 f1 g0 g1"
    assert calls(*events, gradient(2, serial=7)) == "f0 f1 g0"


def test_gradients_that_cannot_be_told_apart_are_skipped():
    assert calls(forward(0), forward(1), gradient(2)) == "f0 f1 g0!"
    assert calls(forward(0), gradient(1), gradient(2)) == "f0 g0 g0!"
    assert calls(gradient(0)) == "g0!"
    found = captures([forward(0), forward(1), gradient(2)], [np.zeros(1)])
    assert found[-1].skip == AMBIGUOUS_GRADIENT


def test_scan_and_its_backward():
    up, down = Loop(length=3), Loop(length=3, reverse=True)
    events = [forward(0, up, 0), forward(0, up, 1), gradient(1, down, 0)]
    events.append(gradient(1, down, 1))
    assert calls(*events) == "f0 f1 f2 f3 f4 f5 g5 g4 g3 g2 g1 g0"
    order = [capture.iterations for capture in captures(events, [np.zeros((3, 3))])]
    assert order == [(i,) for i in (0, 0, 1, 1, 2, 2, 2, 2, 1, 1, 0, 0)]


def test_microbatches_around_layers():
    outer, up, down = Loop(length=2), Loop(length=2), Loop(length=2, reverse=True)
    events = [forward(0, outer, 0, up, 0), gradient(0, outer, 1, down, 0)]
    assert calls(*events) == "f0 f1 g1 g0 f2 f3 g3 g2"


def test_the_index_of_a_part():
    outer, inner = Loop(length=2), Loop(length=3)
    event = forward(0, outer, 0, inner, 0)
    event = dataclasses.replace(event, value=Plane(slot=0, dims=(None, "dp", None)))
    array = np.arange(12).reshape(2, 2, 3)
    last = captures([event], [array])[-1]
    assert last.value is not None
    assert last.value.index == (1, slice(None), 2) and last.value.axes == ("dp",)
    np.testing.assert_array_equal(last.value.take(), [8, 11])


def test_recomputed_in_one_region_and_in_several():
    one = [forward(0), forward(1), forward(2, AGAIN, 0), forward(2, AGAIN, 1)]
    one += [gradient(2, AGAIN, 2), gradient(2, AGAIN, 3)]
    assert calls(*one) == "f0 f1 r0 r1 g1 g0"
    two = [forward(0), forward(1), forward(2, AGAIN, 0), gradient(2, AGAIN, 1)]
    two += [forward(3, AGAIN, 0), gradient(3, AGAIN, 1)]
    assert calls(*two) == "f0 f1 r1 g1 r0 g0"


def test_recomputed_in_a_backward_scan():
    up, down = Loop(length=2), Loop(length=2, reverse=True)
    events = [forward(0, up, 0), forward(1, down, 0, AGAIN, 0)]
    events.append(gradient(1, down, 0, AGAIN, 1))
    assert calls(*events) == "f0 f1 r1 g1 r0 g0"


def test_what_a_loop_does_not_change_is_recomputed_in_each_iteration():
    down = Loop(length=3, reverse=True)
    assert calls(forward(0), forward(1, down, 0, AGAIN, 0)) == "f0 r2 r1 r0"


def test_regions_within_a_region_do_not_count_twice():
    nested = [forward(0), forward(1)]
    nested += [forward(2, AGAIN, 0), forward(2, AGAIN, 1)]
    nested += [forward(2, AGAIN, 2, AGAIN, 0), gradient(2, AGAIN, 2, AGAIN, 1)]
    nested += [forward(2, AGAIN, 3, AGAIN, 0), gradient(2, AGAIN, 3, AGAIN, 1)]
    assert calls(*nested) == "f0 f1 r0 r1 g1 g0"


def test_the_deeper_region_counts_where_the_outer_one_recomputed_less():
    nested = [forward(0), forward(1), forward(2, AGAIN, 0)]
    nested += [forward(2, AGAIN, 2, AGAIN, 0), forward(2, AGAIN, 3, AGAIN, 0)]
    assert calls(*nested) == "f0 f1 r1 r0"


def test_recomputations_that_cannot_be_told_apart_are_skipped():
    events = [forward(0), forward(1), forward(2, AGAIN, 0)]
    assert calls(*events) == "f0 f1 r0!"
    assert captures(events, [np.zeros(1)])[-1].skip == AMBIGUOUS_RECOMPUTATION


def test_a_forward_that_was_traced_anew_for_backward():
    events = [forward(0, serial=1), forward(1, serial=2)]
    events += [forward(2, AGAIN, 0, serial=3), gradient(3, AGAIN, 0, serial=3)]
    assert calls(*events) == "f0 f1 r0! g0!"
    events += [forward(4, AGAIN, 0, serial=4), gradient(5, AGAIN, 0, serial=4)]
    assert calls(*events) == "f0 f1 r1 g1 r0 g0"


def test_what_only_backward_computes_is_not_recomputed():
    assert calls(forward(0, AGAIN, 0), forward(0, AGAIN, 1)) == "f0 f1"


def test_what_was_not_taken_is_no_call():
    taken = Plane(slot=1, dims=(None,))
    loop = Loop(length=4)
    events = [forward(0, loop, 0, taken=taken), forward(1)]
    extras = [np.zeros((4,)), np.array([True, False, False, True])]
    assert calls(*events, extras=extras) == "f0 f1 f2"


def test_what_was_never_taken_is_skipped_once():
    taken = Plane(slot=1)
    extras = [np.zeros(3), np.array(False)]
    other = value_site("other", Kind.OUTPUT, "0")
    events = [forward(0, taken=taken), forward(1, taken=taken), forward(2, site=other)]
    found = captures(events, extras)
    assert [capture.site.module for capture in found] == ["other", "m"]
    assert (found[1].skip, found[1].value) == (NOT_TAKEN, None)
    unwanted = forward(0, taken=taken, plane=None)
    assert not captures([unwanted], extras)


def test_a_flag_that_differs_by_device_stays_with_the_capture():
    event = forward(0, taken=Plane(slot=1, dims=("pp",)))
    extras = [np.zeros((2, 3)), np.array([False, True])]
    (capture,) = captures([event], extras)
    assert capture.taken is not None and capture.taken.axes == ("pp",)
    np.testing.assert_array_equal(capture.taken.take(), [False, True])


@pytest.mark.parametrize(("ran", "found"), [(0, ""), (2, "f0 f1"), (3, "f0 f1 f2")])
def test_a_loop_of_unknown_length(ran, found):
    loop = Loop(length=3, count=Plane(slot=1))
    events = [forward(0, loop, 0), forward(1, site=value_site("n", Kind.OUTPUT, "0"))]
    extras = [np.zeros(3), np.array(ran)]
    names = [c.site.module for c in captures(events, extras) if c.skip is None]
    assert " ".join(names) == " ".join(["m"] * ran + ["n"])
    if ran:
        assert calls(events[0], extras=extras) == found


def test_iterations_beyond_the_bound_are_skipped_and_counted():
    loop = Loop(length=2, count=Plane(slot=1))
    events = [forward(0, loop, 0), gradient(0, loop, 1), forward(1, serial=1)]
    extras = [np.zeros(2), np.array(5)]
    assert calls(*events, extras=extras) == "f0 g0 f1 g1 f2! g2! f5"
    skipped = captures(events, extras)[4]
    assert skipped.skip == (
        "the loop ran longer than the number of iterations that are recorded: 3 more"
    )


def test_iterations_beyond_the_bound_around_other_loops_and_flags():
    inner = Loop(length=4)
    loop = Loop(length=2, count=Plane(slot=1))
    taken = Plane(slot=2, dims=(None, None))
    events = [forward(0, loop, 0, inner, 0, taken=taken), forward(1)]
    extras = [np.zeros((2, 4)), np.array(3), np.ones((2, 4), bool)]
    assert calls(*events, extras=extras).endswith("f7 f8! f12")


def test_an_event_within_another_program_moves_its_planes():
    loop = Loop(length=2, count=Plane(slot=1))
    event = forward(0, loop, 0, taken=Plane(slot=2))
    moved = event.within((5, 1), 10, (None,))
    assert moved.path == (
        5,
        1,
        0,
        Loop(length=2, count=Plane(slot=11, dims=(None,))),
        0,
    )
    assert moved.value == Plane(slot=10, dims=(None, None))
    assert moved.taken == Plane(slot=12, dims=(None,))


def test_an_unwanted_value_numbers_its_gradient():
    events = [forward(0, plane=None), forward(1, plane=None), gradient(2), gradient(3)]
    assert calls(*events) == "g1 g0"
