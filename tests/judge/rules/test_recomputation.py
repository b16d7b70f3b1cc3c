"""The diagnosis that a recomputed forward gives something else."""

import numpy as np

from tests.factories.traces import memory_trace
from tests.judge.rules.test_rules import diagnoses

VALUES = np.arange(1, 9, dtype=np.float32)
OTHER = VALUES[::-1].copy()
INPUT, OUTPUT = (f"step0/mb0/drop/{kind}/0" for kind in ("input", "output"))
AGAIN = f"{OUTPUT}/recompute"
INPUT_AGAIN = f"{INPUT}/recompute"
# The reference recomputes nothing: its forward stands for both passes.
REFERENCE = memory_trace({INPUT: VALUES, OUTPUT: VALUES})


def test_other_outputs_are_recomputed():
    candidate = memory_trace(
        {INPUT: VALUES, OUTPUT: VALUES, INPUT_AGAIN: VALUES, AGAIN: OTHER}
    )
    found = diagnoses(REFERENCE, candidate)["recomputation"]
    assert found.sentence == (
        "recomputed for backward, drop gives something else than in the forward, "
        "which agrees with the reference (1 tensor in all). A recomputation must draw "
        "the same random numbers (preserve_rng_state of torch.utils.checkpoint) and "
        "find all that it reads as it was"
    )
    assert found.tensor_ids == (AGAIN,)
    assert found.evidence == {"module": "drop", "num_tensors": 1}


def test_other_inputs_are_recomputed_from():
    candidate = memory_trace({INPUT: VALUES, OUTPUT: VALUES, INPUT_AGAIN: OTHER})
    found = diagnoses(REFERENCE, candidate)["recomputation"]
    assert found.sentence.startswith("recomputed for backward, drop is given something")


def test_a_forward_that_is_wrong_itself_is_no_matter_of_recomputation():
    candidate = memory_trace({INPUT: VALUES, OUTPUT: OTHER, AGAIN: OTHER})
    assert "recomputation" not in diagnoses(REFERENCE, candidate)


def test_it_must_be_the_first_that_failed():
    first = "step0/mb0/a/output/0"
    reference = memory_trace({first: VALUES, INPUT: VALUES, OUTPUT: VALUES})
    candidate = memory_trace(
        {first: OTHER, INPUT: VALUES, OUTPUT: VALUES, AGAIN: OTHER}
    )
    assert "recomputation" not in diagnoses(reference, candidate)


def test_another_shape_is_no_other_value():
    candidate = memory_trace({INPUT: VALUES, OUTPUT: VALUES, AGAIN: VALUES[:4]})
    assert "recomputation" not in diagnoses(REFERENCE, candidate)
