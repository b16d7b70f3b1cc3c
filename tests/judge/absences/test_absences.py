"""What one run does not have: found in one way, and once."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.judge.absences import absences
from ttrace.pipeline import compare_traces

ONES = np.ones(4, np.float32)


def model(*layers: str):
    tensors = {"step0/head/param/weight": ONES, "step0/mb0/head/output/0": ONES}
    for layer in layers:
        tensors |= {
            f"step0/{layer}.mlp/param/weight": ONES,
            f"step0/mb0/{layer}.mlp/output/0": ONES,
            f"step0/mb0/{layer}/output/0": ONES,
            f"step0/{layer}.mlp/main_grad/weight": ONES,
        }
    return memory_trace(tensors)


def report(reference, candidate):
    return compare_traces(reference, candidate, load_backend("numpy"))


@pytest.mark.parametrize("layer", ["layers.2", "stages.0.blocks.2"])
def test_a_layer_that_is_absent_is_told_by_headline_and_diagnosis(layer):
    """Also one within a stage that both runs have."""
    row = layer.rpartition(".")[0]
    found = report(model(f"{row}.0", f"{row}.1", layer), model(f"{row}.0", f"{row}.1"))
    assert found.first_divergence is not None
    assert found.first_divergence.sentence.endswith(
        f"; no rank of the candidate has {layer}"
    )
    (absent,) = [each for each in found.diagnosis if each.code == "missing_layers"]
    assert f"missing in the candidate, {layer} (4 tensors" in absent.sentence


def test_layers_of_another_name_are_not_absent():
    found = report(model("layers.0", "layers.1"), model("blocks.0", "blocks.1"))
    assert not [each for each in found.diagnosis if each.code == "missing_layers"]
    assert found.first_divergence is not None
    assert "no rank" not in found.first_divergence.sentence


def test_it_is_looked_for_once_in_a_report(monkeypatch):
    calls = []
    original = absences.modules_not_run

    def counted(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(absences, "modules_not_run", counted)
    report(model("layers.0", "layers.1"), model("layers.0"))
    assert len(calls) == 1
