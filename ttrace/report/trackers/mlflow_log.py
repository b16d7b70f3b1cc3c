"""Logs a report as a run of MLflow in a folder; nothing is sent anywhere."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read by its import

from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]
from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

from ttrace.report.html.render import render_html
from ttrace.report.model import Outcome, Report
from ttrace.report.trackers.metrics import figures_by_step
from ttrace.store.output_file import write_output

EXPERIMENT = "ttrace"

DATABASE = "mlflow.db"
"""In the folder; what is no figure lies beside it."""


def log_to_mlflow(report: Report, folder: Path) -> None:
    """The tracker ``mlflow`` of ``ttrace.report.trackers.table``.

    ``mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db`` shows it. MLflow
    stores an infinite margin as the largest number there is.
    """
    folder = folder.resolve()
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / DATABASE}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    run = client.create_run(
        client.create_experiment(
            EXPERIMENT, artifact_location=(folder / "artifacts").as_uri()
        )
        if experiment is None
        else experiment.experiment_id,
        tags={
            "ttrace.verdict": report.verdict.value,
            "mlflow.note.content": report.summary,
        },
    )
    run_id = run.info.run_id
    status = "FAILED"
    try:
        metrics = [
            Metric(f"ttrace/{name}", figure, run.info.start_time, step)
            for step, figures in figures_by_step(report).items()
            for name, figure in figures.items()
        ]
        client.log_batch(run_id, metrics=metrics)
        first = report.first_divergence
        if first is not None:
            client.set_tag(run_id, "ttrace.first_divergence", first.id)
        with tempfile.TemporaryDirectory() as name:
            page = Path(name) / "ttrace-report.html"
            write_output(page, render_html(report))
            client.log_artifact(run_id, str(page))
        if report.verdict is Outcome.PASS:
            status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
