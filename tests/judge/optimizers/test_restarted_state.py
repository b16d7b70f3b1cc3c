"""An optimizer whose state is made anew between two steps."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.store.memory_trace import MemoryTrace

STEPS = 3


def run(
    *,
    framework: str = "torch",
    restarts: bool = False,
    betas: tuple[float, float] = (0.9, 0.99),
    names: tuple[str, str] = ("exp_avg", "exp_avg_sq"),
    clip: float = 1.0,
    counts: bool = True,
    extra: float = 0.0,
) -> MemoryTrace:
    """Moments of Adam and a momentum over several steps; ``clip`` is not recorded."""
    tensors: dict[str, np.ndarray] = {}
    mean, square, momentum, count = (np.zeros((8, 6)) for _ in range(4))
    for step in range(STEPS):
        gradient = np.random.default_rng(step).normal(size=(8, 6))
        given = clip * gradient
        if restarts:
            mean, square, momentum, count = (np.zeros((8, 6)) for _ in range(4))
        mean = betas[0] * mean + (1 - betas[0]) * given + extra * step
        square = betas[1] * square + (1 - betas[1]) * given**2 + extra * step
        momentum, count = 0.9 * momentum + given, count + 1
        of_step = {
            "a/main_grad/w": gradient,
            f"a/optimizer_state/w.{names[0]}": mean,
            f"a/optimizer_state/w.{names[1]}": square,
            "b/main_grad/w": gradient,
            "b/optimizer_state/w.momentum_buffer": momentum,
        }
        if counts:
            of_step["a/optimizer_state/w.step"] = count[0, 0]
        for name, values in of_step.items():
            tensors[f"step{step}/{name}"] = np.asarray(values, np.float32)
    return memory_trace(tensors, framework=framework)


def diagnoses(reference: MemoryTrace, candidate: MemoryTrace) -> dict[str, str]:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.counts.failed
    return {entry.code: entry.sentence for entry in report.diagnosis}


@pytest.mark.parametrize("clip", [1.0, 0.3])
def test_a_state_that_starts_anew(clip):
    found = diagnoses(run(clip=clip), run(clip=clip, restarts=True))
    assert found["restarted_state"] == (
        "the optimizer's state starts anew in step 1: 3 tensors (exp_avg, exp_avg_sq, "
        "momentum_buffer) are what a first step makes of the gradient, which agrees; "
        "of the state before, of which the reference keeps a part, nothing is left; it "
        "counts 1 step, and 2 in the reference: make the optimizer once, before the "
        "loop, and look for what clears its state, or loads it"
    )
    assert "adam_settings" not in found


def test_without_a_count_and_in_words_of_jax():
    options = {"names": ("mu", "nu"), "counts": False, "framework": "jax"}
    found = diagnoses(run(**options), run(**options, restarts=True))
    assert "counts" not in found["restarted_state"]
    assert found["restarted_state"].endswith("call init once, before the loop")


@pytest.mark.parametrize(
    "options",
    [{"betas": (0.5, 0.99)}, {"betas": (0.0, 0.99)}, {"extra": 0.1}],
    ids=["another beta", "no moment at all", "something else"],
)
def test_what_is_no_restart(options):
    found = diagnoses(run(), run(**options))
    assert "restarted_state" not in found


def test_no_decay_is_proposed_that_nobody_writes():
    """A moment without any of the one before is what no beta1 gives."""
    found = diagnoses(run(counts=False), run(betas=(0.0, 0.99), counts=False))
    assert "beta1" not in found.get("adam_settings", "")
