"""How ttrace does on a mistake: is it found, where, and under which code."""

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.planted.expected import Draw, Expected
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.pipeline import compare, estimate_tolerance
from ttrace.recording.request import RecordRequest
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace, open_trace
from ttrace.testing.training import in_environment

_NUM_NOISE_RUNS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A framework, and how trainings in it are made, spoilt and recorded.

    Attributes:
        make: The correct training of a seed.
        run: Runs one, traced.
        mistakes: What plants a mistake in a training, by name; they return None where
            the model has nothing that it can be made in.
    """

    make: Callable[[int], Any]
    run: Callable[[Any], None]
    mistakes: Mapping[str, Callable[[Any, Draw], Expected | None]]

    def record(self, training: Any, out: Path, noise_seed: int | None = None) -> Trace:
        """Runs a training, and opens what it recorded."""
        request = RecordRequest(out=out, noise_seed=noise_seed)
        with in_environment(request.to_environment()):
            self.run(training)
        return open_trace(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A correct run and what rounding makes of it."""

    trace: Trace
    tolerances: ToleranceTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What a report says of a mistake.

    Attributes:
        found: It did not pass.
        place_right: The first divergence is where the mistake shows first.
        code_right: The first diagnosis is expected; None where there is no code.
        report: The report.
        expected: What was expected.
    """

    found: bool
    place_right: bool
    code_right: bool | None
    report: Report
    expected: Expected


def measure(ground: Ground, seed: int, folder: Path) -> Measured:
    """Records the correct training of a seed, and noise runs of it."""
    trace = ground.record(ground.make(seed), folder / "reference")
    noise = [
        ground.record(ground.make(seed), folder / f"noise{number}", number)
        for number in range(1, _NUM_NOISE_RUNS + 1)
    ]
    return Measured(
        trace=trace, tolerances=estimate_tolerance(trace, noise, backend="numpy")
    )


def judge(ground: Ground, training: Any, measured: Measured, folder: Path) -> Report:
    """Records a training, and compares it with the correct one."""
    shutil.rmtree(folder, ignore_errors=True)
    return compare(
        measured.trace,
        ground.record(training, folder),
        tolerance=measured.tolerances,
        backend="numpy",
    )


def grade(
    ground: Ground, seed: int, mistake: str, measured: Measured, folder: Path
) -> Grade | None:
    """Plants a mistake in the training of a seed; None where it cannot be made."""
    training = ground.make(seed)
    draw = random.Random(f"{seed} {mistake}").choice
    expected = ground.mistakes[mistake](training, draw)
    if expected is None:
        return None
    report = judge(ground, training, measured, folder / mistake)
    first = report.first_divergence
    codes = [each.code for each in report.diagnosis]
    return Grade(
        found=report.verdict is not Outcome.PASS,
        place_right=first is not None
        and _is_at(first.module, expected.module)
        and (not expected.kinds or first.kind in {str(k) for k in expected.kinds}),
        code_right=None
        if not expected.codes
        else codes[:1] != [] and codes[0] in expected.codes,
        report=report,
        expected=expected,
    )


def _is_at(module: str, expected: str) -> bool:
    """Whether a module is the expected one, or inside of it."""
    return not expected or module == expected or module.startswith(f"{expected}.")
