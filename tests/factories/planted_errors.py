"""Small dataflows with planted errors, and what a comparison of them says."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from tests.factories.dataflows import Part, a_step
from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report

ONES = np.ones(8, np.float32)

LEAF = Part()

models = st.recursive(
    st.just(LEAF),
    lambda inner: st.builds(
        Part,
        parts=st.lists(inner, min_size=1, max_size=4).map(tuple),
        is_sum=st.booleans(),
    ),
    max_leaves=8,
).filter(lambda model: bool(model.parts))

few = settings(max_examples=25, deadline=None)


def compare(reference, candidate) -> Report:
    """Both are values by text of the id."""
    return compare_traces(
        memory_trace(reference), memory_trace(candidate), load_backend("numpy")
    )


def failed(report: Report) -> set[str]:
    return {tensor.id for tensor in report.failed()}


def planted(data, model: Part, number: int) -> list[str]:
    """Ids at which an error may begin; what a run is given is none."""
    texts = [
        text
        for text in a_step(model)
        if "/param/" not in text and "@root/input" not in text
    ]
    return data.draw(
        st.lists(st.sampled_from(texts), min_size=number, max_size=number, unique=True)
    )
