"""A merged model beside the one with the adapters."""

import numpy as np

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome

LAYERS = ("layers.0.q", "layers.1.q")
GIVEN = {"step0/mb0/@root/input/0": np.arange(6).reshape(2, 3)}
OUTPUT = {"step0/mb0/@root/output/0": np.ones((2, 3), np.float32)}


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_adapters(
    num_adapters: int = 1, names=("lora_A.{}/param/weight", "lora_B.{}/param/weight")
):
    tensors = {}
    for number, layer in enumerate(LAYERS):
        tensors[f"step0/{layer}/param/weight"] = values(number, 6, 8)
        for at in range(num_adapters):
            for slot, name in enumerate(names):
                shape = (2, 8) if slot == 0 else (6, 2)
                id_ = f"step0/{layer}.{name.format(f'a{at}')}"
                tensors[id_] = values(10 + 4 * number + 2 * at + slot, *shape)
    return tensors


def merged(tensors, *factors: float):
    """The weights alone, with every pair of factors merged into them."""
    result = {}
    for layer in LAYERS:
        weight = f"step0/{layer}/param/weight"
        pairs = [v for name, v in tensors.items() if name.startswith(f"step0/{layer}.")]
        total = tensors[weight]
        for factor, first, second in zip(factors, pairs[::2], pairs[1::2], strict=True):
            total = total + np.float32(factor) * (second @ first)
        result[weight] = total
    return result


def summary(reference, candidate) -> str:
    report = compare_traces(
        memory_trace(GIVEN | reference | OUTPUT),
        memory_trace(GIVEN | candidate | OUTPUT),
        load_backend("numpy"),
    )
    assert report.verdict is Outcome.ERROR and report.error_kind == "setup"
    return report.summary.partition("tolerance 0. ")[2]


def test_a_merge_is_proven_by_the_values():
    reference = with_adapters()
    assert summary(reference, merged(reference, 2.0)) == (
        "The candidate has the adapters of the reference merged into its weights: "
        "layers.0.q/weight of the candidate is, to rounding, that of the reference + 2 "
        "x lora_B.a0 @ lora_A.a0, and 1 more weight like it. The two compute the same "
        "function of other parameters, so that neither parameters nor gradients can be "
        "compared: --kinds input,output,loss compares what both have."
    )


def test_the_reference_may_be_the_merged_one_of_two_adapters():
    candidate = with_adapters(2)
    text = summary(merged(candidate, 0.5, -1.5), candidate)
    assert text.startswith("The reference has the adapters of the candidate merged")
    assert "+ 0.5 x lora_B.a0 @ lora_A.a0 + -1.5 x lora_B.a1 @ lora_A.a1, and 1" in text


def test_factors_of_another_name():
    names = ("lora.down/param/weight", "lora.up/param/weight")
    reference = with_adapters(names=names)
    text = summary(reference, merged(reference, 1.0))
    assert "+ 1 x lora.up @ lora.down" in text


def test_factors_that_are_parameters_of_the_module_itself():
    reference, candidate = {}, {}
    for number, layer in enumerate(LAYERS):
        weight, first, second = (
            f"step0/{layer}/param/{slot}"
            for slot in ("weight", "lora_embedding_A.a0", "lora_embedding_B.a0")
        )
        reference[weight] = values(number, 8, 6)  # of an embedding, transposed
        reference[first] = values(10 + number, 2, 8)
        reference[second] = values(20 + number, 6, 2)
        product = reference[second] @ reference[first]
        candidate[weight] = reference[weight] + product.T
    text = summary(reference, candidate)
    assert "+ 1 x lora_embedding_B.a0 @ lora_embedding_A.a0" in text


def test_what_is_not_the_merge_is_asked_about():
    reference = with_adapters()
    candidate = merged(reference, 2.0)
    candidate["step0/layers.1.q/param/weight"] += 1e-3
    assert summary(reference, candidate) == (
        "2 weights differ, of modules that have adapters in the reference only "
        "(layers.0.q: lora_A.a0, lora_B.a0): were they merged into the weights of the "
        "candidate? The values show it of 1 only. If they are to be, merge all of "
        "them, unchanged, and --kinds input,output,loss compares what both have; else "
        "build both models with the same adapters and start both from the same "
        "parameters."
    )


def test_other_parameters_that_differ_are_no_matter_of_adapters():
    reference = with_adapters()
    other = "step0/head/param/weight"
    candidate = merged(reference, 2.0) | {other: values(3, 4)}
    text = summary(reference | {other: values(4, 4)}, candidate)
    assert "was it loaded?" in text
