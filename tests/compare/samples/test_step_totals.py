"""Numbers for the whole step are compared, however it is cut into micro-batches."""

from typing import Any

import numpy as np
import pytest

from tests.factories.sample_runs import FOUR, ONE, SHUFFLED, Order, sample_run
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report


def report_of(
    reference: list[int], candidate: list[int], orders: tuple[Order, Order]
) -> Report:
    def run(order: Order, values: list[int]) -> Any:
        numbers = {
            f"step0/mb{number}/@root/input/num_items": np.array(value)
            for number, value in enumerate(values)
        }
        return sample_run(order, more=numbers)

    runs = run(orders[0], reference), run(orders[1], candidate)
    return compare_traces(runs[0], runs[1], load_backend("numpy"))


def status(report: Report) -> set[tuple[str, str]]:
    return {
        (tensor.status, tensor.reason.partition(";")[0])
        for tensor in report.tensors
        if tensor.id.endswith("/num_items")
    }


@pytest.mark.parametrize("candidate", [FOUR, SHUFFLED])
def test_a_number_of_the_step_is_the_same_in_every_micro_batch(candidate: Order):
    report = report_of([40], [40] * 4, (ONE, candidate))
    assert report.verdict is Outcome.PASS, report.summary
    assert status(report) == {("passed", "")}
    report = report_of([40] * 4, [40], (candidate, ONE))
    assert report.coverage["input"].compared == 8 and status(report) == {("passed", "")}


def test_another_number_of_the_step_is_a_divergence():
    report = report_of([40], [44] * 4, (ONE, FOUR))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/@root/input/num_items"


@pytest.mark.parametrize("own", [[10] * 4, [8, 12, 9, 11]])
def test_numbers_of_micro_batches_are_no_number_of_the_step(own: list[int]):
    report = report_of([40], own, (ONE, FOUR))
    assert report.verdict is Outcome.PASS, report.summary
    ((found, reason),) = status(report)
    assert found == "skipped" and reason.startswith("1 micro-batch of 8 samples")
