"""Expert parallelism by hand over DTensors, uneven, with samples of each rank's own."""

import pytest

from tests.factories.recorded_job import recorder
from ttrace.pipeline import compare
from ttrace.report.model import Outcome

pytest.importorskip("torch")


def test_what_the_step_gives_is_compared_and_activations_say_why_not(pools, tmp_path):
    record = recorder(pools, tmp_path, "tests.factories.expert_job")
    report = compare(record(1), record(2), backend="numpy")
    assert report.verdict is Outcome.PASS, report.summary
    for kind in ("param", "main_grad", "updated_param", "optimizer_state"):
        assert report.coverage[kind].compared == report.coverage[kind].total, kind
    assert not report.coverage["output"].compared
    reasons = [r for r in report.counts.skipped_reasons if "'down/output/0'" in r]
    assert len(reasons) == 1
    assert "dims={'down/output/0': 'b f[ep]'}" in reasons[0]
    assert reasons[0].endswith("; or each rank has samples of its own")
