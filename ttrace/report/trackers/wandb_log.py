"""Logs a report as an offline run of Weights & Biases; nothing is sent anywhere."""

import tempfile
from pathlib import Path

import wandb  # pyright: ignore[reportMissingImports]

from ttrace.report.html.render import render_html
from ttrace.report.model import Report
from ttrace.report.trackers.metrics import figures_by_step
from ttrace.store.output_file import write_output

PROJECT = "ttrace"
"""Of the run, until ``wandb sync --project`` says another."""


def log_to_wandb(report: Report, folder: Path) -> None:
    """The tracker ``wandb`` of ``ttrace.report.trackers.table``.

    ``wandb sync`` of its ``wandb/offline-run-...`` sends it, when somebody wants that.
    """
    run = wandb.init(
        project=PROJECT,
        dir=str(folder),
        mode="offline",
        job_type="ttrace",
        settings=wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            x_disable_meta=True,
            disable_git=True,
            disable_code=True,
        ),
    )
    try:
        for step, figures in figures_by_step(report).items():
            run.log({f"ttrace/{name}": x for name, x in figures.items()}, step=step)
        run.summary.update(
            {
                "ttrace/verdict": report.verdict.value,
                "ttrace/summary": report.summary,
                "ttrace/failed": report.counts.failed,
                "ttrace/first_divergence": None
                if report.first_divergence is None
                else report.first_divergence.id,
            }
        )
        with tempfile.TemporaryDirectory() as name:
            page = Path(name) / "report.html"
            write_output(page, render_html(report))
            artifact = wandb.Artifact("ttrace-report", type="report")
            artifact.add_file(str(page))
            run.log_artifact(artifact)
            run.finish()
    except BaseException:
        run.finish(exit_code=1)
        raise
