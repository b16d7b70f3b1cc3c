"""References that do not repeat themselves, and those that do but for rounding."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.errors import UnrepeatableError
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.tolerances.repetition import first_suspect, require_repeats
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable

PARAM = "step0/a/param/weight"
INPUT = "step0/mb0/@root/input/0"
HIDDEN, OUTPUT = "step0/mb0/a/output/0", "step0/mb0/b/output/0"
MAIN = "step0/a/main_grad/weight"
ONES = np.ones(64, np.float32)
TOKENS = np.arange(8)
STEP = {PARAM: ONES, INPUT: TOKENS, HIDDEN: ONES, OUTPUT: ONES, MAIN: ONES}
BACKEND = load_backend("numpy")


def again(**changes):
    """A second run; changes by the name of the constant above."""
    changed = {globals()[name]: value for name, value in changes.items()}
    return memory_trace({**STEP, **changed})


def refusal(other) -> str:
    reference = memory_trace(STEP)
    with pytest.raises(UnrepeatableError) as caught:
        require_repeats(reference, other, BACKEND)
    return str(caught.value)


def test_a_run_that_repeats_itself():
    require_repeats(again(), again(), BACKEND)
    nan = np.where(TOKENS < 2, np.nan, 1).astype(np.float32)
    require_repeats(again(OUTPUT=nan), again(OUTPUT=nan), BACKEND)


def test_a_dropout_mask():
    mask = np.where(np.arange(64) % 10 == 0, 0, 1).astype(np.float32)
    text = refusal(again(HIDDEN=mask, OUTPUT=mask, MAIN=mask))
    assert "the reference does not repeat itself, so no tolerance can be" in text
    assert f"{HIDDEN}, the first tensor that differs between" in text
    assert "7 of 64 values differ, by 0.331" in text
    assert "random numbers without a fixed seed (dropout)" in text


def test_other_parameters_and_other_data_are_named_for_what_they_are():
    assert "Seed the random numbers before the model is" in refusal(again(PARAM=-ONES))
    text = refusal(again(INPUT=TOKENS[::-1].copy(), OUTPUT=-ONES))
    assert INPUT in text and "Give it the same data in every run" in text
    assert "dropout" not in text


def test_other_shapes_and_other_tensors():
    assert "shape [64] in one run, [32] in the other" in refusal(
        again(HIDDEN=ONES[1::2])
    )
    assert "in one of two runs only" in refusal(
        memory_trace({**STEP, "step0/mb0/c/output/0": ONES})
    )


def test_additions_in_another_order_are_rounding():
    rounded = ONES * np.float32(1 + 1e-6)
    flipped = TOKENS.copy()
    flipped[0] = 7  # an index that rounding has tipped over, after it
    indices = "step0/mb0/b/output/1"
    first = memory_trace({HIDDEN: ONES, indices: TOKENS, OUTPUT: ONES, MAIN: ONES})
    second = memory_trace(
        {HIDDEN: rounded, indices: flipped, OUTPUT: rounded, MAIN: -ONES}
    )
    require_repeats(first, second, BACKEND)  # MAIN: a gradient of nothing but noise


def test_only_gradients_recorded():
    with pytest.raises(UnrepeatableError, match="main_grad"):
        require_repeats(
            memory_trace({MAIN: ONES}), memory_trace({MAIN: ONES * 2}), BACKEND
        )


def suspect(**draws):
    """The first suspect, where the noise is as given and else 1e-7."""
    reference = memory_trace(STEP)
    noise = {
        id_: NoiseEstimate(
            draws=(0.0 if str(id_) in (PARAM, INPUT) else 1e-7,), reference_norm=8.0
        )
        for id_ in reference.info.tensors
    }
    for name, value in draws.items():
        noise[parse_tensor_id(globals()[name])] = NoiseEstimate(
            draws=(value,), reference_norm=8.0
        )
    found = first_suspect(ToleranceTable(noise=noise), reference.info)
    return None if found is None else str(found[0])


def test_what_noise_does_not_explain():
    assert suspect() is None
    assert suspect(HIDDEN=1e-5) is None  # about an epsilon of its norm
    assert suspect(HIDDEN=0.1, OUTPUT=1.0) == HIDDEN
    assert suspect(MAIN=1.0) is None  # zero but for rounding; no output says more
    assert suspect(PARAM=1.0, MAIN=1.0) == PARAM
    assert suspect(INPUT=1.0) == INPUT


@pytest.mark.parametrize(("draw", "found"), [(0.1, None), (1.0, "step1")])
def test_after_an_update_only_a_dominating_noise_is_suspect(draw, found):
    """Adam makes whole updates of either sign of gradients that are noise."""
    later = OUTPUT.replace("step0", "step1")
    reference = memory_trace({OUTPUT: ONES, later: ONES}).info
    noise = {
        parse_tensor_id(text): NoiseEstimate(draws=(value,), reference_norm=8.0)
        for text, value in ((OUTPUT, 1e-7), (later, draw))
    }
    suspected = first_suspect(ToleranceTable(noise=noise), reference)
    assert (suspected and str(suspected[0]).split("/")[0]) == found


@pytest.mark.parametrize(("draw", "found"), [(0.1, None), (1.0, MAIN)])
def test_gradients_alone_are_suspect_from_a_tenth_on(draw, found):
    noise = {
        parse_tensor_id(MAIN): NoiseEstimate(draws=(draw,), reference_norm=8.0),
    }
    suspected = first_suspect(
        ToleranceTable(noise=noise), memory_trace({MAIN: ONES}).info
    )
    assert (suspected and str(suspected[0])) == found


@pytest.mark.parametrize("changed", [{PARAM: -ONES}, {INPUT: TOKENS + 1}])
def test_a_noise_run_that_starts_otherwise_is_refused(changed):
    reference = memory_trace(STEP)
    noisy = memory_trace({**STEP, **changed}, noise_seed=1)
    (text,) = changed
    with pytest.raises(UnrepeatableError, match=text):
        estimate_tolerance(reference, [noisy], BACKEND)


def test_noise_at_an_input_is_no_other_data():
    floats = {**STEP, INPUT: ONES}
    noisy = memory_trace({**floats, INPUT: ONES * np.float32(1 + 1e-7)}, noise_seed=1)
    table = estimate_tolerance(memory_trace(floats), [noisy], BACKEND)
    assert first_suspect(table, memory_trace(floats).info) is None
