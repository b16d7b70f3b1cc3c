"""What one run shows to be wrong, and that a correct one shows nothing."""

import numpy as np
import pytest

from tests.factories.dataflows import Part, a_step
from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.errors import UsageError
from ttrace.ir.layout import whole
from ttrace.ir.step_notes import UNSCALED_BACKWARDS
from ttrace.ir.trace_warnings import warnings_setting
from ttrace.judge.diagnosis import Diagnosis
from ttrace.pipeline import lint

MODEL = Part(parts=(Part(), Part(parts=(Part(), Part())), Part()))
RANDOM = np.random.default_rng(1).uniform(1, 2, (4, 8)).astype(np.float32)
ZEROS = np.zeros_like(RANDOM)


def linted(tensors, sizes=None, **options) -> dict[str, Diagnosis]:
    """What is found, by code."""
    trace = memory_trace(tensors, sizes, **options)
    found = lint(trace, backend=load_backend("numpy"))
    assert len({finding.code for finding in found}) == len(found)
    return {finding.code: finding for finding in found}


def a_run(num_steps=3):
    """Of a model whose parts are a, b.a, b.b and c; weights are matrices."""
    tensors = a_step(MODEL, num_steps=num_steps)
    return {
        text: values.reshape(2, 4) if values.size == 8 else values
        for text, values in tensors.items()
    }


def test_a_correct_run_shows_nothing():
    assert linted(a_run()) == {}


def test_an_empty_trace_is_an_error():
    with pytest.raises(UsageError, match="holds no tensors"):
        linted({})


def test_nan_begins_where_what_it_is_computed_from_is_finite():
    tensors = a_run()
    for part in ("b.a/output", "b.b/", "b/output", "c/", "@root/output"):
        for text in tensors:
            if text.startswith("step0/mb0") and part in text:
                tensors[text] = tensors[text] * np.nan
    finding = linted(tensors)["first_nonfinite"]
    assert finding.tensor_ids == ("step0/mb0/b.a/output/0",)
    assert finding.sentence.startswith(
        "the first NaN is in step0/mb0/b.a/output/0, 8 of 8 elements; what it is "
        "computed from is finite: look there for a division by zero"
    )
    assert "more have some" in finding.sentence


def test_infinities_of_a_mask_are_none():
    tensors = a_run()
    masked = tensors["step0/mb0/b.a/output/0"].copy()
    masked[0, 0] = -np.inf
    assert linted(tensors | {"step0/mb0/b.a/output/0": masked}) == {}
    gradient = tensors["step0/mb0/b.a/grad_output/0"].copy()
    gradient[0, 0] = np.inf
    found = linted(tensors | {"step0/mb0/b.a/grad_output/0": gradient})
    assert "first infinity is in step0/mb0/b.a/grad_output/0, 1 of 8" in (
        found["first_nonfinite"].sentence
    )


def test_gradients_of_a_step_that_was_skipped_may_be_nan():
    tensors = a_run()
    tensors["step1/a/main_grad/weight"] = ZEROS[:2, :4] * np.nan
    reason = {"step1/@root/main_grad": "step 1 was skipped: gradients overflowed"}
    assert linted(tensors, skipped=reason) == {}
    assert "first_nonfinite" in linted(tensors)


@pytest.mark.parametrize("micro_batch", [1, 0], ids=["micro-batch", "step"])
def test_an_output_of_before_is_stale(micro_batch):
    tensors = a_run()
    text = f"step1/mb{micro_batch}/b.a/output/0"
    before = "step1/mb0/b.a/output/0" if micro_batch else "step0/mb0/b.a/output/0"
    what = "micro-batch" if micro_batch else "step"
    found = linted(tensors | {text: tensors[before]})
    finding = found.pop("stale_activation")
    assert not found
    assert finding.sentence == (
        f"{text} is, bit for bit, that of the {what} before ({before}), though what "
        "b.a was given is not; 1 tensor in all: look for a cache, a buffer that is "
        "read before it is written, or a variable of the loop that is not renewed"
    )


def test_what_is_made_of_positions_alone_is_not_stale():
    """As rotary embeddings: given the activations for their shape and dtype."""
    tensors = {}
    for step in range(2):
        for number in range(2):
            at = f"step{step}/mb{number}/rope"
            tensors[f"{at}/input/0"] = RANDOM * (1 + 2 * step + number)
            tensors[f"{at}/output/0"] = RANDOM
    assert linted(tensors) == {}
    # A gradient shows that it depends on what it is given.
    tensors["step0/mb1/rope/grad_input/0"] = RANDOM
    assert "stale_activation" in linted(tensors)


def test_the_same_data_give_the_same_and_are_not_stale():
    tensors = a_run()
    for text in list(tensors):
        if text.startswith("step0/mb1/"):
            tensors[text] = tensors[text.replace("mb1", "mb0")]
    assert linted(tensors) == {}


def test_a_gradient_of_the_step_before_is_stale():
    tensors = a_run()
    text = "step2/b.b/main_grad/weight"
    found = linted(tensors | {text: tensors["step1/b.b/main_grad/weight"]})
    assert list(found) == ["stale_gradient"]
    assert found["stale_gradient"].tensor_ids == (text,)
    assert "though the model was given other data" in found["stale_gradient"].sentence


def not_updated():
    tensors = a_run()
    for step in range(3):
        tensors[f"step{step}/a/updated_param/weight"] = tensors["step0/a/param/weight"]
        rate = f"step{step}/@root/learning_rate/group0"
        tensors[rate] = np.array(0.01, np.float32)
    return tensors


def test_a_parameter_that_no_step_changes():
    finding = linted(not_updated())["never_updated"]
    assert finding.sentence.startswith(
        "1 tensor did not change in any recorded step that changed others, though what "
        "the optimizer was given is not zero, first step0/a/updated_param/weight: if "
        "that is not meant, the optimizer does not hold these parameters, or what it "
    )


@pytest.mark.parametrize("change", ["zero rate", "rounded", "once", "no gradient"])
def test_a_parameter_may_stay_as_it_is(change):
    tensors = not_updated()
    if change == "once":
        tensors["step2/a/updated_param/weight"] = tensors["step0/a/param/weight"] + 1
    for text in list(tensors):
        if change == "zero rate" and "learning_rate" in text:
            tensors[text] = np.array(0, np.float32)
        if change == "rounded" and "learning_rate" in text:
            tensors[text] = np.array(1e-9, np.float32)
        if change == "no gradient" and "/a/main_grad" in text:
            del tensors[text]
    assert "never_updated" not in linted(tensors)


def test_a_gradient_that_comes_in_other_micro_batches_is_missing():
    tensors = a_run()
    del tensors["step1/mb1/b.a/param_grad/weight"]
    finding = linted(tensors)["no_gradient"]
    assert finding.tensor_ids == ("step1/mb1/b.a/param_grad/weight",)
    assert finding.sentence.startswith(
        "there is no step1/mb1/b.a/param_grad/weight, though b.a ran, others have a "
        "gradient there, and this parameter has one elsewhere in the run; 1 tensor in "
        "all: look for a detach()"
    )


def test_a_module_that_does_not_run_needs_no_gradient():
    tensors = {t: v for t, v in a_run().items() if not t.startswith("step1/mb1/b.a")}
    assert "no_gradient" not in linted(tensors)


def test_outputs_and_gradients_become_zero_where_nothing_before_is():
    tensors = {
        text: values * 0 if "/b.b/output" in text else values
        for text, values in a_run(1).items()
    }
    finding = linted(tensors)["all_zero"]
    assert finding.tensor_ids == ("step0/mb0/b.b/output/0", "step0/mb1/b.b/output/0")
    tensors = {
        text: values * 0 if "b.b/param_grad" in text or "b.b/main" in text else values
        for text, values in a_run(1).items()
    }
    finding = linted(tensors)["all_zero"]
    assert finding.sentence == (
        "step0/mb0/b.b/param_grad/weight holds nothing but zeros, and what it is "
        "computed from does not; 3 tensors in all: look for a mask that leaves "
        "nothing, a factor of zero, or a buffer that nothing was written to"
    )


def test_zeros_that_follow_from_weights_of_zero_are_none():
    """As an adapter that starts so: nothing comes out, and no gradient to before it."""
    zero = ("b.b/param/", "b.b/output", "b.b/grad_input", "b.a/grad", "b.a/param_grad")
    tensors = {
        text: values * 0
        if any(part in text for part in (*zero, "b.a/main"))
        else values
        for text, values in a_run(1).items()
    }
    assert "all_zero" not in linted(tensors)


def test_replicas_that_differ_name_the_axis():
    class Replicas(Tensor):
        def local(self, mesh):
            return self.full * (1 + mesh.coords["dp"])

    text = "step0/a/main_grad/weight"
    tensors = {text: Replicas(full=RANDOM, exact_replicas=True)}
    finding = linted(tensors, {"dp": 2})["replicas_differ"]
    assert finding.evidence["axes"] == "dp"
    assert finding.sentence == (
        f"replicas of 1 tensor that must agree over dp do not, first {text}: rank 1 "
        "differs from rank 0 by 1: a reduction or a broadcast over dp is missing, or "
        "runs over the wrong group"
    )


def test_a_sum_without_one_of_its_partials():
    def partial(mesh):
        return whole((4, 8), mesh.name, partial_axes=("dp",))

    text = "step0/a/main_grad/weight"
    tensors = {text: Tensor(full=RANDOM, dims=partial, holders=(0,))}
    tensors["step0/b/main_grad/weight"] = Tensor(full=RANDOM)
    finding = linted(tensors, {"dp": 2})["missing_partials"]
    assert finding.tensor_ids == (text,)
    assert finding.sentence == (
        f"some ranks have no partial of what is a sum over ranks, first of {text}; 1 "
        "tensor in all: these ranks made no such gradient, or their part of the trace "
        "lacks it"
    )


def test_a_group_without_a_learning_rate():
    tensors = a_run()
    first = {text: values for text, values in tensors.items() if "c/param/" in text}
    (weight,) = first.values()
    for text in tensors:
        if "/c/updated_param/" in text:
            tensors[text] = weight
    for step in range(3):
        for group, rate in (("group0", 0.1), ("group1", 0.0)):
            rates = np.full(1, rate, np.float32)
            tensors[f"step{step}/@root/learning_rate/{group}"] = rates
    found = linted(tensors)
    assert found["zero_rate"].sentence == (
        "the learning rate of group1 is 0 in all 3 recorded steps: nothing trains the "
        "parameters of it (c.weight did not change). If that is not meant, look at the "
        "group's lr and at its schedule; where a warm-up starts from 0, record more "
        "steps"
    )
    tensors["step2/@root/learning_rate/group1"] = np.full(1, 0.1, np.float32)
    assert "zero_rate" not in linted(tensors)


def test_what_the_log_said_is_said_again():
    said = warnings_setting(["no optimizer holds a.weight", "A second step?"])
    (finding,) = linted(a_run(), settings=said).values()
    assert finding.code == "warnings"
    assert finding.sentence == (
        "as it was recorded, the log said: no optimizer holds a.weight. A second step?"
    )


def test_a_scaler_that_divides_what_it_did_not_multiply():
    note = {f"{UNSCALED_BACKWARDS}.1024": "1024 in steps 1, 2"}
    (finding,) = linted(a_run(), settings=note).values()
    assert finding.sentence.startswith("in step 1 gradients are unscaled by 1024, and")


def test_the_place_of_nan_and_that_it_was_given():
    tensors = a_run()
    tensors["step0/c/param/weight"] = np.array(
        [[1, 2, 3, 4], [5, np.nan, 7, 8]], np.float32
    )
    assert linted(tensors)["first_nonfinite"].sentence == (
        "the first NaN is in step0/c/param/weight, 1 of 8 elements (at [1, 1]); "
        "nothing was computed before it: look at how it is initialized, loaded or "
        "read, and for memory that nothing was written to"
    )
