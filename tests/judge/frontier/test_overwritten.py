"""Where failures begin in a run whose modules were given right values."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.factories.dataflows import Part, a_step
from tests.factories.planted_errors import (
    LEAF,
    ONES,
    failed,
    few,
    models,
    planted,
)
from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report


def put_in(model: Part) -> dict[str, np.ndarray]:
    """The right values of all that modules are given."""
    right = a_step(model, put_in={"nothing": ONES})  # with the gradient of the output
    return {
        text: values
        for text, values in right.items()
        if "/input/" in text or "/grad_output/" in text
    }


def compare_rewritten(model: Part, wrong: list[str]) -> Report:
    values = put_in(model)
    right = a_step(model, put_in=values)
    return compare_traces(
        memory_trace(right),
        memory_trace(a_step(model, wrong, put_in=values)),
        load_backend("numpy"),
        overwritten={parse_tensor_id(text) for text in values},
    )


def results_of_leaves(model: Part) -> list[str]:
    """Ids of what modules without inner ones return, both ways."""
    texts = a_step(model)
    leaves = {text.split("/")[1] for text in texts if "/param/" in text}
    return [
        text
        for text in texts
        if ("/output/" in text or "/grad_input/" in text)
        and text.split("/")[2] in leaves
    ]


@few
@given(model=models.filter(lambda model: len(a_step(model)) > 30), data=st.data())
def test_of_modules_given_right_values_each_wrong_one_is_a_place(model, data):
    """Also where all that one of them computes would follow from the other."""
    texts = st.sampled_from(results_of_leaves(model))
    wrong = st.lists(
        texts, min_size=2, max_size=2, unique_by=lambda text: text.split("/")[2]
    )
    one, other = data.draw(wrong)
    report = compare_rewritten(model, [one, other])
    assert {id_ for culprit in report.culprits for id_ in culprit.ids} == {one, other}


@few
@given(model=models, data=st.data())
def test_one_error_in_what_is_given_or_made_is_one_place_there_too(model, data):
    (text,) = planted(data, model, 1)
    (culprit,) = compare_rewritten(model, [text]).culprits
    assert culprit.ids == (text,)
    assert culprit.inputs_agree


def test_what_comes_wrong_to_a_module_is_the_place_and_not_what_it_makes():
    """The code between two modules: what arrives is recorded before it is replaced."""
    model = Part(parts=(LEAF, LEAF, LEAF))
    wrong = ["step0/mb0/b/input/0", "step0/mb0/c/output/0"]
    report = compare_rewritten(model, wrong)
    assert [culprit.id for culprit in report.culprits] == wrong
    assert "step0/mb0/b/output/0" not in failed(report)
