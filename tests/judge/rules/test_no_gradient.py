"""Where gradients stop in the candidate: at which output or parameter, and why."""

import numpy as np

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.frozen_parameters import frozen_setting
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report

ONES = np.ones(8, np.float32)


def compare(reference, candidate) -> Report:
    return compare_traces(reference, candidate, load_backend("numpy"))


def sentence_of(report: Report, code: str = "no_gradient") -> str:
    (found,) = (each.sentence for each in report.diagnosis if each.code == code)
    return found


def a_layer(*slots: str):
    """A recurrent layer with two outputs, of which these have a gradient."""
    tensors = {
        "step0/rnn/param/weight": ONES,
        "step0/mb0/rnn/input/0": ONES,
        "step0/mb0/rnn/output/0": ONES,
        "step0/mb0/rnn/output/1": 2 * ONES,
    }
    tensors |= {f"step0/mb0/rnn/grad_output/{slot}": ONES for slot in slots}
    return memory_trace({**tensors, "step0/mb0/rnn/param_grad/weight": ONES})


def test_a_gradient_that_arrives_at_another_output():
    assert sentence_of(compare(a_layer("0"), a_layer("1"))) == (
        "output 0 of rnn has a gradient in the reference and none in the candidate "
        "(step 0): 1 gradient is only in the reference, first "
        "step0/mb0/rnn/grad_output/0. In the candidate output 1 has one instead: look "
        "at which output of rnn the candidate goes on with"
    )


def test_one_of_two_outputs_that_no_gradient_reaches():
    assert sentence_of(compare(a_layer("0", "1"), a_layer("0"))) == (
        "output 1 of rnn has a gradient in the reference and none in the candidate "
        "(step 0): 1 gradient is only in the reference, first "
        "step0/mb0/rnn/grad_output/1. Output 0 has one in both: look for a detach(), a "
        "no_grad() block, or an output that the loss does not use"
    )


def test_a_module_of_which_no_output_has_a_gradient():
    found = sentence_of(compare(a_layer("0"), a_layer()))
    assert found.startswith("no gradient reaches rnn in the candidate: ")


NAMES = ("embed", "body", "head")


def a_model(*frozen: str, states: bool = True):
    """A row of three layers: in front of the first one that is trained all is idle."""
    tensors, first = {}, min(i for i, n in enumerate(NAMES) if n not in frozen)
    for number, name in enumerate(NAMES):
        tensors[f"step0/{name}/param/weight"] = ONES * (1 + number)
    for number, name in enumerate(NAMES):
        tensors[f"step0/mb0/{name}/input/0"] = ONES * (4 + number)
        tensors[f"step0/mb0/{name}/output/0"] = ONES * (5 + number)
    for number, name in reversed(list(enumerate(NAMES))):
        values = ONES * (9 + number)
        if number >= first:
            tensors[f"step0/mb0/{name}/grad_output/0"] = values
        if number > first:
            tensors[f"step0/mb0/{name}/grad_input/0"] = values
        if name not in frozen:
            tensors[f"step0/mb0/{name}/param_grad/weight"] = values
    for number, name in enumerate(NAMES):
        if name not in frozen:
            tensors[f"step0/{name}/main_grad/weight"] = ONES * (9 + number)
    said = frozen_setting((name, "weight") for name in frozen) if states else {}
    return memory_trace(tensors, framework="torch", settings=said)


def test_a_frozen_layer_at_the_bottom_is_named_and_not_the_activation_before_it():
    report = compare(a_model(), a_model("embed"))
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/embed/param_grad/weight"
    assert [c.id for c in report.culprits] == [report.first_divergence.id]
    assert sentence_of(report) == (
        "embed.weight gets no gradient in the candidate, where its requires_grad is "
        "False as the trace begins, and has one in the reference: 4 gradients are only "
        "in the reference, first step0/mb0/embed/param_grad/weight. Set requires_grad "
        "alike in both runs, before the optimizer is made"
    )
    assert report.setup.differences == {}


def test_several_frozen_layers():
    found = sentence_of(compare(a_model(), a_model("embed", "body")))
    assert found.startswith(
        "body.weight and embed.weight get no gradient in the candidate, where their "
        "requires_grad is False as the trace begins, and have one in the reference: "
    )


def test_what_lacks_a_gradient_besides_and_is_not_frozen():
    candidate = a_model("embed", "body")
    (rank,) = candidate.info.ranks
    stated = rank.settings
    assert isinstance(stated, dict)
    stated |= frozen_setting([("embed", "weight")])
    found = sentence_of(compare(a_model(), candidate))
    assert found.endswith(
        "; body.weight has none either, and is not frozen: look for a detach(), a "
        "no_grad() block, or an output that the loss does not use"
    )


def test_of_a_run_that_does_not_say_what_is_frozen_the_place_is_named():
    report = compare(a_model(), a_model("embed", states=False))
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/body/grad_input/0"
    assert sentence_of(report) == (
        "gradients reach the outputs of body in step 0 of the candidate, and none its "
        "input 0, nor embed.weight: 4 gradients are only in the reference, first "
        "step0/mb0/body/grad_input/0: look for a detach() or a no_grad() block in what "
        "makes that input, or where the module uses it"
    )


def test_what_the_reference_alone_freezes():
    found = sentence_of(compare(a_model("embed"), a_model()), "extra_gradient")
    assert found == (
        "1 parameter has a gradient in the candidate and none in the reference, first "
        "embed.weight: its requires_grad is False there as the trace begins. Freeze "
        "the same parameters in both runs (requires_grad=False) before the optimizer "
        "is made"
    )
