"""The real MLflow keeps a run in a folder."""

import importlib.util
import sys

import pytest

from tests.factories.reports import some_report

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("mlflow") is None,
        reason="no mlflow: pip install 'ttrace[mlflow]'",
    ),
    # MLflow 3.17 calls what SQLAlchemy 2.1 is going to drop.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_runs_in_a_folder(ttrace, tmp_path):
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    report = some_report()
    report.save(tmp_path / "report.json")
    folder = tmp_path / "log"
    for _ in range(2):
        answer = ttrace("report", tmp_path, "--mlflow", folder)
        assert answer.code == 0, answer.err
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "ttrace")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    for run in runs:
        assert run.data.tags["ttrace.verdict"] == "diverged"
        assert report.first_divergence is not None
        assert run.data.tags["ttrace.first_divergence"] == report.first_divergence.id
        for kind, margin in {"output": 0.25, "worst": sys.float_info.max}.items():
            name = f"ttrace/margin/{kind}"
            (metric,) = client.get_metric_history(run.info.run_id, name)
            assert (metric.step, metric.value) == (0, margin), kind
        (page,) = client.list_artifacts(run.info.run_id)
        assert page.path == "ttrace-report.html"
        assert run.info.status == "FAILED"
