"""What the fixture ``ttrace`` of the pytest plugin offers; knows nothing of pytest."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttrace.check_job import check
from ttrace.errors import OtherReferenceError
from ttrace.guard.golden import GoldenArrays, GoldenTrace
from ttrace.guard.in_process import detached, estimated_tolerances, own_copies
from ttrace.guard.kept_tolerances import KeptTolerances
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.tolerances.tolerance import TOLERANCE_FILE, ToleranceTable
from ttrace.report.model import Outcome, Report
from ttrace.report.text import render_text

Tree = Any
"""A pytree of arrays of jax, torch or numpy."""

Comparison = Any
"""An ``ArrayComparison``, whose module imports jax and is reached by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TtraceFixture:
    """Compares within a test, and fails it where the candidate diverges.

    Attributes:
        make_folder: Makes the folder of this test, for what is recorded.
        golden_folder: Where golden files lie.
        is_updating: They are written anew, and nothing is compared with them.
        note: Told what is to be said at the end of the session.
        fail: Ends the test with a text.
        kept_folder: Where tolerances are kept for later sessions; None keeps none.
    """

    make_folder: Callable[[], Path]
    golden_folder: Path
    is_updating: bool
    note: Callable[[str], None]
    fail: Callable[[str], None]
    kept_folder: Path | None = None

    def check_commands(
        self,
        reference: str | list[str] | None,
        candidate: str | list[str],
        **options: Any,
    ) -> Report:
        """Runs ``ttrace.check``, in the folder of the test.

        Noise runs are made in the first session only: their tolerances are kept, and
        measured anew where the reference is another one or computes something else.

        Args:
            reference: Command of the trusted run; None with ``reference_trace=``.
            candidate: Command of the run under test.
            options: As ``ttrace.check`` takes them; ``out`` is the folder of the test
                where it is left out.

        Returns:
            The report of a pass; any other verdict fails the test with its text.

        Raises:
            TtraceError: A command failed, or what it recorded cannot be used.
        """
        __tracebackhide__ = True
        out = Path(options.pop("out", None) or self._new_folder("ttrace-check"))
        report = self._checked(reference, candidate, out, options)
        if report.verdict is not Outcome.PASS:
            self.fail(f"{render_text(report)}report: {out / 'report.json'}")
        return report

    def _checked(
        self,
        reference: str | list[str] | None,
        candidate: str | list[str],
        out: Path,
        options: dict[str, Any],
    ) -> Report:
        kept = None
        if self.kept_folder is not None:
            kept = KeptTolerances.of_check(self.kept_folder, reference, options)
        if kept is None:
            return check(reference, candidate, out=out, **options)
        tolerance = kept.load()
        if tolerance is not None:
            try:
                return check(
                    reference, candidate, out=out, tolerance=tolerance, **options
                )
            except OtherReferenceError as error:
                self.note(
                    f"the noise of {reference!r} is measured anew; {error.where}: now "
                    f"{error.got}, once {error.expected}"
                )
                options = {**options, "overwrite": True}
        report = check(reference, candidate, out=out, **options)
        kept.keep(out / TOLERANCE_FILE)
        return report

    def compare(
        self, reference: Tree, candidate: Tree, *, tolerance: Tree
    ) -> Comparison:
        """Compares two pytrees of arrays by ``ttrace.compare_arrays``.

        Args:
            reference: The trusted arrays.
            candidate: The arrays under test, under the same paths.
            tolerance: Largest ``rel_err`` that is no divergence, or a tree of these.

        Returns:
            The comparison, where nothing diverged; else the test fails with it.
        """
        __tracebackhide__ = True
        comparison = _compared(reference, candidate, tolerance)
        if comparison.diverged:
            self.fail(str(comparison))
        return comparison

    def check(
        self,
        reference: Callable[..., Tree],
        candidate: Callable[..., Tree],
        *args: Any,
        tolerance: Tree | None = None,
        **kwargs: Any,
    ) -> Comparison:
        """Calls two functions with the same arguments, and compares what they return.

        Only what they return: no gradients, and nothing inside. Each call gets copies
        of its own of the arrays.

        Args:
            reference: The trusted function, of torch, jax or numpy; a module, too.
            candidate: The function under test.
            args: For both of them; pytrees of arrays.
            tolerance: As for ``compare``; None measures it: the reference is called
                three more times with noise of one unit in the last place of its
                arguments.
            kwargs: Likewise, by name.

        Returns:
            The comparison, where nothing diverged; else the test fails with it.

        Raises:
            UsageError: Nothing can be measured: no argument is a floating-point array.
            UnrepeatableError: The reference computes other values every time.
        """
        __tracebackhide__ = True
        expected = reference(*own_copies(args), **own_copies(kwargs))
        found = candidate(*own_copies(args), **own_copies(kwargs))
        if tolerance is None:
            tolerance = estimated_tolerances(reference, args, kwargs, expected, found)
        return self.compare(expected, found, tolerance=tolerance)

    def golden(
        self,
        name: str,
        value: Tree | TraceSource | str | os.PathLike[str],
        *,
        tolerance: Tree | ToleranceTable | str | os.PathLike[str] | None = None,
    ) -> Comparison | Report | None:
        """Compares with what ``--ttrace-update-golden`` once wrote beside the test.

        Args:
            name: Of the file in the folder ``golden``; letters, digits, ``._-``.
            value: A pytree of arrays; or a trace, open or by its folder.
            tolerance: Of arrays: a number, and to be given. Of a trace: what rounding
                explains, or its file; None judges by dtype and depth.

        Returns:
            What was found, where nothing diverged; None where the file was written.

        Raises:
            UsageError: There is no such file, or it holds something else.
        """
        __tracebackhide__ = True
        if isinstance(value, (str, os.PathLike)) or _is_trace(value):
            trace = GoldenTrace(folder=self.golden_folder, name=name)
            if self.is_updating:
                trace.write(value)
                self.note(f"{trace.path} written")
                return None
            report = trace.compared(value, tolerance)
            if report.verdict is not Outcome.PASS:
                self.fail(f"{render_text(report)}golden trace: {trace.path}")
            return report
        golden = GoldenArrays(folder=self.golden_folder, name=name)
        if self.is_updating:
            golden.write(value)
            self.note(f"{golden.path} written")
            return None
        others = golden.other_versions()
        if others:
            self.note(others)
        stored, found = golden.pair(value, tolerance)
        comparison = _compared(stored, found, tolerance)
        if comparison.diverged:
            parts = (str(comparison), f"golden file: {golden.path}", others)
            self.fail("\n".join(filter(None, parts)))
        return comparison

    def _new_folder(self, name: str) -> Path:
        """A folder of the test that is not there yet."""
        folder = self.make_folder()
        number = 1
        while (folder / (name if number == 1 else f"{name}-{number}")).exists():
            number += 1
        return folder / (name if number == 1 else f"{name}-{number}")


def _is_trace(value: object) -> bool:
    """Whether it is an open trace, by what ``TraceSource`` has and no array has."""
    return hasattr(value, "info") and hasattr(value, "load")


def _compared(reference: Tree, candidate: Tree, tolerance: Tree) -> Comparison:
    live_arrays = importlib.import_module("ttrace.backends.live_arrays")
    return live_arrays.compare_arrays(
        detached(reference), detached(candidate), tolerance=tolerance
    )
