"""Mistakes in collectives of Megatron: what a run shows by itself, and beside another.

The second layer of two has the mistake, in the all-reduce behind its MLP.
"""

import pytest

pytest.importorskip("megatron.core")

from ttrace.compare.backend import load_backend  # noqa: E402
from ttrace.comparison import compare_traces  # noqa: E402
from ttrace.ir.capture_filter import CaptureFilter, parse_kinds  # noqa: E402
from ttrace.pipeline import lint  # noqa: E402
from ttrace.recording.request import RecordRequest  # noqa: E402
from ttrace.store.reader import open_trace  # noqa: E402

SCRIPT = "ttrace.examples.megatron_gpt.train"
MODEL = (
    "--num-layers 2 --hidden-size 16 --num-attention-heads 2 --seq-length 8 "
    "--vocab-size 32 --global-batch-size 2 --micro-batch-size 1 --train-iters 1"
).split()
TP2 = ["--tensor-model-parallel-size", "2"]

PATCHES = {
    "right": "pass",
    "missing": "linear.explicit_expert_comm = True  # it sums nothing then",
    "wrong_group": "linear.tp_group = parallel_state.get_data_parallel_group()",
    "twice": """
        forward = linear.forward

        def forward_twice(input):
            output, bias = forward(input)
            torch.distributed.all_reduce(output, group=linear.tp_group)
            return output, bias

        linear.forward = forward_twice
""",
}
PATCH = """
import torch
from megatron.core import parallel_state


def after_build(args, models):
    for model in models:
        linear = model.decoder.layers[1].mlp.linear_fc2
        {}
"""
LINEAR = "decoder.layers.1.mlp.linear_fc2"
REDUCED = "(through megatron/core/tensor_parallel/mappings.py:"


@pytest.fixture(scope="module")
def trace(pools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("megatron")
    capture = CaptureFilter(kinds=parse_kinds("default,collective"))

    def recorded(case, *, size=4):
        out, patch = folder / f"{case}{size}", folder / f"{case}.py"
        if not out.exists():
            patch.write_text(PATCH.format(PATCHES[case].strip()))
            outcomes = pools.of_size(size).run(
                SCRIPT,
                [*MODEL, *(TP2 if size > 1 else []), "--patch", str(patch)],
                environment=RecordRequest(out=out, capture=capture).to_environment(),
                timeout_s=240,
            )
            assert [outcome.status for outcome in outcomes] == [0] * size, outcomes
        return open_trace(out)

    return recorded


def found(diagnoses):
    return {one.code: one.sentence for one in diagnoses if "collective" in one.code}


def test_a_right_run_shows_nothing(trace):
    right = trace("right")
    assert found(lint(right, backend=load_backend("numpy"))) == {}
    report = compare_traces(trace("right", size=1), right, load_backend("numpy"))
    assert report.verdict == "pass" and not report.diagnosis


@pytest.mark.parametrize(
    ("case", "code", "parts"),
    [
        (
            "missing",
            "collective_missing",
            (LINEAR, "linear_fc2 all_reduce at", REDUCED),
        ),
        ("wrong_group", "collective_missing", ("what ran there is all_reduce", "dp [")),
        (
            "twice",
            "collective_repeated",
            ("twice.py:13 in decoder.layers.1.mlp", "tp ["),
        ),
    ],
)
def test_what_needs_no_reference(trace, case, code, parts):
    said = found(lint(trace(case), backend=load_backend("numpy")))
    assert all(part in said[code] for part in parts)


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("missing", "collective_missing"),
        ("wrong_group", "collective_group"),
        ("twice", "collective_repeated"),
    ],
)
def test_a_comparison_names_it_first(trace, case, code):
    candidate = trace(case)
    report = compare_traces(trace("right", size=1), candidate, load_backend("numpy"))
    first = report.diagnosis[0]
    assert first.code == code and LINEAR in first.sentence
