"""The lazy table of trackers of experiments that a report can be logged to.

A new tracker is one file beside this one, with one function, and its line here: the
command line takes its option from the table.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ttrace.errors import MissingExtraError

if TYPE_CHECKING:
    from ttrace.report.model import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracker:
    """Where a report can be logged to.

    Attributes:
        module: Where its function lies.
        function: Takes a report and a folder, and writes into that. It asks nobody on
            the network.
        help: What ``--NAME DIR`` does, for ``--help``.
        extra: Of ttrace, that installs what it needs.
    """

    module: str
    function: str
    help: str
    extra: str


TRACKERS = {
    "tensorboard": Tracker(
        module="ttrace.report.trackers.tensorboard_log",
        function="log_to_tensorboard",
        help="write margins by step, the verdict and the page there for TensorBoard",
        extra="tensorboard",
    ),
    "wandb": Tracker(
        module="ttrace.report.trackers.wandb_log",
        function="log_to_wandb",
        help="write the same there as an offline run of Weights & Biases",
        extra="wandb",
    ),
    "mlflow": Tracker(
        module="ttrace.report.trackers.mlflow_log",
        function="log_to_mlflow",
        help="write the same there as a run of MLflow",
        extra="mlflow",
    ),
}
"""By name, which is also that of the option."""


def load_tracker(name: str) -> "Callable[[Report, Path], None]":
    """Imports the function of a tracker, and the tracker with it.

    Raises:
        MissingExtraError: It is not installed.
    """
    tracker = TRACKERS[name]
    try:
        module = importlib.import_module(tracker.module)
    except ImportError as error:
        raise MissingExtraError(
            f"--{name} needs a package that is not installed",
            got=str(error),
            remedy=f"pip install 'ttrace[{tracker.extra}]'",
        ) from error
    return getattr(module, tracker.function)
