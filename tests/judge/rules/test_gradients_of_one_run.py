"""Gradients that the optimizer lacks, and such as nobody should have."""

import numpy as np

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

ONES = np.ones(8, np.float32)


def a_step(*, changes: bool = True):
    """A frozen embedding, a head that is trained."""
    after = ONES / 2 if changes else ONES
    return {
        "step0/embed/param/weight": ONES,
        "step0/head/param/weight": ONES,
        "step0/mb0/head/param_grad/weight": ONES,
        "step0/head/main_grad/weight": ONES,
        "step0/head/updated_param/weight": after,
    }


def test_a_gradient_that_nobody_reduced():
    candidate = a_step(changes=False)
    del candidate["step0/head/main_grad/weight"]
    found = diagnoses(memory_trace(a_step()), memory_trace(candidate))
    assert found["no_gradient"].sentence == (
        "backward makes 1 gradient in the candidate that the optimizer is not given, "
        "first that of weight of head in step 0: not reduced, as under no_sync() or "
        "after set_requires_gradient_sync(False) or set_requires_all_reduce(False), or "
        "cleared before optimizer.step(), or the optimizer was made of other "
        "parameters, before the model was sharded"
    )
    assert found["no_gradient"].tensor_ids[0] == "step0/head/main_grad/weight"


def in_jax(tensors):
    return memory_trace(tensors, framework="jax")


def test_words_of_jax_for_gradients_that_are_missing():
    candidate = a_step(changes=False)
    del candidate["step0/head/main_grad/weight"]
    found = diagnoses(in_jax(a_step()), in_jax(candidate))["no_gradient"]
    assert found.sentence.endswith(
        "left out of the tree that its update is given, or masked"
    )
    zero = a_step(changes=False) | {
        name: 0 * ONES for name in a_step() if "_grad/" in name
    }
    runs = in_jax(a_step()), in_jax(zero)
    report = compare_traces(*runs, load_backend("numpy"))
    (found,) = (entry for entry in report.diagnosis if entry.code == "no_gradient")
    assert "jax.lax.stop_gradient" in found.sentence
    assert "detach" not in found.sentence and "no_grad()" not in found.sentence


def test_words_of_jax_for_a_frozen_parameter():
    extra = {"step0/embed/main_grad/weight": ONES}
    found = diagnoses(in_jax(a_step()), in_jax({**a_step(), **extra}))["extra_gradient"]
    assert "jax.lax.stop_gradient" in found.sentence
    assert "requires_grad" not in found.sentence


def test_a_frozen_parameter_that_is_trained():
    extra = {
        "step0/mb0/embed/param_grad/weight": ONES,
        "step0/embed/main_grad/weight": ONES,
    }
    reference = memory_trace(a_step())
    candidate = memory_trace({**a_step(), **extra, "step0/@root/grad_norm": ONES[:1]})
    found = diagnoses(reference, candidate)["extra_gradient"]
    assert found.sentence == (
        "1 parameter has a gradient in the candidate and none in the reference, first "
        "embed.weight: it is frozen there, or not used. Freeze the same parameters in "
        "both runs (requires_grad=False) before the optimizer is made"
    )
    assert set(found.tensor_ids) == set(extra)
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/embed/param_grad/weight"


def test_a_reference_that_records_no_gradients_has_none_frozen():
    reference = {k: v for k, v in a_step().items() if "_grad/" not in k}
    assert diagnoses(memory_trace(reference), memory_trace(a_step())) == {}


def test_a_gradient_that_the_reference_has_elsewhere_is_not_extra():
    reference = a_step()
    del reference["step0/mb0/head/param_grad/weight"]
    found = diagnoses(memory_trace(reference), memory_trace(a_step()))
    assert "extra_gradient" not in found
