"""Whole layers that one run lacks are one line, and not a list of tensors."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses

ONES = np.ones(4, np.float32)


def model(*layers: int, sizes=None, without=(), name="decoder.layers"):
    tensors = {"step0/head/param/weight": ONES}
    for layer in layers:
        tensors |= {
            f"step0/{name}.{layer}.mlp/param/weight": ONES,
            f"step0/mb0/{name}.{layer}.mlp/output/0": ONES,
            f"step0/mb0/{name}.{layer}/output/0": ONES,
        }
    kept = {text: v for text, v in tensors.items() if text not in without}
    return memory_trace(kept, sizes)


def test_a_layer_that_no_stage_has():
    found = diagnoses(model(0, 1, 2, 3), model(0, 1, 3, sizes={"pp": 2}))
    assert found["missing_layers"].sentence == (
        "1 whole layer is missing in the candidate, decoder.layers.2 (3 tensors of the "
        "reference): give both runs the same layers, and look at how they are divided "
        "over the pipeline's stages"
    )
    assert len(found["missing_layers"].tensor_ids) == 3


def test_layers_that_only_the_candidate_has():
    found = diagnoses(model(0, 1), model(0, 1, 2, 3))
    assert found["missing_layers"].sentence == (
        "2 whole layers are missing in the reference, decoder.layers.2, "
        "decoder.layers.3 (6 tensors of the candidate): give both runs the same layers"
    )


@pytest.mark.parametrize(
    "candidate",
    [
        model(0, 1),
        model(0, 1, without=["step0/mb0/decoder.layers.1.mlp/output/0"]),
        model(0, 1, name="blocks"),
    ],
    ids=["none", "a module of one", "other names"],
)
def test_what_is_no_missing_layer_is_not_said(candidate):
    assert "missing_layers" not in diagnoses(model(0, 1), candidate)


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_layer_of_which_something_is_skipped(side):
    """The run that has it skips some of it itself, or the other one has that."""
    skipped = {
        "step0/mb0/decoder.layers.2.mlp/grad_input/0": "handed through untouched"
    }
    runs = {"reference": (0, 1, 2, 3), "candidate": (0, 1, 3)}
    traces = []
    for name, layers in runs.items():
        whole = {"step0/head/param/weight": ONES}
        for layer in layers:
            whole[f"step0/decoder.layers.{layer}.mlp/param/weight"] = ONES
        traces.append(memory_trace(whole, skipped=skipped if name == side else None))
    assert ("missing_layers" in diagnoses(*traces)) == (side == "reference")
