"""Values of devices: compared with their like, skipped wherever they meet others."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.compare.layouts.per_device_values import per_device_reason
from ttrace.ir.dims_text import parse_dims
from ttrace.pipeline import compare_traces
from ttrace.report.model import Report

VALUE = np.arange(6, dtype=np.float32)
OTHER = np.ones(3, np.float32)  # so that something is compared


def of_devices(full: np.ndarray, *axes: str) -> Tensor:
    """Stacked values, one for each place on the axes."""
    text = " ".join(
        [*(f"{axis}[{axis}]" for axis in axes), *"xyz"[: full.ndim - len(axes)]]
    )

    def layout(mesh):
        return replace(parse_dims(text).lower(full.shape, mesh), device_axes=axes)

    return Tensor(full=full, dims=layout)


def compared(
    kind: str, reference: Tensor | np.ndarray, candidate: Tensor | np.ndarray, **sizes
) -> Report:
    tensor_id = f"step0/a/{kind}/w"
    sides = [
        memory_trace({tensor_id: side, "step0/b/param/w": OTHER}, sizes)
        for side in (reference, candidate)
    ]
    return compare_traces(
        sides[0], sides[1], NumpyBackend(), allow_uncovered=("updated_param",)
    )


@pytest.mark.parametrize("kind", ["param", "updated_param"])
@pytest.mark.parametrize("whole", [VALUE, np.stack([VALUE] * 2)], ids=["6", "2x6"])
def test_they_have_nothing_in_common_with_a_tensor(kind, whole):
    """Not even where the shapes are equal by chance."""
    stacked = of_devices(np.stack([VALUE] * 2), "tp")
    for sides, where in (
        ((whole, stacked), "the candidate"),
        ((stacked, whole), "the reference"),
    ):
        report = compared(kind, *sides, tp=2)
        assert report.verdict == "pass" and not report.setup.tensors
        reason = per_device_reason(("tp",), where)
        assert report.counts.skipped_reasons == {reason: 1}
        assert report.counts.passed == 1


def test_the_reason_says_what_to_do():
    assert per_device_reason(("dp", "tp"), "the candidate") == (
        "recorded device by device over dp, tp inside a shard_map in the candidate: "
        "say with dims={...} or ttrace.tap(spec=...) how the devices' values make up "
        "the tensor"
    )


def test_the_same_devices_are_compared_one_by_one():
    first = np.stack([VALUE, VALUE + 1])
    second = first.copy()
    second[1, 3] += 1
    same = compared("main_grad", of_devices(first, "tp"), of_devices(first, "tp"), tp=2)
    assert (same.verdict, same.counts.passed) == ("pass", 2)
    sides = of_devices(first, "tp"), of_devices(second, "tp")
    report = compared("main_grad", *sides, tp=2)
    assert (report.verdict, report.counts.failed) == ("diverged", 1)


def test_other_axes_and_other_sizes_are_not_lined_up():
    two, four = np.stack([VALUE] * 2), np.stack([VALUE] * 4)
    for candidate in (
        of_devices(two, "tp"),
        of_devices(four.reshape(2, 2, 6), "dp", "tp"),
    ):
        report = compared("main_grad", of_devices(two, "dp"), candidate, dp=2, tp=2)
        where = "the reference and the candidate"
        reason = per_device_reason(("dp", "tp"), where)
        assert report.counts.skipped_reasons == {reason: 1}
    first, second = (
        memory_trace({"step0/a/main_grad/w": of_devices(full, "tp")}, {"tp": len(full)})
        for full in (two, four)
    )
    report = compare_traces(first, second, NumpyBackend())
    assert report.counts.skipped == 1
    assert report.verdict == "error"  # nothing was compared


def test_the_same_devices_with_values_of_other_shapes_fail():
    first, second = np.stack([VALUE] * 2), np.stack([VALUE[:3]] * 2)
    sides = of_devices(first, "tp"), of_devices(second, "tp")
    report = compared("main_grad", *sides, tp=2)
    assert report.counts.failed == 1
