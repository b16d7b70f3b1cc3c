"""What inputs are tolerated, which scripts of two frameworks may compute."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import ErrorKind, Outcome

SAMPLES = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)


def verdict_on(
    given: np.ndarray, *, framework: str
) -> tuple[Outcome, ErrorKind | None]:
    """Of a run that is given this, against one of torch that is given the samples."""
    reference, candidate = (
        memory_trace(
            {
                "step0/mb0/@root/input/0": value,
                "step0/mb0/@root/output/0": SAMPLES,
                "step0/mb0/@root/grad_output/0": SAMPLES,
                "step0/fc/main_grad/w": SAMPLES,
                "step0/fc/updated_param/w": SAMPLES,
            },
            framework=name,
        )
        for value, name in ((SAMPLES, "torch"), (given, framework))
    )
    report = compare_traces(reference, candidate, load_backend("numpy"))
    return report.verdict, report.error_kind


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_inputs_are_the_same_but_for_rounding_between_frameworks(framework):
    rounded = np.nextafter(SAMPLES, np.float32(9))
    of_one = (Outcome.ERROR, ErrorKind.SETUP)
    assert verdict_on(SAMPLES, framework=framework)[0] is Outcome.PASS
    assert verdict_on(rounded, framework=framework) == (
        (Outcome.PASS, None) if framework == "jax" else of_one
    )
    assert verdict_on(SAMPLES * 1.001, framework=framework) == of_one


def test_tokens_are_the_same_in_every_framework():
    tokens = np.arange(8)
    reference, candidate = (
        memory_trace({"step0/mb0/@root/input/0": value}, framework=framework)
        for value, framework in ((tokens, "torch"), (tokens + 1, "jax"))
    )
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert (report.verdict, report.error_kind) == (Outcome.ERROR, ErrorKind.SETUP)
