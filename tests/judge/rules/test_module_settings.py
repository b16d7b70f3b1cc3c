"""Modules that both runs configure otherwise: one sentence, however many there are."""

import numpy as np

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.module_settings import module_key, of_layers, text_of
from ttrace.pipeline import compare_traces

VALUES = np.arange(1, 9, dtype=np.float32)
LAYERS = [f"blocks.{i}" for i in range(9)]


def run(momentum: str, *, off: float = 0.0, of: str = "updated_buffer/running_mean"):
    tensors = {}
    for layer in LAYERS:
        tensors[f"step0/mb0/{layer}.norm/input/0"] = VALUES
        tensors[f"step0/mb0/{layer}.norm/output/0"] = VALUES
    for layer in LAYERS:
        tensors[f"step0/{layer}.norm/{of}"] = VALUES + np.float32(off)
    texts = {module_key(f"{layer}.norm", "momentum"): momentum for layer in LAYERS}
    settings = of_layers(texts, [f"{layer}.norm" for layer in LAYERS])
    return memory_trace(tensors, framework="torch", settings=settings)


def compare(reference, candidate):
    report = compare_traces(reference, candidate, load_backend("numpy"))
    found = {each.code: each.sentence for each in report.diagnosis}
    return report, found.get("module_settings")


def test_one_sentence_for_nine_modules():
    report, said = compare(run("0.1"), run("0.01", off=1))
    assert said == (
        "momentum of blocks.*.norm (9 modules) is 0.1 in the reference and 0.01 in the "
        "candidate, and what differs first is "
        "step0/blocks.0.norm/updated_buffer/running_mean: configure the modules alike "
        "in both runs"
    )
    assert report.setup.differences == {"momentum of blocks.*.norm": ("0.1", "0.01")}


def test_nothing_is_said_of_other_modules_or_where_all_agrees():
    assert compare(run("0.1"), run("0.01"))[1] is None
    assert compare(run("0.1"), run("0.1", off=1))[1] is None
    candidate = run("0.01")
    pair = [trace.info.tensors for trace in (run("0.1"), candidate)]
    assert all(pair)
    elsewhere = memory_trace(
        {"step0/mb0/head/output/0": VALUES + 1},
        settings=candidate.info.ranks[0].settings,
    )
    reference = memory_trace(
        {"step0/mb0/head/output/0": VALUES},
        settings=run("0.1").info.ranks[0].settings,
    )
    assert compare(reference, elsewhere)[1] is None


def test_a_pattern_stands_for_all_modules_of_its_form():
    texts = {module_key(f"b.{i}.1", "eps"): "1e-05" for i in range(2)}
    modules = [f"b.{i}.{j}" for i in range(2) for j in range(3)]
    stated = of_layers(texts, modules)
    assert stated == {module_key("b.*.1", "eps"): "1e-05"}
    assert text_of(module_key("b.1.1", "eps"), stated) == "1e-05"
    assert text_of(module_key("b.1.0", "eps"), stated) is None
    other = {**texts, module_key("b.1.1", "eps"): "0.1"}
    assert of_layers(other, modules) == other
