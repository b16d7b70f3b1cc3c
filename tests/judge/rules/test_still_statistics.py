"""Running statistics that one run leaves as they were."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

OLD = np.random.default_rng(0).normal(size=8).astype(np.float32)


def run(
    *, moves: bool = True, counts: bool | None = True, framework="torch", names=None
):
    names = names or ("running_mean", "running_var")
    tensors = {}
    for step in (0, 1):
        for module in ("bn1", "bn2"):
            for name in names:
                if not step:
                    tensors[f"step0/{module}/buffer/{name}"] = OLD
                new = OLD + np.float32((step + 1) * moves)
                tensors[f"step{step}/{module}/updated_buffer/{name}"] = new
            if counts is not None:
                number = np.array(counts * (step + 1))
                if not step:
                    tensors[f"step0/{module}/buffer/num_batches_tracked"] = np.array(0)
                name = f"step{step}/{module}/updated_buffer/num_batches_tracked"
                tensors[name] = number
    return memory_trace(tensors, framework=framework)


def said(reference, candidate) -> str | None:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("still_statistics")


@pytest.mark.parametrize("is_swapped", [False, True])
def test_in_eval(is_swapped):
    pair = [run(), run(moves=False, counts=False)]
    sides = ["candidate", "reference"]
    if is_swapped:
        pair, sides = pair[::-1], sides[::-1]
    assert said(*pair) == (
        "the running statistics of bn1, bn2 stay what they were in step 0 of the "
        f"{sides[0]}, and change in the {sides[1]}: bn1, bn2 are in eval() there, as "
        "no batch was counted either: look for an eval() without the train() that "
        "belongs behind it, or for one that is missing in the other run"
    )


def test_that_it_is_in_eval_is_only_said_where_no_batch_is_counted():
    found = said(run(), run(moves=False))
    assert found is not None
    assert found.endswith("bn1, bn2 are in train() there, so look at the momentum")
    found = said(run(counts=None), run(moves=False, counts=None))
    assert found is not None and found.endswith(
        "look for whether bn1, bn2 are in eval() there, and at the momentum; no number "
        "of batches was recorded that would tell"
    )


def test_in_jax():
    options = {"framework": "jax", "names": ("mean", "var"), "counts": None}
    found = said(run(**options), run(moves=False, **options))
    assert found is not None and found.endswith(
        "look for use_running_average=True there, and for whether their updated "
        "batch_stats are kept"
    )


def test_statistics_that_move_otherwise_do_not_stand_still():
    assert said(run(), run()) is None
    candidate = run()
    for name, array in candidate.arrays.items():
        if "updated_buffer/running" in name[1]:
            candidate.arrays[name] = array * np.float32(2)
    assert said(run(), candidate) is None
