"""The main job on PyTorch and JAX: ports pass in every layout, and bugs are found."""

from collections.abc import Iterator

import pytest

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.examples.bug_zoo.jax_options import SCRIPT, TORCH_SCRIPT
from ttrace.examples.bug_zoo.registry import select_bugs
from ttrace.examples.bug_zoo.runner import run_bug
from ttrace.examples.jax_port.config import map_path
from ttrace.examples.main_job import Launch, MainJob
from ttrace.mapping.map_file import read_map
from ttrace.report.model import Outcome

EVERY_KIND = {
    *("param", "input", "output", "loss", "grad_output", "grad_input"),
    *("param_grad", "main_grad", "grad_norm", "optimizer_state", "updated_param"),
    "learning_rate",
}


@pytest.fixture(scope="module")
def job() -> Iterator[MainJob]:
    with MainJob(NumpyBackend(), timeout_s=600) as main_job:
        yield main_job


@pytest.mark.parametrize(
    ("model", "flavor", "layout", "map_name"),
    [
        ("gpt2", "linen", "dp_tp", "gpt2_linen"),
        ("gpt2", "nnx", "shard_map", "gpt2_nnx"),
        ("llama", "linen", "fsdp", "llama_linen"),
        ("llama", "nnx", "scan_remat", "llama_nnx_stacked"),
    ],
)
def test_port_computes_what_transformers_does(job, model, flavor, layout, map_name):
    options = ("--model", model, "--uneven-lengths", "--steps", "1")
    places = ("--flavor", flavor, "--layout", layout, "--mesh", "2x4")
    report = job.check(
        Launch(script=TORCH_SCRIPT, options=options),
        Launch(script=SCRIPT, options=(*options, *places)),
        map_file=read_map(map_path(map_name)),
    )
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.unmatched == 0
    kinds = {tensor.kind for tensor in report.tensors if tensor.status == "passed"}
    assert kinds == EVERY_KIND
    # What only one side has is left out by name; nothing is for want of a layout.
    reasons = [t.reason for t in report.tensors if t.status == "skipped"]
    known = "ignored by the map", "untouched", "has no such group of parameters"
    unknown = [r for r in reasons if not any(text in r for text in known)]
    assert unknown == []


@pytest.mark.parametrize("name", ["gelu_exact", "summed_twice"])
def test_a_bug_is_found_at_its_place(job, name):
    (exhibit,) = select_bugs([name])
    result = run_bug(exhibit, job)
    assert result.clean == "pass", result.reason
    assert result.found
    assert result.module_right, result.first_divergence
    assert result.diagnosis_right is not False  # None where no diagnosis says it
