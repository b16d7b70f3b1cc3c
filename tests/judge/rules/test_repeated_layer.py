"""The diagnosis that two stages of a pipeline run the same layer."""

import numpy as np

from tests.factories.traces import Tensor, memory_trace
from tests.judge.rules.test_rules import diagnoses

VALUES = np.arange(1, 9, dtype=np.float32)
LAYERS = range(4)


def output(layer: int) -> str:
    return f"step0/mb0/layers.{layer}.up/output/0"


def run(holders=None, sizes=None, *, wrong=()):
    """Outputs of four layers; ``wrong`` are ranks and layers that are off."""
    trace = memory_trace(
        {
            output(layer): Tensor(
                full=VALUES, holders=None if holders is None else holders[layer]
            )
            for layer in LAYERS
        },
        sizes,
    )
    for rank, layer in wrong:
        trace.arrays[rank, output(layer)] = VALUES * np.float32(1.5)
    return trace


def test_a_layer_in_two_stages():
    candidate = run([(0,), (0, 1), (1,), (1,)], {"pp": 2}, wrong=[(1, 1)])
    found = diagnoses(run(), candidate)
    assert found["repeated_layer"].sentence == (
        "layers.1 runs in two stages of the pipeline, on ranks 0 and 1, and what they "
        f"record of it differs (1 tensor, first {output(1)}): look at how "
        "layers are divided over the stages, so that each is in one"
    )
    assert "replicas_differ" not in found


def test_a_stage_that_has_no_layer_of_its_own():
    """As where numbers are given twice, and the last one to none."""
    candidate = run([(0,), (0, 1), (0,), (0,)], {"pp": 2}, wrong=[(1, 1)])
    found = diagnoses(run(), candidate)
    assert found["repeated_layer"].evidence["layers"] == "layers.1"
    assert "replicas_differ" not in found


def test_layers_of_several_stages():
    candidate = run(
        [(0,), (0, 1), (0, 1, 2), (1, 2)],
        {"pp": 3},
        wrong=[(1, 1), (1, 2), (2, 2), (2, 3)],
    )
    found = diagnoses(run(), candidate)
    assert found["repeated_layer"].sentence.startswith(
        "layers.1, layers.2, layers.3 run in two stages of the pipeline, layers.1 on "
        "ranks 0 and 1, and what they record of layers.1 differs"
    )


def test_replicas_of_one_stage_may_differ_beside():
    stages = [(0, 1), (0, 1, 2, 3), (2, 3), (2, 3)]
    candidate = run(stages, {"pp": 2, "tp": 2}, wrong=[(2, 1), (3, 1), (3, 2)])
    found = diagnoses(run(), candidate)
    assert "on ranks 0, 1, 2 and 3" in found["repeated_layer"].sentence
    assert found["replicas_differ"].evidence["axes"] == "tp"
    assert found["replicas_differ"].tensor_ids == (output(2),)


def test_ranks_with_the_same_layers_are_no_stages():
    candidate = run([(0, 1)] * 4, {"tp": 2}, wrong=[(1, 1)])
    found = diagnoses(run(), candidate)
    assert "repeated_layer" not in found and "replicas_differ" in found


def test_experts_that_ranks_divide_are_no_layers():
    names = [f"step0/mb0/layers.0.experts.{n}/output/0" for n in range(3)]
    holders = [(0,), (0, 1), (1,)]
    candidate = memory_trace(
        {
            n: Tensor(full=VALUES, holders=h)
            for n, h in zip(names, holders, strict=True)
        },
        {"ep": 2},
    )
    candidate.arrays[1, names[1]] = VALUES * np.float32(1.5)
    found = diagnoses(memory_trace(dict.fromkeys(names, VALUES)), candidate)
    assert "repeated_layer" not in found and "replicas_differ" in found
