"""Grades map proposals: a map from each buggy pair, then the verdict."""

import fnmatch
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.map_grading.pair import LibraryPair, Mistake
from tests.map_grading.recording import record_port, record_reference
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.map_proposal.proposing import Proposal, propose_map
from ttrace.mapping.map_file import parse_map
from ttrace.mapping.map_writer import map_text
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report
from ttrace.store.reader import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What came out for a port.

    Attributes:
        pair: Name of the pair.
        mistake: What was planted; None for the clean port.
        proposal: The map, proposed from this very port.
        report: The verdict under it.
        seconds: What the proposal took.
    """

    pair: str
    mistake: Mistake | None
    proposal: Proposal
    report: Report
    seconds: float

    @property
    def first(self) -> str:
        """The tensor at which the runs diverge first, or start apart."""
        if self.report.setup.tensors:
            return self.report.setup.tensors[0]
        first = self.report.first_divergence
        return "" if first is None else first.id

    @property
    def is_found(self) -> bool:
        return self.report.verdict is not Outcome.PASS

    @property
    def is_at_the_right_place(self) -> bool:
        if self.mistake is None or not self.is_found or "/" not in self.first:
            return False
        parts = self.first.split("/")
        module = parts[2 if parts[1].startswith("mb") else 1]
        return any(fnmatch.fnmatch(module, place) for place in self.mistake.places)

    def __str__(self) -> str:
        counts, mapped = self.report.counts, self.proposal.map_file
        name = "clean" if self.mistake is None else self.mistake.name
        if self.mistake is None:
            verdict = "pass" if not self.is_found else "FALSE ALARM"
        elif self.is_at_the_right_place:
            verdict = "right"
        else:
            verdict = "WRONG PLACE" if self.is_found else "MISSED"
        return (
            f"{self.pair:16} {name:20} {verdict:12} {counts.passed} passed, "
            f"{counts.failed} failed, {counts.unmatched} unmatched, "
            f"{counts.skipped} skipped; {len(mapped.rules)} rules, "
            f"{mapped.num_unverified} unverified, {len(mapped.ignored)} ignores, "
            f"{self.seconds:.1f} s; first {self.first or '-'}"
        )


def grade_pair(
    pair: LibraryPair, names: Iterable[str] | None = None, folder: Path | None = None
) -> Iterator[Grade]:
    """Grades the clean port and the mistakes of the given names, or all of them.

    Args:
        pair: The pair.
        names: Mistakes; ``clean`` for none.
        folder: Keeps the traces and maps; a temporary one by default.
    """
    wanted = None if names is None else set(names)
    chosen: Sequence[Mistake | None] = [
        mistake
        for mistake in (None, *pair.mistakes)
        if wanted is None or ("clean" if mistake is None else mistake.name) in wanted
    ]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) if folder is None else folder / pair.name
        root.mkdir(parents=True, exist_ok=True)
        reference = record_reference(pair, root / "reference")
        noise = [record_reference(pair, root / f"noise{n}", n) for n in (1, 2)]
        tolerances = estimate_tolerance(reference, noise, NumpyBackend())
        for mistake in chosen:
            name = "" if mistake is None else mistake.name
            candidate = record_port(pair, name, root / (name or "clean"))
            path = root / f"{name or 'clean'}.toml"
            yield grade(pair.name, mistake, reference, candidate, tolerances, path)


def grade(
    pair: str,
    mistake: Mistake | None,
    reference: Trace,
    candidate: Trace,
    tolerances: ToleranceTable,
    path: Path,
) -> Grade:
    """Proposes a map from recorded traces, and compares under what was written."""
    start = time.perf_counter()
    proposal = propose_map(reference, candidate, path)
    seconds = time.perf_counter() - start
    path.write_text(map_text(proposal.map_file))
    report = compare_traces(
        reference,
        candidate,
        NumpyBackend(),
        tolerances=tolerances,
        map_file=parse_map(path.read_text(), path),
    )
    return Grade(
        pair=pair, mistake=mistake, proposal=proposal, report=report, seconds=seconds
    )
