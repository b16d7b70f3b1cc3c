"""What a wrapper or a link keeps, that the optimizer of one run alone has."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

COUNT = np.zeros((), np.int32)


def run(*slots: str, module: str = "@root", framework: str = "jax"):
    tensors: dict[str, np.ndarray] = {"step0/mb0/@root/loss": np.ones((), np.float32)}
    for slot in slots:
        tensors[f"step0/{module}/optimizer_state/{slot}"] = COUNT
    return memory_trace(tensors, framework=framework)


OF_A_WRAPPER = "ApplyIfFiniteState.total_notfinite"


def test_it_is_skipped_with_the_reason():
    backend = load_backend("numpy")
    runs = {"reference": run("count"), "candidate": run("count", OF_A_WRAPPER)}
    for sides in (("reference", "candidate"), ("candidate", "reference")):
        report = compare_traces(runs[sides[0]], runs[sides[1]], backend)
        assert report.verdict == "pass" and report.counts.unmatched == 0
        lone = "candidate" if sides[0] == "reference" else "reference"
        assert report.counts.skipped_reasons == {
            f"{lone}: kept by a part of its optimizer, ApplyIfFiniteState, that the "
            "other run's does not have under this name: what the optimizer is given, "
            "keeps for parameters and updates is compared": 1
        }


@pytest.mark.parametrize(
    ("slot", "module", "framework"),
    [
        ("count", "@root", "jax"),
        (OF_A_WRAPPER, "layer", "jax"),
        (OF_A_WRAPPER, "@root", "torch"),
    ],
)
def test_anything_else_that_one_run_keeps_alone_is_unmatched(slot, module, framework):
    report = compare_traces(
        run(framework=framework),
        run(slot, module=module, framework=framework),
        load_backend("numpy"),
    )
    assert report.counts.unmatched == 1
