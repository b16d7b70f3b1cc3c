"""What the values of the first divergence show: dtype, epsilon, function, time."""

import math

import ml_dtypes
import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 16)).astype(np.float32)
SMALL = X * np.float32(0.1)
WEIGHT = RNG.normal(size=16).astype(np.float32)
BIAS = RNG.normal(size=16).astype(np.float32)
SQUARE = RNG.normal(size=(16, 16)).astype(np.float32)


def sentence(code, reference, candidate) -> str | None:
    report = compare_traces(
        memory_trace(reference), memory_trace(candidate), load_backend("numpy")
    )
    assert report.verdict.value != "pass"
    return {each.code: each.sentence for each in report.diagnosis}.get(code)


def test_rounded_values_name_their_dtype():
    rounded = X.astype(ml_dtypes.bfloat16).astype(np.float32)
    name = "step0/mb0/attention/input/0"
    found = sentence("lower_precision", {name: X}, {name: rounded})
    assert found is not None
    assert found.startswith(
        "all values of the candidate's input 0 of attention are the reference's, "
        f"rounded to bfloat16 ({name}, "
    )


def test_sums_in_a_coarser_dtype():
    summed = (X * 1.01).astype(ml_dtypes.bfloat16).astype(np.float32)
    name = "step0/fc/main_grad/weight"
    found = sentence("lower_precision", {name: X}, {name: summed})
    assert found is not None
    assert "are numbers of bfloat16, those of the reference are not" in found


@pytest.mark.parametrize(
    "name, is_said",
    [("step0/mb0/attention/input/0", False), ("step0/fc/main_grad/weight", True)],
)
def test_the_dtype_that_a_run_states_is_no_finding_of_activations(name, is_said):
    rounded = (X * 1.05).astype(ml_dtypes.bfloat16).astype(np.float32)
    policies = ("off", "parameters bfloat16, reduction float32")
    runs = [
        memory_trace({name: values}, settings={"mixed_precision": policy})
        for values, policy in zip((X, rounded), policies, strict=True)
    ]
    report = compare_traces(runs[0], runs[1], load_backend("numpy"))
    codes = {each.code for each in report.diagnosis}
    assert ("lower_precision" in codes) == is_said


@pytest.mark.parametrize("candidate", [X * np.float32(1.001), np.sign(X)])
def test_no_coarser_dtype(candidate):
    name = "step0/mb0/attention/input/0"
    assert sentence("lower_precision", {name: X}, {name: candidate}) is None


def norm(epsilon, *, is_centered, x=SMALL, add=1.0, less=0.0):
    values = x.astype(np.float64)
    values = values - values.mean(-1, keepdims=True) if is_centered else values
    values /= np.sqrt(np.square(values).mean(-1, keepdims=True) + epsilon)
    output = values * (WEIGHT + less) + (BIAS if is_centered else 0)
    tensors = {
        "step0/ln/param/weight": WEIGHT,
        "step0/mb0/ln/input/0": x,
        "step0/mb0/ln/output/0": (output * add).astype(np.float32),
    }
    return tensors | ({"step0/ln/param/bias": BIAS} if is_centered else {})


@pytest.mark.parametrize("is_centered", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs", "says"),
    [
        (1e-6, 1e-5, "of 1e-06 in the candidate and of 1e-05 in the reference"),
        (1e-3, 1e-6, "of 0.001 in the candidate and of 1e-06 in the reference"),
    ],
)
def test_both_epsilons_are_named(ours, theirs, says, is_centered):
    runs = [norm(e, is_centered=is_centered) for e in (theirs, ours)]
    found = sentence("norm_epsilon", *runs)
    assert found is not None and says in found
    assert ("ln is a LayerNorm" if is_centered else "ln is an RMSNorm") in found


def test_a_weight_that_one_is_added_to():
    runs = [norm(e, is_centered=False, less=1) for e in (1e-6, 1e-4)]
    assert sentence("norm_epsilon", *runs) is not None


def test_a_norm_that_is_wrong_otherwise():
    runs = [norm(1e-5, is_centered=True, add=add) for add in (1.0, 1.1)]
    assert sentence("norm_epsilon", *runs) is None


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def mlp(function, *, is_gated=False):
    up = RNG_UP if is_gated else None
    value = function(X.astype(np.float64)) * (1 if up is None else up)
    tensors = {"step0/mb0/fc/output/0": X}
    if up is not None:
        tensors["step0/mb0/up/output/0"] = up
    return tensors | {"step0/mb0/proj/input/0": value.astype(np.float32)}


RNG_UP = RNG.normal(size=X.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("theirs", "ours", "is_gated", "says"),
    [
        (
            gelu_tanh,
            gelu,
            False,
            "input 0 of proj is GELU by tanh of output 0 of fc in the reference, and "
            "GELU of it in the candidate",
        ),
        (silu, gelu, False, "is SiLU of output 0 of fc in the reference, and GELU"),
        (silu, gelu_tanh, True, "SiLU of output 0 of fc, times output 0 of up in the"),
    ],
)
def test_both_functions_are_named(theirs, ours, is_gated, says):
    found = sentence(
        "activation_variant",
        mlp(theirs, is_gated=is_gated),
        mlp(ours, is_gated=is_gated),
    )
    assert found is not None and says in found


def test_a_function_that_nobody_knows():
    runs = [mlp(silu), mlp(lambda x: silu(x) + 0.1 * np.cos(3 * x))]
    assert sentence("activation_variant", *runs) is None


def test_values_of_another_time():
    def run(order):
        return {
            f"step{step}/mb{mb}/@root/input/x": X + 2 * step + order[mb]
            for step in range(2)
            for mb in range(2)
        }

    found = sentence("out_of_turn", run([0, 1]), run([1, 1]))
    assert found is not None
    assert found.startswith(
        "input x of @root (step0/mb0/@root/input/x) is in the candidate what the "
        "reference has in micro-batch 1: look at the order in which the candidate takes"
    )
    stale = {
        f"step{step}/mb0/cache/output/0": X + (0 if is_stale else step)
        for step, is_stale in enumerate((False, True))
    }
    fresh = {f"step{step}/mb0/cache/output/0": X + step for step in range(2)}
    found = sentence("out_of_turn", fresh, stale)
    assert found is not None and "what the reference has in step 0: look at" in found
    assert sentence("out_of_turn", run([0, 1]), run([5, 1])) is None


def linear(weight, *, bias=BIAS, scale=1.0):
    output = X.astype(np.float64) @ weight + (0 if bias is None else bias)
    return {
        "step0/proj/param/weight": SQUARE,
        "step0/mb0/proj/input/0": X,
        "step0/mb0/proj/output/0": (scale * output).astype(np.float32),
    }


@pytest.mark.parametrize("bias", [None, BIAS])
@pytest.mark.parametrize("weight", [SQUARE, SQUARE.T])
def test_the_transpose_of_a_square_weight(weight, bias):
    found = sentence(
        "transposed_weight", linear(weight, bias=bias), linear(weight.T, bias=bias)
    )
    assert found is not None
    assert found.startswith("proj multiplies by the transpose of its weight, which ")
    assert (
        sentence(
            "transposed_weight",
            linear(weight, bias=bias),
            linear(weight.T, bias=bias, scale=1.01),
        )
        is None
    )
