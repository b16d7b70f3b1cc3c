"""Gradients that a run has, whatever of it can be compared."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.step_notes import UNREDUCED
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.absences.own_gradients import own_gradients
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(4, 3)).astype(np.float32)
OUT = RNG.normal(size=(4, 2)).astype(np.float32)
ONES = np.ones((2, 3), np.float32)
UPDATE = RNG.normal(size=(2, 3)).astype(np.float32)
NAMES = ("a", "b")


def a_step(*, parts: int = 1, given=NAMES, updated=NAMES, made=NAMES, reaches=NAMES):
    """A step of two layers, of one micro-batch or of two."""
    tensors: dict[str, np.ndarray] = {
        f"step0/{name}/param/weight": ONES for name in NAMES
    }
    for number, rows in enumerate(np.split(np.arange(4), parts)):
        mb = f"step0/mb{number}"
        tensors[f"{mb}/@root/input/0"] = DATA[rows]
        for name in NAMES:
            tensors[f"{mb}/{name}/output/0"] = OUT[rows]
        for name in reaches:
            tensors[f"{mb}/{name}/grad_output/0"] = OUT[rows]
        for name in made:
            tensors[f"{mb}/{name}/param_grad/weight"] = ONES / parts
    for name in given:
        tensors[f"step0/{name}/main_grad/weight"] = ONES
    tensors["step0/@root/learning_rate/group0"] = np.ones(())
    for name in updated:
        change = UPDATE if name in given else 0 * UPDATE
        tensors[f"step0/{name}/updated_param/weight"] = ONES - change
    return tensors


def report_of(candidate, *, reference=None, **fields):
    return compare_traces(
        memory_trace(reference or a_step()),
        memory_trace(candidate, **fields),
        load_backend("numpy"),
    )


def sentence_of(report, code="no_gradient") -> str:
    return {found.code: found.sentence for found in report.diagnosis}[code]


def test_what_a_run_has():
    trace = memory_trace(
        a_step(given=("a",), made=("b",)),
        skipped={"step0/mb0/a/param_grad/weight": "hidden"},
    )
    own = own_gradients(trace.info)
    a, b = (0, "a", "weight"), (0, "b", "weight")
    assert own.made == {b} and own.hidden == {a} and own.given == {a}
    assert own.seen == {a, b} and own.stepped == {0}
    assert own.has_backward(0) and not own.has_backward(1)
    assert own.reaches(0, "a") and not own.reaches(0, "c")
    assert own.calls_with(parse_tensor_id("step0/mb9/a/grad_output/0/call3")) == {0}
    made = parse_tensor_id("step0/b/main_grad/weight")
    assert own.says_what_is_made(made)
    hidden = parse_tensor_id("step0/a/main_grad/weight")
    assert not own.says_what_is_made(hidden)


def test_no_optimizer_of_jax_is_watched():
    info = memory_trace(a_step(), framework="jax").info
    assert own_gradients(info).stepped == frozenset()


@pytest.mark.parametrize("parts", [1, 2])
def test_a_gradient_that_is_made_in_other_micro_batches_is_not_said_to_stop(parts):
    candidate = a_step(parts=parts, given=("a",), updated=("a",))
    report = report_of(candidate, framework="torch")
    assert sentence_of(report) == (
        "backward makes 1 gradient in the candidate that the optimizer is not given, "
        "first that of weight of b in step 0: no optimizer that the trace was given "
        "holds these parameters, and one steps without them: it was made of others, as "
        "before the model was sharded or its parameters replaced, or is one of "
        "several; give it all parameters, or the trace all optimizers"
    )
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/b/main_grad/weight"


def test_an_optimizer_that_holds_what_it_is_given_no_gradient_of():
    report = report_of(a_step(parts=2, given=("a",)), framework="torch")
    assert sentence_of(report) == (
        "backward makes 1 gradient in the candidate that the optimizer is not given, "
        "first that of weight of b in step 0: the optimizer holds these parameters, "
        "and their grad is None when it steps: not reduced, as under no_sync() or "
        "after set_requires_gradient_sync(False) or set_requires_all_reduce(False), or "
        "cleared before optimizer.step(); 1 tensor was not updated, for want of a "
        "gradient"
    )


@pytest.mark.parametrize("skipped", [0, 1])
def test_an_optimizer_that_leaves_a_step_out_holds_what_it_updates_in_others(skipped):
    def two_steps(*, skips: bool):
        tensors = {}
        for step in range(2):
            names = ("a",) if skips and step == skipped else NAMES
            for id_, values in a_step(given=names, updated=names).items():
                if step == 0 or "/param/" not in id_:
                    tensors[id_.replace("step0", f"step{step}")] = values
        return tensors

    report = report_of(
        two_steps(skips=True), reference=two_steps(skips=False), framework="torch"
    )
    assert sentence_of(report) == (
        "backward makes 1 gradient in the candidate that the optimizer is not given, "
        f"first that of weight of b in step {skipped}: the optimizer that holds these "
        f"parameters does not step in step {skipped}, and does in step "
        f"{1 - skipped}: look at what leaves its step() out"
    )


def without(tensors, word):
    return {id_: values for id_, values in tensors.items() if word not in id_}


def test_gradients_that_nothing_reduced_come_before_the_updates_that_were_lost():
    """None of them can be compared, as the runs cut micro-batches otherwise."""
    candidate = without(a_step(parts=2, given=()), "grad_output")
    note = {UNREDUCED: "1 module (@root) in steps 0"}
    report = report_of(candidate, framework="torch", settings=note)
    assert report.first_divergence is not None
    assert report.first_divergence.kind == "main_grad"
    assert sentence_of(report) == (
        "backward makes 2 gradients in the candidate that the optimizer is not given, "
        "first that of weight of a in step 0: set_requires_gradient_sync(False) was in "
        "force for 1 module (@root) of FSDP2 when the optimizer stepped, so that "
        "nothing reduced them: set it back to True before the last micro-batch of a "
        "step; 2 tensors were not updated, for want of a gradient"
    )
    assert [found.code for found in report.diagnosis] == ["no_gradient"]


def test_a_step_whose_flag_was_back_says_nothing_of_it():
    note = {UNREDUCED: "1 module (@root) in steps 3, 4"}
    report = report_of(a_step(given=()), framework="torch", settings=note)
    assert "was in force" not in sentence_of(report)


def test_main_grad_that_was_not_asked_for_is_not_missing():
    candidate = without(a_step(parts=2, given=()), "grad_output")
    kinds = "param,input,output,param_grad,updated_param,learning_rate"
    report = report_of(candidate, framework="torch", capture={"kinds": kinds})
    assert {found.code for found in report.diagnosis} == {"never_updated"}


def test_where_nothing_is_recorded_of_the_backward_nothing_is_said_of_it():
    candidate = without(a_step(given=("a",)), "param_grad")
    reference = without(a_step(), "param_grad")
    report = report_of(candidate, reference=reference)
    assert sentence_of(report).startswith(
        "the optimizer of the candidate is not given 1 gradient that that of the "
        "reference is given, first that of weight of b in step 0; whether backward "
        "makes them was not recorded: record param_grad to tell"
    )


def test_a_frozen_parameter_of_a_module_that_gradients_reach():
    candidate = a_step(given=("a",), made=("a",))
    assert sentence_of(report_of(candidate)).startswith(
        "gradients reach the outputs of b in step 0 of the candidate, and none its "
        "weight: 2 gradients are only in the reference, first "
        "step0/mb0/b/param_grad/weight: look for requires_grad=False"
    )
    candidate = a_step(given=("a",), made=("a",), reaches=("a",))
    assert sentence_of(report_of(candidate)).startswith(
        "no gradient reaches b in the candidate: 3 gradients are only in the reference"
    )


def test_the_calls_that_no_gradient_reaches():
    def calls(numbers):
        found = a_step()
        for call in range(1, 5):
            found[f"step0/mb0/a/output/0/call{call}"] = OUT
        for call in numbers:
            found[f"step0/mb0/a/grad_output/0/call{call}"] = OUT
        return found

    reference = calls(range(1, 5))
    report = report_of(calls([3, 4]), reference=reference)
    assert sentence_of(report).startswith(
        "no gradient reaches calls 1 and 2 of a (those numbered 0, 3 and 4 have one) "
        "in the candidate: 2 gradients are only in the reference"
    )


def test_an_input_that_no_gradient_reaches_of_a_module_that_one_does():
    """As where a module uses one of its inputs detached."""

    def with_inputs(*inputs: int):
        found = a_step()
        for number in (0, 1):
            found[f"step0/mb0/a/input/{number}"] = DATA
        for number in inputs:
            found[f"step0/mb0/a/grad_input/{number}"] = DATA
        return found

    report = report_of(with_inputs(0), reference=with_inputs(0, 1))
    assert sentence_of(report).startswith(
        "gradients reach the outputs of a in step 0 of the candidate, and none its "
        "input 1: 1 gradient is only in the reference, first "
        "step0/mb0/a/grad_input/1: look for a detach() or a no_grad() block in what "
        "makes that input"
    )


def test_a_call_of_the_closure_that_an_optimizer_does_not_make():
    """LBFGS with fewer iterations lacks no gradient."""

    def with_calls(number: int):
        found = a_step()
        for call in range(1, number):
            for name in NAMES:
                found[f"step0/{name}/main_grad/weight/call{call}"] = ONES
                found[f"step0/{name}/updated_param/weight/call{call}"] = ONES * call
        return found

    report = report_of(with_calls(2), reference=with_calls(3))
    assert "no_gradient" not in {found.code for found in report.diagnosis}
