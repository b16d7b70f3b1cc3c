"""The demo, from the checkout: both scenarios, on real megatron-core processes."""

import importlib.util
import json
from pathlib import Path

import pytest

from ttrace.report.model import Outcome, Report


def test_demo_finds_the_live_bug_and_passes_the_correct_layout(
    ttrace, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    answer = ttrace("demo", "--backend", "numpy")
    assert answer.code == 0, answer.out + answer.err

    bug, clean = (
        Report.from_json(json.loads(Path("demo", name, "report.json").read_text()))
        for name in ("bug", "clean")
    )
    assert bug.verdict is Outcome.DIVERGED
    assert clean.verdict is Outcome.PASS
    assert clean.counts.failed == clean.counts.unmatched == 0

    # The experts' main gradients are wrong and their replicas differ; everything
    # before them agrees, the loss included.
    failed = [tensor for tensor in bug.tensors if tensor.status == "failed"]
    assert {tensor.kind for tensor in failed} == {
        *("main_grad", "grad_norm", "optimizer_state", "updated_param")
    }
    assert all("local_experts" in t.id for t in failed if t.kind == "main_grad")
    assert bug.first_divergence is not None
    assert bug.first_divergence.kind == "main_grad"
    assert [item.code for item in bug.diagnosis][:1] == ["replicas_differ"]
    assert bug.diagnosis[0].evidence["axes"] == "edp"
    losses = [tensor.status for tensor in bug.tensors if tensor.kind == "loss"]
    assert losses == ["passed", "passed"]

    closing = answer.out.splitlines()[-3:]
    assert closing[0] == "bug: diverged (demo/bug/report.json)"
    assert closing[1].startswith("  first divergence: step 0: main_grad weight of ")
    assert closing[2] == "clean: pass (demo/clean/report.json)"


@pytest.mark.parametrize("package", ["torch", "megatron"])
def test_demo_without_its_extra_says_what_to_install(ttrace, monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else found(name, *rest),
    )
    answer = ttrace("demo")
    assert answer.code == 2
    assert f"the demo trains with {package}, which is not installed" in answer.err
    assert "pip install ttrace[megatron]" in answer.err
