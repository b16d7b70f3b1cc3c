"""Modules with parameters that they have in one of the runs only."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.store.memory_trace import MemoryTrace

VALUES = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)

ADAPTERS = ["lora_A.default", "lora_B.default"]


def run(
    *, adapters: Sequence[str] = (), layers: Sequence[int] = (0, 1), off: float = 0.0
) -> MemoryTrace:
    """Two layers with a linear module each, some of which have adapters."""
    tensors: dict[str, Tensor | np.ndarray] = {}
    for layer in range(2):
        up = f"layers.{layer}.up"
        for name in ["", *(f".{each}" for each in adapters if layer in layers)]:
            tensors[f"step0/{up}{name}/param/weight"] = VALUES
    wrong = np.float32(0)
    for layer in range(2):
        place = f"step0/mb0/layers.{layer}.up"
        tensors[f"{place}/input/0"] = VALUES + wrong
        wrong = np.float32(off) if layer in layers else wrong
        for name in adapters if layer in layers else ():
            tensors[f"{place}.{name}/output/0"] = VALUES
        tensors[f"{place}/output/0"] = VALUES + wrong
    return memory_trace(tensors)


def said(reference: MemoryTrace, candidate: MemoryTrace) -> str | None:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    found = {each.code: each.sentence for each in report.diagnosis}
    return found.get("one_sided_parameters")


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_adapters_that_one_run_has(side: str):
    pair = (run(adapters=ADAPTERS), run(off=1))
    if side == "candidate":
        pair = (run(), run(adapters=ADAPTERS, off=1))
    assert said(*pair) == (
        "layers.0.up has parameters lora_A.default/weight, lora_B.default/weight in "
        f"the {side} only, and its output is the first to differ; 2 more, of other "
        f"modules, are in the {side} only: build both models with the same parameters, "
        "such as adapters, norms or biases of the same modules and layers"
    )


def test_adapters_in_one_layer_only():
    found = said(run(adapters=ADAPTERS, layers=[1]), run(layers=[1], off=1))
    assert found is not None and "more" not in found
    assert found.startswith("layers.1.up has parameters lora_A.default/weight, lora_B")


def test_nothing_is_said_where_they_are_elsewhere_or_explain_nothing():
    one_layer = run(adapters=ADAPTERS, layers=[1])
    assert said(one_layer, run(off=1)) is None  # layer 0 differs first
    assert said(run(adapters=ADAPTERS), run()) is None


def test_other_names_are_not_taken_for_absent_parameters():
    other = run(adapters=["a", "b"], off=1)
    assert said(run(adapters=ADAPTERS), other) is None


def beside(*norms: str, off: float = 0.0) -> MemoryTrace:
    """A layer with modules before its attention."""
    tensors: dict[str, Tensor | np.ndarray] = {
        f"step0/h.0.{name}/param/weight": VALUES for name in (*norms, "attn")
    }
    for name in norms:
        tensors[f"step0/mb0/h.0.{name}/output/0"] = VALUES
    tensors["step0/mb0/h.0.attn/input/0"] = VALUES + np.float32(off)
    return memory_trace(tensors)


def test_a_norm_before_the_module_that_differs_first():
    found = said(beside("norm"), beside(off=1))
    assert found is not None and found.startswith(
        "h.0.norm is in the reference only, with its parameter weight, and input 0 of "
        "h.0.attn beside it is the first to differ: build both models"
    )
    assert said(beside("norm"), beside("ln", off=1)) is None  # perhaps the same
