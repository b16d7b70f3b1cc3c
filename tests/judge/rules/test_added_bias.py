"""Outputs that differ by a multiple of the module's bias, and by nothing else."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
OUTPUT = RNG.normal(size=(2, 3, 8)).astype(np.float32)
BIAS = RNG.normal(size=8).astype(np.float32)
WEIGHT = RNG.normal(size=(8, 4)).astype(np.float32)


def run(added=0.0, *, dims="h f[tp]", of_bias="h", bias=BIAS, size=None, other=0.0):
    output = OUTPUT + np.float32(added) * bias
    output[0, 0, 0] += np.float32(other)
    texts = (None, None) if size is None else (dims, of_bias)
    return memory_trace(
        {
            "step0/fc/param/weight": Tensor(full=WEIGHT, dims=texts[0]),
            "step0/fc/param/bias": Tensor(full=bias, dims=texts[1]),
            "step0/mb0/fc/output/0": output,
        },
        None if size is None else {"tp": size},
    )


def sentence(candidate, reference=None) -> str | None:
    report = compare_traces(reference or run(), candidate, load_backend("numpy"))
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("added_bias")


@pytest.mark.parametrize(
    ("added", "size", "how", "cause"),
    [
        (1, 2, "plus 1 time", "the bias is added on each of the 2 ranks of tp"),
        (3, 4, "plus 3 times", "the bias is added on each of the 4 ranks of tp"),
        (1, 4, "plus 1 time", "the bias is added 2 times. Look at where"),
        (1, None, "plus 1 time", "the bias is added 2 times. Look at where"),
        (-1, None, "less 1 time", "the bias is not added inside of it. Look at"),
        (-2, None, "less 2 times", "look at how often, and with which sign"),
    ],
)
def test_how_often_it_is_added(added, size, how, cause):
    found = sentence(run(added, size=size))
    assert found is not None
    assert found.startswith(
        f"the output of fc is the reference's {how} its bias, and differs by nothing "
        f"else (step0/mb0/fc/output/0): {cause}"
    )


def test_a_bias_that_is_sharded_is_not_added_on_each_rank():
    found = sentence(run(1, size=2, dims="h[tp] f", of_bias="h[tp]"))
    assert found is not None and "the bias is added 2 times" in found


@pytest.mark.parametrize("candidate", [run(0.5), run(1, other=0.1), run(0, other=1.0)])
def test_what_is_no_bias(candidate):
    assert sentence(candidate) is None


def test_a_bias_of_zeros_explains_nothing():
    zeros = run(bias=BIAS * 0)
    assert sentence(run(bias=BIAS * 0, other=1.0), zeros) is None


def test_the_bias_of_a_later_step_is_what_the_one_before_left():
    def later(added):
        tensors = {
            "step0/fc/param/bias": BIAS * 3,
            "step0/fc/updated_param/bias": BIAS,
            "step1/mb0/fc/output/0": OUTPUT + np.float32(added) * BIAS,
        }
        return memory_trace(tensors)

    found = sentence(later(1), later(0))
    assert found is not None and "plus 1 time its bias" in found


def attention(added: float, slot: str, bias=BIAS, size: int | None = None):
    """A module with weights and a bias of its own, called as the user likes."""
    tensors = {
        "step0/at/param/wo": Tensor(
            full=WEIGHT.T, dims=None if size is None else "f[tp] h"
        ),
        f"step0/at/param/{slot}": Tensor(full=bias, dims=None if size is None else "h"),
        "step0/mb0/at/output/0": OUTPUT + np.float32(added) * bias,
    }
    return memory_trace(tensors, None if size is None else {"tp": size})


@pytest.mark.parametrize("slot", ["bo", "b_out", "proj_bias"])
def test_a_bias_of_any_name(slot):
    found = sentence(attention(1, slot, size=2), attention(0, slot))
    assert found is not None
    assert found.startswith(
        f"the output of at is the reference's plus 1 time its {slot}, and differs by "
        "nothing else (step0/mb0/at/output/0): the bias is added on each of the 2 "
        "ranks of tp"
    )


@pytest.mark.parametrize(
    "slot, bias", [("scale", BIAS), ("weight", BIAS), ("alpha", np.ones_like(BIAS))]
)
def test_what_is_multiplied_by_or_is_one_number_is_no_bias(slot, bias):
    assert sentence(attention(1, slot, bias), attention(0, slot, bias)) is None
