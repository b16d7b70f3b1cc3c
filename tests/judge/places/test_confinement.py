"""Where the error of the first divergence lies, however shards lie."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

OUTPUT, LATER = "step0/mb0/a/output/0", "step0/mb0/b/output/0"
FULL = np.random.default_rng(0).normal(size=(4, 6, 16)).astype(np.float32)


def diagnosis(wrong: np.ndarray, *, theirs: np.ndarray = FULL, **options):
    candidate = {
        OUTPUT: Tensor(full=wrong, **options),
        LATER: Tensor(full=FULL + 1, **options),
    }
    sizes = {"tp": 2} if options else None
    report = compare_traces(
        memory_trace({OUTPUT: theirs, LATER: FULL}),
        memory_trace(candidate, sizes),
        load_backend("numpy"),
    )
    return {d.code: d for d in report.diagnosis}.get("confined_error")


@pytest.mark.parametrize("options", [{}, {"dims": "s b h[tp]"}], ids=["one", "tp"])
def test_a_head(options):
    wrong = FULL.copy()
    wrong[:, :, 4:8] *= np.random.default_rng(1).normal(size=4).astype(np.float32)
    found = diagnosis(wrong, **options)
    assert found is not None
    assert found.sentence == (
        "the error of step0/mb0/a/output/0 lies at indices 4:8 of dim 2 (of length "
        "16), and everything else of it agrees: look at what these indices have of "
        "their own, such as a head, an expert, a row or a rank"
    )
    assert found.tensor_ids == (OUTPUT,)


def test_half_of_the_heads():
    """Keys and values that are repeated in another order: of four heads the middle."""
    wrong = FULL.copy()
    wrong[:, :, 4:12] = np.roll(FULL[:, :, 4:12], 4, axis=2)
    found = diagnosis(wrong)
    assert found is not None and found.evidence == {"part": "4:12 of dim 2"}
    most = FULL.copy()
    most[:, :, 4:13] += 1
    assert diagnosis(most) is None


def test_a_part_beside_others_that_are_small():
    """As the gradient of keys' biases is beside that of the values'."""
    small = FULL * np.array([1e-4] * 12 + [1.0] * 4, np.float32)
    wrong = small.copy()
    wrong[:, :, 12:] *= np.random.default_rng(1).normal(size=4).astype(np.float32)
    found = diagnosis(wrong, theirs=small)
    assert found is not None and found.evidence == {"part": "12:16 of dim 2"}
    zeros = small.copy()
    zeros[:, :, :12] = 0
    wrong[:, :, :12] = 0
    assert diagnosis(wrong, theirs=zeros) is None


def test_rows_that_lie_apart():
    wrong = FULL.copy()
    wrong[:, [1, 4]] += 1
    found = diagnosis(wrong)
    assert found is not None and found.evidence == {"part": "1, 4 of dim 1"}


def test_the_narrowest_dim_is_named():
    wrong = FULL.copy()
    wrong[3, :, :4] += 1  # a quarter of dim 0 and of dim 2
    wrong[3, 2, :4] += 1
    found = diagnosis(wrong)
    assert found is not None and found.evidence["part"] == "3 of dim 0"
    assert " lies at index 3 of dim 0 (of length " in found.sentence


def test_zeros_elsewhere_are_no_agreement():
    """The gradient of the logits, of labels that the loss does not count."""
    full = np.zeros_like(FULL)
    full[:, 3:5] = FULL[:, 3:5]
    wrong = {"step0/mb0/a/grad_output/0": full * np.float32(1.9)}
    report = compare_traces(
        memory_trace({"step0/mb0/a/grad_output/0": full}),
        memory_trace(wrong),
        load_backend("numpy"),
    )
    assert "confined_error" not in {found.code for found in report.diagnosis}


def test_an_error_that_is_spread_has_no_place():
    assert diagnosis(FULL * np.float32(1.1)) is None
    half = FULL.copy()
    half[:, :, :12] += 1
    assert diagnosis(half) is None


def test_what_the_model_is_given_has_no_heads():
    labels = np.arange(48, dtype=np.int64).reshape(4, 12)
    given = "step0/mb0/@root/input/labels"
    wrong = labels.copy()
    wrong[:, 9:] = -100
    runs = [memory_trace({given: v, LATER: FULL}) for v in (wrong, labels)]
    report = compare_traces(runs[0], runs[1], load_backend("numpy"))
    (found,) = [d for d in report.diagnosis if d.code == "confined_error"]
    assert found.sentence == (
        "the error of step0/mb0/@root/input/labels lies at indices 9:12 of dim 1 (of "
        "length 12), and everything else of it agrees: look at what these indices have "
        "of their own, such as padding, or a sample that one run has otherwise"
    )
