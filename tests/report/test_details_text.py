"""What the text report says of the details of the first divergence."""

from dataclasses import replace

import pytest

from tests.compare.details.test_tensor_details import DETAILS
from ttrace.compare.details.tensor_details import ErrorPlace
from ttrace.judge.diagnosis import Diagnosis
from ttrace.report.details_text import closer_look_sentence
from ttrace.report.text import render_text
from ttrace.testing.report_samples import diverged_report, failed_tensor

ID = "step0/mb0/decoder.layers.3.mlp/output/0"
BEYOND = "off by more than 0.0902 (tolerance x root mean square of the reference)"


def report(diagnosis=(), **fields):
    """One whose first divergence has details."""
    details = replace(DETAILS, **{"place": None, "num_beyond": 3, **fields})
    return with_tensor(details=details, diagnosis=diagnosis)


def with_tensor(*, diagnosis=(), **fields):
    tensor = replace(failed_tensor(ID), **fields)
    return replace(diverged_report(), tensors=(tensor,), diagnosis=tuple(diagnosis))


def test_one_element_is_named():
    assert closer_look_sentence(report(num_beyond=1)) == (
        f"1 of the 12 elements of {ID} is {BEYOND}, at [2, 1]: look at what computes "
        "this element"
    )


def test_some_elements_are_counted():
    assert closer_look_sentence(report()) == (
        f"3 of the 12 elements of {ID} are {BEYOND}: look at what these have in common"
    )


def test_where_most_are_off_and_lie_nowhere_nothing_is_said():
    assert closer_look_sentence(report(num_beyond=8)) == ""


def test_of_a_single_number_nothing_is_said():
    scalar = with_tensor(details=replace(DETAILS, num_beyond=1), num_elements=1)
    assert closer_look_sentence(scalar) == ""


@pytest.mark.parametrize(
    ("fit", "cosine", "words"),
    [
        (1.5, 1.0, "all of it is 1.5 times the reference's"),
        (
            0.75,
            0.5,
            "no one factor makes it the reference's (cosine 0.5). Go through the "
            "operations of both in their order: which there are, over which dims, and "
            "with which settings",
        ),
        (
            0.125,
            0.125,
            "its norm is the reference's, as where the same elements lie in another "
            "order (cosine 0.125). Go through the operations of both in their order: "
            "which there are, over which dims, and with which settings",
        ),
    ],
)
def test_all_elements(fit, cosine, words):
    found = closer_look_sentence(
        with_tensor(
            details=replace(DETAILS, num_beyond=12, place=None),
            scale_fit=fit,
            cosine=cosine,
        )
    )
    assert found.startswith(f"12 of the 12 elements of {ID} are off by more than ")
    assert found.endswith(f": {words}")


@pytest.mark.parametrize(
    ("ranks", "held"),
    [
        ((), ""),
        ((2,), ", which only rank 2 of the candidate holds"),
        ((2, 3, 4, 6), ", which only ranks 2-4, 6 of the candidate hold"),
        (
            tuple(range(0, 20, 2)),
            ", which only ranks 0, 2, 4, 6 and 6 more of the candidate hold",
        ),
    ],
)
def test_a_place_and_who_holds_it(ranks, held):
    place = ErrorPlace(dim=1, ranges=((24, 32), (40, 41)), share=0.942, ranks=ranks)
    assert closer_look_sentence(report(place=place)) == (
        f"3 of the 12 elements of {ID} are {BEYOND}, and 94.2 % of the squared error "
        f"lies at indices 24:32, 40 of dim 1{held}: look for what is done to these "
        "alone"
    )


def test_a_diagnosis_of_the_place_is_not_repeated():
    place = ErrorPlace(dim=1, ranges=((24, 32),), share=0.942)
    told = Diagnosis(code="confined_error", sentence="x", evidence={}, tensor_ids=(ID,))
    assert (
        closer_look_sentence(report(place=place, diagnosis=[told]))
        == f"3 of the 12 elements of {ID} are {BEYOND}"
    )
    of_another = replace(told, tensor_ids=("step0/mb0/a/output/0",))
    assert "dim 1" in closer_look_sentence(report(place=place, diagnosis=[of_another]))


def test_what_a_diagnosis_says_of_all_of_it_is_not_repeated():
    scaled = Diagnosis(code="scaled", sentence="x", evidence={}, tensor_ids=(ID,))
    assert closer_look_sentence(report(num_beyond=12, diagnosis=[scaled])) == ""
    assert "3 of the 12" in closer_look_sentence(report(diagnosis=[scaled]))


def test_where_nothing_is_tolerated_there_is_no_limit_to_name():
    exact = with_tensor(details=replace(DETAILS, place=None), tolerance=0.0)
    assert closer_look_sentence(exact) == (
        f"3 of the 12 elements of {ID} are off: look at what these have in common"
    )


@pytest.mark.parametrize(
    "nothing",
    [
        with_tensor(),
        report(num_beyond=0),
        replace(report(), first_divergence=None),
        replace(report(), tensors=()),
    ],
)
def test_nothing_is_said_of_what_was_not_looked_at(nothing):
    assert closer_look_sentence(nothing) == ""
    assert "closer look" not in render_text(nothing)


def test_the_text_report_has_one_line_of_it():
    text = render_text(report(num_beyond=1))
    assert text.count("closer look: 1 of the 12 elements") == 1
