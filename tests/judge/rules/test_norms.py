"""Norms over groups and over a batch: their epsilon, and whose samples they take."""

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.places.norms.norm_forms import BATCH, NormForm
from ttrace.pipeline import compare_traces

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(4, 5, 3, 12)) * 0.1).astype(np.float32)
WEIGHT = RNG.normal(size=12).astype(np.float32)
BIAS = RNG.normal(size=12).astype(np.float32)
LAST, SECOND = 3, 1


def output_of(form: NormForm, epsilon: float, dim: int, of=slice(None)) -> np.ndarray:
    given = np.moveaxis(X, LAST, dim).astype(np.float64)[of]
    return form.normalize(given, epsilon, (WEIGHT, BIAS)).astype(np.float32)


def run(
    output: np.ndarray,
    dim: int,
    *,
    size: int | None = None,
    stacked: bool = False,
    framework: str = "jax",
) -> TraceSource:
    """A trace of a norm; its output sharded over ``data``, if a size is given."""
    letters = "b h w c"[: 2 * X.ndim - 1].split()
    letters[0] = "b[data]"
    parameters = {"scale": WEIGHT, "bias": BIAS}
    if stacked:
        parameters = {s: np.stack([v, 2 * v]) for s, v in parameters.items()}
    return memory_trace(
        {f"step0/bn/param/{slot}": values for slot, values in parameters.items()}
        | {
            "step0/mb0/bn/input/0": np.moveaxis(X, LAST, dim),
            "step0/mb0/bn/output/0": Tensor(
                full=output, dims=None if size is None else " ".join(letters)
            ),
        },
        None if size is None else {"data": size},
        framework=framework,
    )


def sentences(reference: TraceSource, candidate: TraceSource) -> dict[str, str]:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    return {each.code: each.sentence for each in report.diagnosis}


@pytest.mark.parametrize("dim", [SECOND, LAST])
@pytest.mark.parametrize(
    "form, groups",
    [
        ("a GroupNorm of 1 group", 1),
        ("a GroupNorm of 4 groups", 4),
        ("an InstanceNorm", 12),
        ("a BatchNorm", None),
    ],
)
def test_both_epsilons_are_named(form, groups, dim):
    norm = NormForm(name=form.partition(" ")[2], channel_dim=dim, num_groups=groups)
    runs = [run(output_of(norm, epsilon, dim), dim) for epsilon in (1e-6, 1e-3)]
    found = sentences(*runs)["norm_epsilon"]
    assert found.startswith(
        f"bn is {form} with an epsilon of 0.001 in the candidate and of 1e-06 in the "
        "reference"
    )


def test_parameters_of_a_scan_over_layers_are_those_of_the_call():
    norm = NormForm(name=BATCH, channel_dim=LAST)
    runs = [
        run(output_of(norm, epsilon, LAST), LAST, stacked=True)
        for epsilon in (1e-6, 1e-3)
    ]
    assert "a BatchNorm with an epsilon" in sentences(*runs)["norm_epsilon"]


def test_another_number_of_groups_is_no_other_epsilon():
    outputs = [
        output_of(NormForm(name="", channel_dim=LAST, num_groups=n), 1e-5, LAST)
        for n in (4, 6)
    ]
    found = sentences(*(run(output, LAST) for output in outputs))
    assert not found.keys() & {"norm_epsilon", "batch_statistics"}


def per_rank(size: int, epsilon: float = 1e-5) -> np.ndarray:
    norm = NormForm(name=BATCH, channel_dim=LAST)
    width = X.shape[0] // size
    parts = [
        output_of(norm, epsilon, LAST, slice(start, start + width))
        for start in range(0, X.shape[0], width)
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize(
    "framework, how",
    [
        ("jax", "axis_name of BatchNorm in flax, cross_replica_axis in haiku"),
        ("torch", "SyncBatchNorm"),
    ],
)
@pytest.mark.parametrize("size", [2, 4])
def test_a_batch_norm_that_takes_the_samples_of_each_rank(size, framework, how):
    """With its channels last, and parameters as flax names them."""
    whole = run(per_rank(1), LAST, framework=framework)
    candidate = run(per_rank(size), LAST, size=size, framework=framework)
    assert sentences(whole, candidate)["batch_statistics"] == (
        "the output of bn is normalized over all samples of a micro-batch in the "
        f"reference, and over each of {size} equal parts of them by itself in the "
        "candidate (step0/mb0/bn/output/0): its statistics are those of what one rank "
        f"has. Synchronize them over the ranks ({how}), or give the reference "
        "micro-batches of the size that a rank has"
    )


def test_what_no_samples_of_a_rank_explain():
    candidate = run(per_rank(2) * np.float32(1.1), LAST, size=2)
    assert "batch_statistics" not in sentences(run(per_rank(1), LAST), candidate)
