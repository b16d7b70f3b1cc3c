"""The diagnosis that every rank scales its gradients by a factor of its own."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from tests.judge.rules.test_rules import diagnoses

VALUES = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
NAMES = ("a", "b", "c")
FIRST = "step0/mb0/a/output/0"


def run(factors=(1.0,), kind="main_grad", *, first=1.0, only=NAMES, names=NAMES):
    """Gradients over as many ranks as there are factors; those of ``only`` are off."""
    tensors: dict[str, Tensor | np.ndarray] = {FIRST: VALUES * np.float32(first)}
    for name in names:
        tensors[f"step0/{name}/{kind}/weight"] = Tensor(full=VALUES, dims="f[tp] h")
    trace = memory_trace(tensors, {"tp": len(factors)})
    for rank, factor in enumerate(factors):
        for name in only:
            array = trace.arrays[rank, f"step0/{name}/{kind}/weight"]
            array *= np.float32(factor)
    return trace


def test_clipping_with_a_norm_of_ones_own_shards():
    found = diagnoses(run(), run((0.6578, 0.6014)))["rank_factors"]
    assert found.sentence == (
        "the gradients of step 0 are the reference's 0.658 times on rank 0, 0.601 "
        "times on rank 1, on all 3 tensors (main_grad): each rank scales what it holds "
        "by a factor of its own, as clipping does with the norm of its own shards. "
        "Clip by the norm of all gradients: add the squares up over the ranks that "
        "hold shards (all_reduce) before the square root"
    )
    assert found.evidence["least_factor"] == pytest.approx(0.6014)
    assert found.tensor_ids[0] == "step0/a/main_grad/weight"


def test_gradients_that_were_seen_to_be_clipped():
    found = diagnoses(run(kind="clipped_grad"), run((0.5, 0.8), "clipped_grad"))
    assert "(clipped_grad)" in found["rank_factors"].sentence


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(run((0.5, 0.5)), id="one factor"),
        pytest.param(run((1.0, 4.0)), id="one rank alone, as a stage of a pipeline"),
        pytest.param(run((0.5, 0.7), only=("a", "b")), id="not all tensors"),
        pytest.param(run((0.5, 0.7), first=2.0), id="the forward fails"),
        pytest.param(run((0.5, -0.7)), id="another direction"),
    ],
)
def test_what_no_rank_scales(candidate):
    assert "rank_factors" not in diagnoses(run(), candidate)


GRADS = ("q", "bias", "norm")


def clipped_by_own_norm(limit=None, *, large=4.0, factors=None):
    """A run on two ranks with parts of one gradient and replicas of two others.

    Rank 0 has the larger part of it. Each clips what it holds to ``limit``.
    """
    whole = np.concatenate([VALUES[:4] * np.float32(large), VALUES[4:]])
    tensors: dict[str, Tensor | np.ndarray] = {FIRST: VALUES}
    for name in GRADS:
        tensors[f"step0/{name}/main_grad/weight"] = Tensor(
            full=whole if name == "q" else VALUES,
            dims="f[tp] h" if name == "q" else None,
            exact_replicas=True,
        )
    trace = memory_trace(tensors, {"tp": 1 if limit is None else 2})
    for rank in range(2) if limit is not None else ():
        own = [trace.arrays[rank, f"step0/{n}/main_grad/weight"] for n in GRADS]
        norm = np.sqrt(sum(np.square(array).sum() for array in own))
        factor = min(1.0, limit / norm) if factors is None else factors[rank]
        for array in own:
            array *= np.float32(factor)
    return trace


def test_a_rank_whose_own_norm_is_below_the_limit_does_not_clip():
    found = diagnoses(clipped_by_own_norm(), clipped_by_own_norm(14.0))
    said = found["rank_factors"].sentence
    assert " times on rank 0, 1 times on rank 1, on all 3 tensors (main_grad)" in said
    assert "replicas_differ" not in found


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(
            clipped_by_own_norm(1.0, large=1.0, factors=(0.5, 1.0)),
            id="the other one would be clipped, too",
        ),
        pytest.param(
            clipped_by_own_norm(1.0, factors=(1.0, 1.5)), id="clipping makes less"
        ),
    ],
)
def test_factors_of_one_that_clipping_does_not_give(candidate):
    large = 1.0 if candidate.arrays[0, "step0/q/main_grad/weight"].max() < 3 else 4.0
    found = diagnoses(clipped_by_own_norm(large=large), candidate)
    assert "rank_factors" not in found and "replicas_differ" in found


def test_one_tensor_is_not_all():
    reference, candidate = (
        run(names="a", only="a"),
        run((0.5, 0.7), names="a", only="a"),
    )
    assert "rank_factors" not in diagnoses(reference, candidate)


def test_what_is_no_multiple():
    candidate = run((0.5, 0.7))
    candidate.arrays[1, "step0/b/main_grad/weight"][0, 0] += 1
    assert "rank_factors" not in diagnoses(run(), candidate)
