"""The real Weights & Biases writes an offline run."""

import importlib.util
import json

import pytest

from tests.factories.reports import some_report

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None,
    reason="no wandb: pip install 'ttrace[wandb]'",
)


def test_an_offline_run(ttrace, tmp_path):
    some_report().save(tmp_path / "report.json")
    folder = tmp_path / "log"
    answer = ttrace("report", tmp_path, "--wandb", folder)
    assert answer.code == 0, answer.err
    (run,) = (folder / "wandb").glob("offline-run-*")
    (log,) = run.glob("run-*.wandb")
    content = log.read_bytes()
    for part in (b"ttrace/margin/worst", b"ttrace/verdict", b"ttrace-report"):
        assert part in content, part
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "diverged"
