"""Small models in one process, recorded, and run once more on right values."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from ttrace.compare.backend import load_backend
from ttrace.frontends import torch_capture
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.isolation.isolating import IsolationRequest, first_failed_step, isolate
from ttrace.mapping.map_file import parse_map
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RecordRequest
from ttrace.report.isolation import Isolation
from ttrace.report.model import Report
from ttrace.store.reader import Trace, open_trace

Train = Callable[[], None]
"""Trains a model in a trace of a frontend."""


class Runs:
    """Records trainings of this process, each into a folder of its own.

    Args:
        folder: Holds the folders.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._numbers = itertools.count()
        self._references: dict[Train, Trace] = {}

    def record(self, train: Train, **request) -> Trace:
        """Records a training; the fields of a ``RecordRequest`` besides ``out``."""
        out = self._folder / f"run{next(self._numbers)}"
        with _environment(RecordRequest(out=out, **request)):
            train()
        return open_trace(out)

    def isolated(
        self,
        reference: Train,
        candidate: Train,
        *,
        again: Train | None = None,
        map_text: str | None = None,
        inside: bool = False,
        reruns_reference: bool = True,
    ) -> tuple[Report, Isolation]:
        """Compares two trainings, and runs the second one on the first one's values.

        Args:
            reference: The trusted training; recorded once.
            candidate: The one under test.
            again: What runs the second time; the candidate if None.
            map_text: A map file from the one to the other; None for the same names.
            inside: Look for the operation that is wrong inside of what is named, too.
            reruns_reference: For that the reference can run once more.
        """
        if reference not in self._references:
            self._references[reference] = self.record(reference)
        trusted, tested = self._references[reference], self.record(candidate)
        map_file = None if map_text is None else parse_map(map_text, Path("map.toml"))
        report = compare_traces(
            trusted, tested, load_backend("numpy"), map_file=map_file
        )

        def rerun(values: Path, capture: CaptureFilter) -> Trace:
            return self.record(again or candidate, rewrite=values, capture=capture)

        request = IsolationRequest(
            reference=trusted,
            candidate=tested,
            rerun=rerun,
            folder=self._folder / f"values{next(self._numbers)}",
            map_file=map_file,
            rerun_again=rerun if inside else None,
            record_reference=(lambda capture: self.record(reference, capture=capture))
            if inside and reruns_reference
            else None,
        )
        isolation = isolate(
            request, load_backend("numpy"), step=first_failed_step(report)
        )
        return report, isolation


@contextlib.contextmanager
def _environment(request: RecordRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in request.to_environment().items():
            patch.setenv(name, value)
        yield


def training(
    make: Callable[[], nn.Module],
    *,
    num_steps: int = 1,
    num_microbatches: int = 2,
    loss_factor: float = 1.0,
    dtype: torch.dtype = torch.float32,
    learning_rate: float = 0.1,
    called: str = "",
) -> Train:
    """Trains a model that takes and returns ``[4, 6]``, or calls a module of it."""

    def train() -> None:
        torch.manual_seed(0)
        model = make().to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
        with torch_capture.trace(model, optimizer) as trace:
            for _ in range(num_steps):
                for _ in range(num_microbatches):
                    net = model.get_submodule(called)
                    loss = net(torch.randn(4, 6).to(dtype)).square().mean()
                    trace.loss(loss)
                    (loss_factor * loss / num_microbatches).backward()
                optimizer.step()
                optimizer.zero_grad()
                trace.step()

    return train
