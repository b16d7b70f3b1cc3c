"""Layers that one run leaves out: named as such, and first."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.mapping.map_file import parse_map
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report

LAYERS = tuple(f"layers.{number}" for number in range(3))
ONES = np.ones(8, np.float32)


def a_step(step=0, *, factor=1.0, layers=LAYERS, frozen=()):
    """A model of layers, each of which has a part with a parameter."""
    values = ONES * np.float32(factor)
    modules = [f"{layer}{part}" for layer in layers for part in ("", ".w")]
    modules.append("head")
    held = [module for module in modules if module not in layers]
    trained = [module for module in held if module not in frozen]
    tensors = {f"step{step}/{module}/param/weight": ONES for module in held}
    at = f"step{step}/mb0"
    tensors[f"{at}/embedding/output/0"] = ONES
    for module in modules:
        tensors[f"{at}/{module}/input/0"] = values
        tensors[f"{at}/{module}/output/0"] = values
    for module in reversed(trained):
        tensors[f"{at}/{module}/param_grad/weight"] = values
    tensors |= {f"step{step}/{m}/main_grad/weight": values for m in trained}
    tensors |= {f"step{step}/{m}/updated_param/weight": ONES / 2 for m in held}
    return tensors


def without(tensors, *layers, keep=("param",)):
    """Of layers, only these kinds are left, and the head is given something else."""
    left = {
        text: values
        for text, values in tensors.items()
        if not any(f"/{layer}/" in text or f"/{layer}." in text for layer in layers)
        or text.split("/")[-2] in keep
    }
    return left | {f"step0/mb0/head/{what}/0": ONES * 2 for what in ("input", "output")}


def compare(reference, candidate) -> tuple[Report, dict[str, str]]:
    report = compare_traces(
        memory_trace(reference), memory_trace(candidate), load_backend("numpy")
    )
    return report, {found.code: found.sentence for found in report.diagnosis}


def test_a_layer_that_is_never_called():
    report, found = compare(a_step(), without(a_step(), "layers.2"))
    assert found["not_run"] == (
        "layers.2 does not run in step 0 of the candidate, which has its parameters: "
        "all its inputs and outputs (4 tensors) are only in the reference, and no "
        "gradient reaches its parameters in the candidate: look at where layers.2 is "
        "called, or skipped"
    )
    assert "no_gradient" not in found
    first = report.first_divergence
    assert first is not None and first.id == "step0/mb0/layers.2/input/0"
    assert first.sentence == (
        "step 0, micro-batch 0: input 0 of layers.2: only in the reference; layers.2 "
        "does not run in the candidate"
    )


def test_a_layer_that_a_map_finds_no_counterpart_of():
    """It is called nowhere in the buggy run that the map was made of."""
    candidate = without(a_step(), "layers.2")
    text = "".join(
        f'[[ignore]]\nside = "reference"\npattern = "layers.2*/{kind}/*"\n'
        'reason = "no counterpart was found in the candidate"\n'
        for kind in ("input", "output")
    )
    report = compare_traces(
        memory_trace(a_step()),
        memory_trace(candidate),
        load_backend("numpy"),
        map_file=parse_map(text, Path("m.toml")),
    )
    assert "not_run" in {found.code for found in report.diagnosis}
    first = report.first_divergence
    assert first is not None and first.sentence == (
        "step 0, micro-batch 0: input 0 of layers.2: only in the reference; layers.2 "
        "does not run in the candidate"
    )


def test_a_gradient_buffer_of_zeros_is_no_gradient():
    candidate = without(a_step(), "layers.2", keep=("param", "main_grad"))
    candidate["step0/layers.2.w/main_grad/weight"] = ONES * 0
    assert "not_run" in compare(a_step(), candidate)[1]


def test_a_layer_that_no_stage_has():
    report, found = compare(a_step(), without(a_step(), "layers.1", keep=()))
    assert "not_run" not in found and found["missing_layers"].startswith(
        "1 whole layer is missing in the candidate, layers.1"
    )
    first = report.first_divergence
    assert first is not None and first.id == "step0/mb0/layers.1/input/0"
    assert first.sentence.endswith("; no rank of the candidate has layers.1")


def test_layers_of_the_candidate_alone():
    reference = without(a_step(), "layers.1", "layers.2")
    found = compare(reference, a_step())[1]
    assert found["not_run"].startswith(
        "layers.1, layers.2 do not run in step 0 of the reference, which has their "
        "parameters: all their inputs and outputs (8 tensors) are only in the candidate"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("gradient", "its weight is used by a fused kernel"),
        ("frozen", "nothing tells whether its weight is used"),
        ("renamed", "it has another name"),
        ("before", "the input of the layers is wrong before"),
        ("detached", "it runs"),
    ],
)
def test_what_may_run_all_the_same(change, why):
    reference = a_step(frozen=("layers.2.w",) if change == "frozen" else ())
    candidate = without(reference, "layers.2")
    if change == "gradient":
        for text in ("mb0/layers.2.w/param_grad", "layers.2.w/main_grad"):
            candidate[f"step0/{text}/weight"] = ONES
    elif change == "renamed":
        candidate = without(reference, "layers.2", keep=())
        for text, values in reference.items():
            if "layers.2" in text:
                candidate[text.replace("layers.2", "layers.7")] = values
    elif change == "before":
        candidate["step0/mb0/embedding/output/0"] = ONES * 2
    elif change == "detached":
        candidate["step0/mb0/layers.2.w/output/0"] = ONES
    assert "not_run" not in compare(reference, candidate)[1], why
