"""How ttrace does on a mistake: is it found, where, and under which code."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.planted.mistakes import MISTAKES, Expected
from tests.planted.training import make, record
from ttrace.judge.tolerance import ToleranceTable
from ttrace.pipeline import compare, estimate_tolerance
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace

_NUM_NOISE_RUNS = 2


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


def measure(seed: int, folder: Path) -> Measured:
    """Records the correct training of a seed, and noise runs of it."""
    trace = record(make(seed), folder / "reference")
    noise = [
        record(make(seed), folder / f"noise{number}", number)
        for number in range(1, _NUM_NOISE_RUNS + 1)
    ]
    return Measured(
        trace=trace, tolerances=estimate_tolerance(trace, noise, backend="numpy")
    )


def grade(seed: int, mistake: str, measured: Measured, folder: Path) -> Grade | None:
    """Plants a mistake in the training of a seed; None where it cannot be made."""
    training = make(seed)
    draw = random.Random(f"{seed} {mistake}").choice
    expected = MISTAKES[mistake](training, draw)
    if expected is None:
        return None
    out = folder / mistake
    shutil.rmtree(out, ignore_errors=True)
    report = compare(
        measured.trace,
        record(training, out),
        tolerance=measured.tolerances,
        backend="numpy",
    )
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
