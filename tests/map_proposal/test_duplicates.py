"""Activations that hold what a compared one holds."""

import numpy as np

from tests.factories.traces import memory_trace
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.map_proposal.duplicates import find_duplicates

RANDOM = np.random.default_rng(0)
X, Y = (RANDOM.normal(size=(4, 6)).astype(np.float32) for _ in range(2))


def holders(tensors: dict, one_sided: tuple[str, ...], skipped: tuple[str, ...] = ()):
    trace = memory_trace(tensors)
    found = find_duplicates(
        trace, [*map(parse_tensor_id, one_sided)], [*map(parse_tensor_id, skipped)]
    )
    return {str(tensor_id): holder for tensor_id, holder in found.items()}


def test_the_compared_tensor_is_named_for_all_layers():
    tensors = {
        "step0/mb0/h.3.norm/output/0": X,
        "step0/mb0/h.3.identity/output/0": X.T.copy(),
        "step0/mb0/h.3.other/output/0": Y,
        "step0/mb0/h.3.identity/input/0": Y[:2],
    }
    one_sided = ("step0/mb0/h.3.identity/output/0", "step0/mb0/h.3.identity/input/0")
    assert holders(tensors, one_sided) == {one_sided[0]: "h.*.norm/output/0"}


def test_what_is_found_is_said_of_all_steps_and_of_calls():
    tensors = {}
    for where in ("step0/mb0", "step0/mb1", "step1/mb0"):
        for call in ("", "/call1", "/recompute"):
            fresh = RANDOM.normal(size=(4, 6)).astype(np.float32)
            tensors[f"{where}/a/output/0{call}"] = fresh
            tensors[f"{where}/b/output/0{call}"] = fresh
    one_sided = tuple(name for name in tensors if "/b/" in name)
    assert holders(tensors, one_sided) == dict.fromkeys(one_sided, "a/output/0")


def test_what_is_not_compared_itself_does_not_count():
    tensors = {f"step0/mb0/{name}/output/0": X for name in "abc"}
    one_sided = ("step0/mb0/a/output/0", "step0/mb0/b/output/0")
    assert holders(tensors, one_sided, ("step0/mb0/c/output/0",)) == {}
    assert len(holders(tensors, one_sided)) == 2


def test_values_that_tell_nothing():
    ones = np.ones((4, 6), np.float32)
    tensors = {"step0/mb0/a/output/0": ones, "step0/mb0/b/output/0": ones}
    assert holders(tensors, ("step0/mb0/b/output/0",)) == {}
    assert holders({"step0/a/param/w": X, "step0/mb0/a/output/0": X}, ()) == {}
