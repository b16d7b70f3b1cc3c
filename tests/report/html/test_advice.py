"""What the page says is to be done next."""

from dataclasses import replace

import pytest

from tests.factories.reports import FAILED, PASSED, a_culprit, some_report
from ttrace.report.html.advice import what_to_do
from ttrace.report.model import ErrorDetails, ErrorKind, FirstDivergence, Outcome
from ttrace.testing.report_samples import passing_report


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {},
            "Begin with decoder.final_layernorm, where the first divergence is "
            "(phase: optimizer). The diagnoses below say what was found wrong. What "
            "comes later may be wrong only because of it.",
        ),
        (
            {"first_divergence": None},
            "Look at the tensors below that failed or that only one run has.",
        ),
        (
            {"verdict": Outcome.PASS},
            "Nothing that was compared needs mending. 2 tensors were not compared: see "
            "below whether that matters to you.",
        ),
        (
            {"verdict": Outcome.ERROR, "error_kind": ErrorKind.SETUP},
            "Let both runs begin alike (what differs is listed under Set-up), then "
            "compare again. Until then no difference below is known to be a bug.",
        ),
        (
            {
                "verdict": Outcome.ERROR,
                "error": ErrorDetails(what="no", remedy="record it again"),
            },
            "Record it again.",
        ),
        ({"verdict": Outcome.ERROR}, "Do what the summary says, then compare again."),
    ],
)
def test_what_to_do(changes, says):
    assert what_to_do(some_report(**changes)) == says


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_error_says_what_to_do(kind):
    text = what_to_do(some_report(verdict=Outcome.ERROR, error_kind=kind))
    assert text.endswith(".") and text != what_to_do(some_report(verdict=Outcome.ERROR))


def test_what_to_do_about_a_whole_pass():
    assert what_to_do(passing_report()) == (
        "Nothing that was compared needs mending. Every recorded tensor was compared."
    )


def _failing(*tensors):
    """A report of some ids, with what each is: the first that failed is the first."""
    made = tuple(
        replace(
            PASSED if status == "passed" else FAILED, id=id_, kind=kind, status=status
        )
        for id_, kind, status in tensors
    )
    first = next(tensor for tensor in made if tensor.status == "failed")
    step, microbatch, rest = first.id.split("/", 2)
    return some_report(
        tensors=made,
        diagnosis=(),
        first_divergence=FirstDivergence(
            id=first.id,
            module=rest.split(f"/{first.kind}/")[0],
            kind=first.kind,
            phase="forward",
            sentence="it differs",
        ),
    )


def test_an_input_that_differs_was_made_by_the_module_around():
    text = what_to_do(
        _failing(
            ("step0/mb0/block/input/0", "input", "passed"),
            ("step0/mb0/block.norm/output/0", "output", "passed"),
            ("step0/mb0/block.mlp.up/input/0", "input", "failed"),
            ("step0/mb0/block.mlp.up/output/0", "output", "failed"),
        )
    )
    assert text == (
        "Begin before block.mlp.up, which is only given what differs. The last tensor "
        "before it that agrees is step0/mb0/block.norm/output/0: look at what block "
        "does between the two. What comes later may be wrong only because of it."
    )


def test_modules_between_that_were_not_compared_are_named():
    text = what_to_do(
        _failing(
            ("step0/mb0/embedding/output/0", "output", "passed"),
            ("step0/mb0/router/output/0", "output", "skipped"),
            ("step0/mb0/head/input/0", "input", "failed"),
        )
    )
    assert (
        "look at router, which lies between and was not compared, and at what the "
        "model does between the two. " in text
    )


def test_a_gradient_that_a_module_is_given_came_from_behind_it():
    text = what_to_do(
        _failing(
            ("step0/mb0/layers.1/input/0", "input", "passed"),
            ("step0/mb0/layers.1/grad_input/0", "grad_input", "passed"),
            ("step0/mb0/layers.0/grad_output/0", "grad_output", "failed"),
        )
    )
    assert text.startswith(
        "Begin before layers.0, which is only given a gradient that differs. The last "
        "tensor before it that agrees is step0/mb0/layers.1/grad_input/0: look at what "
        "the backward of the model does between the two. "
    )


def test_a_gradient_of_an_input_was_made_by_the_module_itself():
    text = what_to_do(
        _failing(
            ("step0/mb0/mlp/input/0", "input", "passed"),
            ("step0/mb0/mlp/grad_output/0", "grad_output", "passed"),
            ("step0/mb0/mlp/grad_input/0", "grad_input", "failed"),
        )
    )
    assert text.startswith(
        "Begin with mlp, where the first divergence is (phase: backward). The last "
        "tensor before it that agrees is step0/mb0/mlp/grad_output/0: look at what the "
        "backward of mlp does between the two. "
    )


def test_what_another_micro_batch_has_lies_not_before():
    text = what_to_do(
        _failing(
            ("step0/mb0/mlp/input/0", "input", "passed"),
            ("step0/mb1/norm/input/0", "input", "skipped"),
            ("step0/mb1/mlp/input/0", "input", "failed"),
        )
    )
    assert (
        "Nothing before it in its micro-batch was compared and agrees: look at norm"
        in text
    )


def test_other_places_are_to_be_mended_too():
    culprits = (a_culprit(), a_culprit(id=PASSED.id))
    assert what_to_do(some_report(culprits=culprits)).endswith(
        "Then mend the other places below where failures begin; all else may be wrong "
        "only because of them."
    )


def test_what_only_one_run_has_is_no_wrong_computation():
    report = some_report()
    unmatched = report.tensors[2]
    assert report.first_divergence is not None
    first = replace(report.first_divergence, id=unmatched.id)
    text = what_to_do(some_report(first_divergence=first))
    assert (
        text.startswith("Find out why only one of the runs has") and "--allow" in text
    )
