"""What the first gradient shows of the losses of both runs."""

import ml_dtypes
import numpy as np

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 4, 6, 12)).astype(np.float32)
"""Of two micro-batches: ``[b s v]`` each."""
LABELS = RNG.integers(1, 12, size=(2, 4, 6))
LABELS[:, :, 5:] = -1
LABELS[:, 0, 3:] = -1


def gradient(logits, labels, weights: np.ndarray | float = 1.0):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    made = shifted / shifted.sum(-1, keepdims=True) - np.eye(12)[labels]
    return (made * np.where(labels < 0, 0, weights)[..., None]).astype(np.float32)


def run(labels=LABELS, weights: np.ndarray | float = 1.0, wrong_logits=False):
    tensors = {}
    for mb in range(2):
        logits = LOGITS[mb] + np.float32(wrong_logits)
        tensors[f"step0/mb{mb}/head/output/0"] = logits
        tensors[f"step0/mb{mb}/head/grad_output/0"] = gradient(
            LOGITS[mb], labels[mb], weights
        )
    return memory_trace(tensors)


def diagnoses(candidate):
    report = compare_traces(run(), candidate, load_backend("numpy"))
    return {each.code: each for each in report.diagnosis}


def test_targets_that_are_shifted():
    shifted = np.full_like(LABELS, -1)
    shifted[:, :, :-1] = LABELS[:, :, 1:]
    found = diagnoses(run(shifted))["loss_targets"]
    assert "those that the reference has 1 position further on (dim 1)" in (
        found.sentence
    )
    assert found.evidence["shift"] == 1


def test_targets_of_another_micro_batch():
    found = diagnoses(run(LABELS[::-1]))["loss_targets"]
    assert "They are those of step 0, micro-batch 1, of the reference" in found.sentence


def test_targets_of_other_samples():
    found = diagnoses(run(LABELS[:, [0, 1, 3, 2]]))["loss_targets"]
    assert "2 has those of 3, 3 has those of 2" in found.sentence


def test_targets_of_nowhere():
    others = np.where(LABELS < 0, -1, (LABELS * 5 + 3) % 12)
    found = diagnoses(run(others))["loss_targets"]
    assert "whether something writes to them meanwhile" in found.sentence
    assert found.evidence["counted"] == int((LABELS[0] >= 0).sum())


def test_padding_that_counts():
    found = diagnoses(run(np.where(LABELS < 0, 0, LABELS)))["loss_targets"]
    assert (
        "24 tokens count in the candidate's loss of step 0, micro-batch 0, 18 in"
        in (found.sentence)
    )
    assert "The target of all of these is 0" in found.sentence


def test_samples_that_weigh_otherwise():
    """A mean over parts of two samples each, of their own means."""
    counts = (LABELS[0] >= 0).sum(1)
    of_parts = np.repeat(counts.reshape(2, 2).sum(1), 2)
    weights = np.broadcast_to((9 / of_parts)[:, None], (4, 6))
    found = diagnoses(run(weights=weights))
    assert "loss_targets" not in found
    sentence = found["loss_weights"].sentence
    assert "1.12 at 0:2 of dim 0, 0.9 at 2:4 of dim 0" in sentence
    assert "8 tokens count in 2 indices and 10 in 2" in sentence
    assert "the loss is a mean of means" in sentence


def test_nothing_behind_a_wrong_forward_or_of_one_factor():
    assert "loss_targets" not in diagnoses(run(LABELS[::-1], wrong_logits=True))
    found = diagnoses(run(weights=2.0))
    assert "scaled" in found and not found.keys() & {"loss_targets", "loss_weights"}


def test_another_gradient_is_no_cross_entropy():
    candidate = run()
    for id_ in ("step0/mb0/head/grad_output/0", "step0/mb1/head/grad_output/0"):
        noise = RNG.normal(size=(4, 6, 12)).astype(np.float32)
        candidate.arrays[0, id_][...] += noise
    assert not diagnoses(candidate).keys() & {"loss_targets", "loss_weights"}


def test_targets_that_weigh_otherwise():
    weights = np.where(LABELS[0] % 2, 2.0, 0.5)
    sentence = diagnoses(run(weights=weights))["loss_weights"].sentence
    assert "2 where the target is 3, 5, 7, 11: the loss" in sentence
    assert "0.5 where the target is 2" in sentence
    assert sentence.endswith("Look at the weights of the classes that it is given")


def test_tokens_that_weigh_otherwise_for_no_known_reason():
    weights = RNG.uniform(0.5, 2, size=LABELS[0].shape)
    sentence = diagnoses(run(weights=weights))["loss_weights"].sentence
    assert "token by token: tokens or samples count otherwise" in sentence
    assert "mean of means" not in sentence and "number of tokens" not in sentence


def test_factors_that_the_tolerance_makes_differ_are_one():
    """Half a term's weight, in gradients that are known to three digits only."""
    made = np.abs(RNG.normal(size=(4, 6, 12)))
    halved = made / 2 * (1 + RNG.uniform(-1e-2, 1e-2, size=(4, 6, 1)))
    at = "step0/mb0/head"
    runs = [
        memory_trace(
            {
                f"{at}/output/0": LOGITS[0],
                f"{at}/grad_output/0": values.astype(ml_dtypes.bfloat16),
            }
        )
        for values in (made, halved)
    ]
    report = compare_traces(runs[0], runs[1], load_backend("numpy"))
    assert "loss_weights" not in {each.code for each in report.diagnosis}
