"""Megatron-Core under tensor parallelism and the ports to JAX agree; bugs are found.

The runs are real: two processes of Megatron with gloo, eight devices of JAX.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.paths import ROOT

pytest.importorskip("megatron.core")

from ttrace.backends.numpy_backend import NumpyBackend  # noqa: E402
from ttrace.compare.align import Side  # noqa: E402
from ttrace.examples.bug_zoo.registry import select_bugs  # noqa: E402
from ttrace.examples.jax_port.config import map_path  # noqa: E402
from ttrace.examples.main_job import Launch, MainJob  # noqa: E402
from ttrace.map_proposal.proposing import propose_map  # noqa: E402
from ttrace.mapping.map_file import parse_map, read_map  # noqa: E402
from ttrace.mapping.map_writer import map_text  # noqa: E402
from ttrace.report.model import Outcome, Report  # noqa: E402

EVERY_KIND = {
    *("param", "input", "output", "loss", "grad_output", "grad_input"),
    *("param_grad", "main_grad", "grad_norm", "optimizer_state", "updated_param"),
}
SHARED = (
    *("--num-layers", "2", "--num-attention-heads", "8", "--seq-length", "16"),
    *("--train-iters", "1"),
)
LLAMA = Launch(
    script="ttrace.examples.megatron_gpt.train",
    options=(
        *SHARED,
        *("--tensor-model-parallel-size", "2"),
        *("--micro-batch-size", "8", "--swiglu", "--ffn-hidden-size", "128"),
        *("--normalization", "RMSNorm", "--norm-epsilon", "1e-6"),
        *("--position-embedding-type", "rope", "--num-query-groups", "4"),
        *("--untie-embeddings-and-output-weights", "--disable-bias-linear"),
        *("--weight-decay", "0.1", "--adam-beta2", "0.95"),
    ),
    world_size=2,
)
WITH_SP = replace(LLAMA, options=(*LLAMA.options, "--sequence-parallel"))


def llama_port(flavor: str, layout: str, initial_map: Path, *patches: Path) -> Launch:
    return Launch(
        script="ttrace.examples.jax_port.jax_train",
        options=(
            *SHARED,
            *("--model", "llama", "--flavor", flavor, "--layout", layout),
            *("--mesh", "2x4", "--clip-grad", "1", "--initial-map", str(initial_map)),
        ),
        patches=patches,
    )


@pytest.fixture(scope="module")
def job() -> Iterator[MainJob]:
    with MainJob(NumpyBackend(), timeout_s=600) as main_job:
        yield main_job


def require_pass(report: Report) -> None:
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.unmatched == 0
    passed = {tensor.kind for tensor in report.tensors if tensor.status == "passed"}
    assert passed == EVERY_KIND
    # What only one side has is left out by name; nothing is for want of a layout.
    known = (
        *("ignored by the map", "untouched", "returns a parameter"),
        "has no such group of parameters",
        "the output of 'embedding' is the same tensor",
        "an input without gradient, such as a mask",
    )
    reasons = [t.reason for t in report.tensors if t.status == "skipped"]
    unknown = [r for r in reasons if not any(text in r for text in known)]
    assert unknown == []


def documented_command() -> dict[str, str]:
    """The check in the documentation of Megatron against a port, by option."""
    text = (ROOT / "docs" / "jax.md").read_text()
    (line,) = re.findall(
        r"^ttrace check --map \S+/megatron_\S+ .*$", text, re.MULTILINE
    )
    words = shlex.split(line)[2:]
    return dict(zip(words[::2], words[1::2], strict=True))


def launch(command: str) -> Launch:
    """The same run on workers that stay alive."""
    words = shlex.split(command)
    start = words.index("-m")
    is_parallel = words[0] == "torchrun"
    return Launch(
        script=words[start + 1],
        options=tuple(
            str(ROOT / word) if word.startswith("examples/") else word
            for word in words[start + 2 :]
        ),
        world_size=int(words[words.index("--nproc-per-node") + 1])
        if is_parallel
        else 1,
    )


def test_the_command_of_the_docs_passes(job):
    command = documented_command()
    reference = launch(command["--reference"])
    assert reference.world_size == 2
    map_file = read_map(ROOT / command["--map"])
    report = job.check(reference, launch(command["--candidate"]), map_file=map_file)
    require_pass(report)
    passed = [tensor for tensor in report.tensors if tensor.status == "passed"]
    activations = [t for t in passed if "put" in t.kind and "param" not in t.kind]
    assert (
        f"and {len(activations)} activations" in (ROOT / "docs" / "jax.md").read_text()
    )
    # All that the port alone has, and why.
    assert {
        (entry.pattern, entry.reason)
        for entry in map_file.ignored
        if entry.side is Side.CANDIDATE and "bias" not in entry.reason
    } == {
        ("wpe/input/*", "the reference has it repeated"),
        ("wpe/output/*", "the reference has it repeated"),
        ("wpe/grad_output/*", "the reference has it repeated"),
        ("h_*/input/1", "no counterpart was found in the reference"),  # the mask
        (
            "@root/optimizer_state/*",
            "a number that the reference's optimizer keeps elsewhere",
        ),
    }


def test_sequence_parallel_layers_and_stacked_ones(job):
    path = map_path("megatron_llama_nnx_stacked")
    candidate = llama_port("nnx", "scan_remat", path)
    require_pass(job.check(WITH_SP, candidate, map_file=read_map(path)))


@pytest.mark.parametrize("name", ["gpt2_linen", "llama_linen", "llama_nnx"])
def test_the_map_is_what_ttrace_map_proposes(job, name):
    path = map_path(f"megatron_{name}")
    model, flavor = name.split("_")
    runs = LLAMA, llama_port(flavor, "dp_tp", path)
    if model == "gpt2":
        command = documented_command()
        runs = launch(command["--reference"]), launch(command["--candidate"])
    reference, candidate = map(job.record, runs)
    proposal = propose_map(reference, candidate, path)
    assert proposal.unmatched == () and proposal.map_file.num_unverified == 0
    proposed = parse_map(map_text(proposal.map_file), path)
    assert map_text(proposed) == map_text(read_map(path))


def test_rotary_pairs_for_halves(job):
    """The linears agree; what the attention makes of them does not."""
    path = map_path("megatron_llama_nnx")
    (bug,) = select_bugs(["rope_pairs"])
    candidate = llama_port("nnx", "dp_tp", path, bug.path)
    report = job.check(LLAMA, candidate, map_file=read_map(path))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    first = "step0/mb0/decoder.layers.0.self_attention.linear_proj/input/0"
    assert report.first_divergence.id == first
    status = {tensor.id: tensor.status for tensor in report.tensors}
    before = "step0/mb0/decoder.layers.0.self_attention.linear_qkv/output/0"
    assert status[before] == "passed"


def test_query_key_and_value_in_blocks(job, tmp_path):
    """The port's parameters and the map take Megatron's groups for three blocks."""
    path = map_path("megatron_llama_linen")
    groups, blocks = '"a (b part) c -> (b part c) a"', '"a part c -> (part c) a"'
    sizes = ("sizes = { part = [2, 1, 1] }", "sizes = { part = [8, 4, 4] }")
    text = path.read_text()
    assert text.count(groups) == 1 and text.count(sizes[0]) >= 1
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text.replace(groups, blocks).replace(sizes[0], sizes[1], 1))
    candidate = llama_port("linen", "dp_tp", wrong)
    report = job.check(LLAMA, candidate, map_file=read_map(wrong))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    module = "decoder.layers.0.self_attention.linear_qkv"
    assert report.first_divergence.id == f"step0/mb0/{module}/output/0"
    # With the right map the parameters differ already.
    report = job.check(LLAMA, candidate, map_file=read_map(path))
    assert report.verdict is Outcome.ERROR
    assert module in report.summary and "param" in report.summary
