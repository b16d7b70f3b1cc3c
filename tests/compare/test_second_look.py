"""Tensors that are the same in another form: broadcast dims, notations of masks."""

import ml_dtypes
import numpy as np
import pytest

from tests.factories.traces import Tensor, Tensors, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report, TensorReport

MASK = "step0/mb0/attn/input/mask"
POSITIONS = "step0/mb0/rope/input/1"
COSINES = "step0/mb0/rope/output/0"
REST = {"step0/mb0/a/output/0": np.ones(4, np.float32)}

KEPT = np.tri(6, dtype=bool)[None].repeat(2, 0)
KEPT[1, :, 4:] = False


def added(kept: np.ndarray, least: float, dtype: type = np.float32) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.where(kept, 0.0, least).astype(dtype)


LEAST = float(np.finfo(np.float32).min)


def compared(
    reference: Tensors, candidate: Tensors, *, backend: str = "numpy", **options
) -> Report:
    return compare_traces(
        memory_trace({**reference, **REST}),
        memory_trace({**candidate, **REST}),
        load_backend(backend),
        **options,
    )


def tensor(report: Report, text: str) -> TensorReport:
    (found,) = [one for one in report.tensors if one.id == text]
    return found


NOTATIONS = {
    "least": (added(KEPT, LEAST), "added (0 keeps)"),
    "-inf": (added(KEPT, -np.inf), "added (0 keeps)"),
    "-1e4": (added(KEPT, -1e4, np.float16), "added (0 keeps)"),
    "-1e9": (added(KEPT, -1e9, ml_dtypes.bfloat16), "added (0 keeps)"),
    "keeps": (KEPT, "boolean (True keeps)"),
    "ones": (KEPT.astype(np.int64), "boolean (True keeps)"),
    "drops": (~KEPT, "boolean (True drops)"),
}


@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("least", "keeps"),
        ("keeps", "least"),
        ("-inf", "keeps"),
        ("-inf", "least"),
        ("-1e4", "-inf"),
        ("-1e9", "ones"),
        ("drops", "-inf"),
        ("-1e4", "drops"),
    ],
)
def test_masks_in_two_notations_agree(one: str, other: str, backend: str):
    (mine, my_words), (yours, your_words) = NOTATIONS[one], NOTATIONS[other]
    report = compared({MASK: mine}, {MASK: yours}, backend=backend)
    assert report.verdict is Outcome.PASS, report.summary
    assert tensor(report, MASK).reason.startswith(
        f"compared as masks: {my_words} in the reference, {your_words} in the candidate"
    )


@pytest.mark.parametrize("one", ["least", "-inf"])
@pytest.mark.parametrize("other", ["keeps", "ones", "drops", "-1e4"])
@pytest.mark.parametrize("noise", [None, 1e38])
def test_a_mask_that_differs_in_one_place_diverges(
    one: str, other: str, noise: float | None
):
    kept = KEPT.copy()
    kept[1, 2, 5] = True
    changed = {
        "keeps": kept,
        "ones": kept.astype(np.int64),
        "drops": ~kept,
        "-1e4": added(kept, -1e4),
    }[other]
    table = ToleranceTable(
        noise={parse_tensor_id(MASK): NoiseEstimate(draws=(noise,), reference_norm=1.0)}
        if noise
        else {}
    )
    report = compared({MASK: NOTATIONS[one][0]}, {MASK: changed}, tolerances=table)
    assert report.verdict is Outcome.DIVERGED
    failed = tensor(report, MASK)
    assert failed.cause == "masks"
    if other == "drops":  # read as the usual notation, nothing agrees
        assert failed.num_unequal == KEPT.size - 1
    else:
        assert failed.reason.endswith(
            "1 of 72 places are kept in one run and dropped in the other, the first "
            "one at [1, 2, 5]"
        )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (added(KEPT, -1e3), KEPT),  # not low enough
        (added(KEPT, LEAST) + np.float32(0.5), KEPT),  # not zero
        (KEPT, ~KEPT),  # one notation
        (np.full(6, -2e4, np.float32), np.full(6, -3e4, np.float32)),  # numbers
        (np.zeros(6, np.float32), np.ones(6, np.int64)),
    ],
)
def test_what_is_no_mask_is_compared_by_its_values(one: np.ndarray, other: np.ndarray):
    failed = tensor(compared({MASK: one}, {MASK: other}), MASK)
    assert (failed.status, failed.cause) == ("failed", "error")


@pytest.mark.parametrize("text", [COSINES, "step0/attn/param/mask"])
def test_only_inputs_are_masks(text: str):
    report = compared({text: added(KEPT, LEAST)}, {text: KEPT})
    assert tensor(report, text).status == "failed"


def test_a_mask_with_a_gradient_is_compared_by_its_values():
    gradient = {MASK.replace("input", "grad_input"): np.ones(4, np.float32)}
    report = compared({MASK: added(KEPT, LEAST), **gradient}, {MASK: KEPT, **gradient})
    assert tensor(report, MASK).cause == "error"


@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("text", [POSITIONS, COSINES])
def test_what_is_the_same_when_repeated_agrees(text: str, swapped: bool, backend: str):
    short = np.arange(12).reshape(1, 12)
    if text == COSINES:
        short = np.cos(short, dtype=np.float32)
    runs = [{text: short}, {text: short.repeat(4, 0)}]
    report = compared(*(reversed(runs) if swapped else runs), backend=backend)
    assert report.verdict is Outcome.PASS, report.summary
    shapes = ["[1, 12] in the reference", "[4, 12] in the candidate"]
    if swapped:
        shapes = ["[4, 12] in the reference", "[1, 12] in the candidate"]
    assert tensor(report, text).reason == (
        f"{', '.join(shapes)}: all values agree where dims of length 1 are repeated"
    )
    assert tensor(report, text).num_elements == 48


def test_shards_are_repeated_where_they_lie():
    short = np.arange(12.0).reshape(1, 4, 3)
    reference = memory_trace({COSINES: Tensor(full=short, dims="b s[tp] h")}, {"tp": 2})
    long = Tensor(full=short.repeat(6, 0), dims="b[tp] s h")
    candidate = memory_trace({COSINES: long}, {"tp": 3})
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.verdict is Outcome.PASS, report.summary
    candidate.arrays[2, COSINES][1, 3, 1] += 1
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert tensor(report, COSINES).cause == "shape"


@pytest.mark.parametrize("place", [(0, 0), (3, 11)])
def test_one_value_that_differs_is_a_difference_of_shape(place: tuple[int, int]):
    short = np.arange(12).reshape(1, 12)
    long = short.repeat(4, 0)
    long[place] += 1
    failed = tensor(compared({POSITIONS: short}, {POSITIONS: long}), POSITIONS)
    assert (failed.status, failed.cause) == ("failed", "shape")
    assert failed.reason == (
        "logical shapes differ: [1, 12] in the reference, [4, 12] in the candidate, "
        "and values differ where dims of length 1 are repeated"
    )


@pytest.mark.parametrize("other", [(12,), (2, 6), (2, 12, 1), (1, 11)])
def test_other_shapes_differ(other: tuple[int, ...]):
    values = np.zeros((1, 12)), np.zeros(other)
    failed = tensor(compared({COSINES: values[0]}, {COSINES: values[1]}), COSINES)
    assert failed.cause == "shape" and "repeated" not in failed.reason


@pytest.mark.parametrize("kind", ["param", "main_grad", "updated_param"])
def test_parameters_are_not_repeated(kind: str):
    text = f"step0/a/{kind}/weight"
    report = compared({text: np.ones((1, 4))}, {text: np.ones((3, 4))})
    assert tensor(report, text).cause == "shape"


@pytest.mark.parametrize("agrees", [False, True])
def test_gradients_of_what_is_repeated_are_sums(agrees: bool):
    short, gradient = np.ones((1, 12)), COSINES.replace("output", "grad_output")
    long = short.repeat(4, 0)
    report = compared(
        {COSINES: short, gradient: short * 4},
        {COSINES: long * (1 if agrees else 2), gradient: long},
    )
    found = tensor(report, gradient)
    if agrees:
        assert (found.status, found.reason) == (
            "skipped",
            "the output agrees where dims of length 1 are repeated; the gradient of "
            "what is repeated is a sum, and is not compared",
        )
    else:
        assert (found.status, found.cause) == ("failed", "shape")


def test_noise_is_that_of_all_copies():
    short = np.ones((1, 100), np.float32)
    table = ToleranceTable(
        noise={
            parse_tensor_id(COSINES): NoiseEstimate(draws=(0.01,), reference_norm=10.0)
        }
    )
    limits = [
        tensor(compared({COSINES: short}, {COSINES: other}, tolerances=table), COSINES)
        for other in (short, short.repeat(4, 0))
    ]
    assert limits[0].tolerance is not None
    assert limits[1].tolerance == pytest.approx(limits[0].tolerance, rel=0.3)


def test_a_mask_may_be_repeated_and_in_another_notation():
    kept = KEPT[:1]
    report = compared({MASK: added(kept, LEAST)}, {MASK: kept.repeat(3, 0)})
    assert report.verdict is Outcome.PASS, report.summary
    assert "; compared as masks: " in tensor(report, MASK).reason
