"""Masks, positions, batch statistics, changed weights, dropout of a summand."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)


def diagnoses(reference, candidate):
    report = compare_traces(
        memory_trace(reference), memory_trace(candidate), load_backend("numpy")
    )
    return {each.code: each for each in report.diagnosis}


CAUSAL = np.tril(np.ones((8, 8), bool))[None].repeat(2, 0)
DOCUMENTS = CAUSAL.copy()
DOCUMENTS[:, 4:, :4] = False


def masked(mask, output=None):
    first = {"step0/mb0/embed/output/0": np.ones((2, 8, 4), np.float32)}
    return first | {"step0/mb0/layer/input/1": mask}


@pytest.mark.parametrize(
    ("ours", "theirs", "says"),
    [
        (CAUSAL, DOCUMENTS, "is causal and nothing else"),
        (~DOCUMENTS, DOCUMENTS, "is set where the reference's is not, and only there"),
        (np.tril(CAUSAL, -1), CAUSAL, "keys 0 before their query"),
    ],
)
def test_masks(ours, theirs, says):
    found = diagnoses(masked(theirs), masked(ours))["mask_differs"]
    assert says in found.sentence


def added(mask):
    return np.where(mask, 0, -np.inf).astype(np.float32)


@pytest.mark.parametrize("of_run", [added, lambda mask: mask])
@pytest.mark.parametrize("around", [CAUSAL, DOCUMENTS])
def test_windows_of_other_lengths(around, of_run):
    """Whatever else the mask drops, such as other documents."""
    masks = [around & ~np.tril(CAUSAL, -length) for length in (2, 4)]
    found = diagnoses(*(masked(of_run(mask)) for mask in masks))["mask_differs"]
    assert "lies 3 before its query, 1 in the reference" in found.sentence
    word = "kept" if of_run is added else "set"
    assert f"are {word} in the candidate only" in found.sentence


def test_an_added_mask_of_something_else():
    found = diagnoses(masked(added(CAUSAL)), masked(added(DOCUMENTS)))["mask_differs"]
    assert "32 are kept in the reference only" in found.sentence
    assert found.sentence.endswith(
        "look at what the mask is made of (documents, padding, a window) "
        "(step0/mb0/layer/input/1)"
    )


def weights(mask, *, more=0.0):
    scores = np.random.default_rng(1).normal(size=mask.shape)
    made = np.where(mask, np.exp(scores), 0)
    made /= made.sum(-1, keepdims=True) + 0.5  # a learned offset has a share
    return {
        "step0/mb0/softmax/input/0": scores.astype(np.float32),
        "step0/mb0/softmax/output/0": (made + more * made**2).astype(np.float32),
    }


def test_a_window_behind_a_softmax():
    windows = [CAUSAL & ~np.tril(CAUSAL, -length) for length in (3, 4)]
    found = diagnoses(*map(weights, windows))["mask_differs"]
    assert (
        "The farthest key that it lets through lies 3 before its query, 2 in the "
        "reference, and nothing else differs"
    ) in found.sentence
    assert "10 are not zero in the candidate only" in found.sentence
    other = weights(windows[1], more=0.1)
    assert "mask_differs" not in diagnoses(weights(windows[0]), other)


def positions(restarts):
    rows = []
    for row in range(2):
        ends = (0, *restarts[row], 8)
        rows.append(
            np.concatenate(
                [np.arange(b - a) for a, b in zip(ends, ends[1:], strict=False)]
            )
        )
    first = {"step0/mb0/embed/output/0": np.ones((2, 8, 4), np.float32)}
    return first | {"step0/mb0/layer/input/1": np.stack(rows)}


def test_positions_that_begin_anew():
    found = diagnoses(positions(((3,), (2, 5))), positions(((), (5,))))
    assert "3 times after the first position of a sample in the reference, 1 times" in (
        found["position_restarts"].sentence
    )
    assert found["position_restarts"].evidence["common"] == 1
    assert "context parallelism" not in found["position_restarts"].sentence
    cut = diagnoses(positions(((), ())), positions(((4,), (4,))))["position_restarts"]
    assert "as under context parallelism, they go on from the part before" in (
        cut.sentence
    )
    other = positions(((3,), (2, 5)))
    other["step0/mb0/layer/input/1"] = other["step0/mb0/layer/input/1"] * 2
    assert "position_restarts" not in diagnoses(positions(((3,), (2, 5))), other)


X = RNG.normal(size=(4, 3, 5, 5)).astype(np.float32)
SCALE, BIAS = (RNG.normal(size=3).astype(np.float32) for _ in "sb")


def batch_norm(num_parts):
    made = []
    for part in np.split(X.astype(np.float64), num_parts):
        centred = part - part.mean((0, 2, 3), keepdims=True)
        made.append(centred / np.sqrt(part.var((0, 2, 3), keepdims=True) + 1e-5))
    output = np.concatenate(made) * SCALE[:, None, None] + BIAS[:, None, None]
    return {
        "step0/bn/param/weight": SCALE,
        "step0/bn/param/bias": BIAS,
        "step0/mb0/bn/input/0": X,
        "step0/mb0/bn/output/0": output.astype(np.float32),
    }


def test_statistics_of_each_part():
    found = diagnoses(batch_norm(1), batch_norm(2))["batch_statistics"]
    assert "over each of 2 equal parts of them by itself" in found.sentence
    scaled = batch_norm(1)
    scaled["step0/mb0/bn/output/0"] = scaled["step0/mb0/bn/output/0"] * np.float32(1.1)
    assert "batch_statistics" not in diagnoses(batch_norm(1), scaled)


def running(times, momentum=0.1):
    wide = np.concatenate([X, X * 2, X + 1], axis=1)
    mean = np.zeros(9)
    for _ in range(times):
        mean = (1 - momentum) * mean + momentum * wide.mean((0, 2, 3))
    return {
        "step0/bn/buffer/running_mean": np.zeros(9, np.float32),
        "step0/mb0/bn/input/0": wide,
        "step0/bn/updated_buffer/running_mean": mean.astype(np.float32),
    }


def test_statistics_that_are_taken_in_twice():
    found = diagnoses(running(1), running(2))["batch_statistics"]
    assert "that is taken in 2 times, and once in the reference" in found.sentence
    assert "look at what runs its forward again" in found.sentence
    other = running(1, momentum=0.3)
    assert "batch_statistics" not in diagnoses(running(1), other)


WEIGHT = RNG.normal(size=(6, 8))
INPUTS = RNG.normal(size=(2, 20, 8)).astype(np.float32)


def linear(later, *, add=0.0):
    tensors = {"step0/fc/param/weight": WEIGHT.astype(np.float32)}
    for step, weight in enumerate((WEIGHT, later)):
        at = f"step{step}/mb0/fc"
        tensors[f"{at}/input/0"] = INPUTS[step]
        made = INPUTS[step] @ weight.T + add * step * INPUTS[step][:, :6] ** 2
        tensors[f"{at}/output/0"] = made.astype(np.float32)
    return tensors


def test_a_weight_that_something_writes_to():
    merged = WEIGHT + np.outer(RNG.normal(size=6), RNG.normal(size=8))
    found = diagnoses(linear(WEIGHT), linear(merged))["changed_weight"]
    assert "differs by a matrix of rank 1 (of 6); in step 0 its outputs agreed" in (
        found.sentence
    )
    assert "changed_weight" not in diagnoses(linear(WEIGHT), linear(merged, add=0.1))


def summed(keep, base):
    kept = np.random.default_rng(5).normal(size=(4, 6, 10))
    return {
        "step0/mb0/embed/output/0": kept.astype(np.float32),
        "step0/mb0/layer/input/0": (keep / 0.75 * kept + base).astype(np.float32),
    }


def test_dropout_of_a_summand():
    base = RNG.normal(size=(4, 6, 10))
    keep = RNG.random(size=(4, 6, 10)) < 0.75
    first = np.concatenate([keep[:2], keep[:2]])
    found = diagnoses(summed(keep, base), summed(first, base))["dropout"]
    assert "by plus or minus 1.333 times output 0 of embed" in found.sentence
    assert "At 0:2 of dim 0 both keep the same" in found.sentence
    assert found.evidence["rate"] == pytest.approx(0.25, abs=1e-5)
    assert "dropout" not in diagnoses(summed(keep, base), summed(keep, base * 1.1))


def test_counts_of_another_micro_batch():
    def run(*counts):
        return {
            f"step0/mb{mb}/experts/input/1": np.array(each)
            for mb, each in enumerate(counts)
        } | {"step0/mb0/embed/output/0": np.ones((2, 8), np.float32)}

    right = run([3, 5, 1, 7], [4, 4, 2, 6])
    found = diagnoses(right, run([3, 5, 1, 7], [3, 5, 1, 7]))
    assert "what the reference has in micro-batch 0" in found["out_of_turn"].sentence
    assert "out_of_turn" not in diagnoses(right, run([3, 5, 1, 7], [3, 5, 2, 6]))
