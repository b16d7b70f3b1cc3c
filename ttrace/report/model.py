"""The report: what a comparison found, as plain values with a JSON form.

Made by ``ttrace.report.build``; renderers such as ``ttrace.report.text`` only render.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ttrace.errors import SchemaVersionError, TraceError
from ttrace.judge.coverage import WITHOUT_NOISE
from ttrace.judge.coverage import KindCoverage as KindCoverage
from ttrace.judge.diagnosis import Diagnosis as Diagnosis
from ttrace.judge.frontier.culprits import Culprit as Culprit
from ttrace.judge.frontier.first_divergence import FirstDivergence as FirstDivergence
from ttrace.judge.outcome import ErrorKind as ErrorKind
from ttrace.judge.outcome import Outcome as Outcome
from ttrace.judge.tolerances.tolerance import Estimator
from ttrace.judge.verdicts.structure import StructureDifference as StructureDifference
from ttrace.judge.verdicts.verdict import PartReason
from ttrace.report.isolation import IsolatedPlace as IsolatedPlace
from ttrace.report.isolation import Isolation as Isolation
from ttrace.report.json_types import find_mismatch
from ttrace.report.json_values import decode, encode
from ttrace.report.printable import printable
from ttrace.report.set_up import MapSetup as MapSetup
from ttrace.report.set_up import RunSetup as RunSetup
from ttrace.report.set_up import Setup as Setup
from ttrace.report.tensor_report import TensorReport as TensorReport
from ttrace.report.tensor_report import tensor_from_json, tensor_to_json
from ttrace.store.documents import read_document
from ttrace.store.output_file import write_output

SCHEMA_VERSION = 1
"""Version of the report format; a reader refuses any other.

Keys are only added, and a reader does without those that an older report lacks; the
version goes up where the meaning of a key changes.
"""

_REMEDY = "make it again with 'ttrace compare'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many tensors ended in each status; they add up to ``total``.

    Attributes:
        skipped_reasons: Number of skipped tensors by reason.
    """

    total: int
    passed: int
    failed: int
    unmatched: int
    skipped: int
    skipped_reasons: Mapping[str, int]

    def __post_init__(self):
        # Nothing may be lost between the traces and the report.
        by_status = self.passed + self.failed + self.unmatched + self.skipped
        if self.total != by_status or self.skipped != sum(
            self.skipped_reasons.values()
        ):
            raise ValueError(f"counts that do not add up: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """The error that left nothing to compare, as ``TtraceError`` has it.

    Attributes:
        what: What is wrong.
        where: The place: a command, a file, a rank; None if there is none to name.
        expected: What would have been right, or None.
        got: What was found instead, or None.
        remedy: What to do.
    """

    what: str
    remedy: str
    where: str | None = None
    expected: str | None = None
    got: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """Everything a comparison found; ``print`` shows the verdict in a few lines.

    Attributes:
        verdict: On the candidate as a whole.
        summary: The verdict in one or two sentences.
        error_kind: What keeps the comparison from a verdict: ``usage``, ``command``,
            ``trace``, ``setup`` or ``coverage``; None unless the verdict is an error.
        error: What went wrong before there was anything to compare; None where both
            runs were compared.
        only: What was compared of the tensors, by name of the option: ``modules``,
            ``kinds``, ``steps``; empty for all.
        remarks: What is odd about the comparison and does not change its verdict.
        backend: Name of the backend that computed the figures.
        counts: Tensors per status.
        coverage: How much of every kind was compared, by kind, in the order of a step;
            empty in reports that do not say.
        first_divergence: Where it goes wrong first; None on a pass.
        diagnosis: What is wrong, strongest first; may be empty.
        structure: Modules without parameters, and outputs of modules, that only one run
            has, and around which everything agrees; their tensors are skipped.
        tensors: Every tensor of either trace, in order of the dataflow.
        setup: Both runs.
        culprits: The places where failures begin, each with what follows from it; that
            of the first divergence first. Empty where nothing failed.
        gaps: What should have been compared and was not, in sentences: where nothing
            fails, they keep it from a pass. None in reports that do not say.
        isolation: What running the candidate once more on the reference's values
            showed, or why that was not done; None where nobody asked for it.
    """

    verdict: Outcome
    summary: str
    error_kind: ErrorKind | None = None
    error: ErrorDetails | None = None
    only: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    backend: str
    counts: Counts
    coverage: Mapping[str, KindCoverage] = field(default_factory=dict)
    first_divergence: FirstDivergence | None
    diagnosis: tuple[Diagnosis, ...]
    structure: tuple[StructureDifference, ...] = ()
    tensors: tuple[TensorReport, ...]
    setup: Setup
    culprits: tuple[Culprit, ...] = ()
    gaps: tuple[str, ...] | None = None
    isolation: Isolation | None = None

    def __repr__(self) -> str:
        counts = self.counts
        lines = [
            f"<ttrace report: {self.verdict.value}"
            f"{' (uncalibrated)' if self.is_uncalibrated else ''}; {self.passed_text}, "
            f"{counts.failed} failed, {counts.unmatched} unmatched, {counts.skipped} "
            f"skipped of {counts.total} tensors>",
            self.summary,
        ]
        first = self.first_divergence
        if first is not None and first.sentence not in self.summary:
            lines.append(f"first divergence: {first.sentence}")
        lines += (f"diagnosis: {item.sentence}" for item in self.diagnosis)
        lines += (f"remark: {remark}" for remark in self.remarks)
        if self.num_uncalibrated:
            lines.append(
                f"uncalibrated: {self.num_uncalibrated} tolerances rest on dtype and "
                "depth, not on noise runs; no verdict to rely on"
            )
        return printable("\n".join(lines))

    def _repr_html_(self) -> str:
        """What a notebook shows: verdict, diagnosis and the first failed tensors."""
        from ttrace.report.notebook import render_notebook

        return render_notebook(self)

    def to_frame(self, library: str = "pandas") -> Any:
        """A ``DataFrame``: a row for each tensor, with the columns of ``--csv``.

        Args:
            library: ``pandas`` or ``polars``.

        Raises:
            MissingExtraError: It is not installed.
            UsageError: It is another one.
        """
        from ttrace.report.frames import frame_of

        return frame_of(self, library)

    def failed(self) -> tuple[TensorReport, ...]:
        """The tensors that failed, in order of the dataflow.

        A report without any need not be a pass: see ``verdict``.
        """
        return tuple(tensor for tensor in self.tensors if tensor.status == "failed")

    @property
    def passed_text(self) -> str:
        """``12 passed``, and how many of them only within their noise."""
        text = f"{self.counts.passed} passed"
        if self.num_noise_dominated:
            text += f" ({self.num_noise_dominated} of them noise-dominated)"
        return text

    @property
    def num_uncalibrated(self) -> int:
        """Compared tensors whose tolerance ought to rest on noise, and does not."""
        return sum(
            tensor.tolerance_from == Estimator.UNCALIBRATED
            and tensor.kind not in WITHOUT_NOISE
            for tensor in self.tensors
        )

    @property
    def is_uncalibrated(self) -> bool:
        """Whether no tolerance at all rests on measured noise, and some ought to."""
        return bool(self.num_uncalibrated) and not any(
            tensor.tolerance_from == Estimator.PERTURBED for tensor in self.tensors
        )

    @property
    def num_noise_dominated(self) -> int:
        """Tensors that passed, and whose noise is too large to tell an error."""
        return sum(bool(tensor.noise_dominated) for tensor in self.tensors)

    @property
    def num_compared_in_part(self) -> int:
        """Compared tensors of which the recorded ranks lack some elements."""
        return sum(self.parts.values())

    @property
    def parts(self) -> Mapping[PartReason, int]:
        """How many tensors were compared in part, by the reason."""
        return Counter(
            PartReason(tensor.part) for tensor in self.tensors if tensor.part
        )

    @property
    def largest_margin(self) -> float | None:
        """Of the tensor that came closest to its tolerance, or crossed it farthest."""
        margins = (tensor.margin for tensor in self.tensors)
        return max((m for m in margins if m is not None), default=None)

    def to_json(self) -> dict:
        """The report as JSON values; infinities and NaN as text, None left out."""
        value = {"schema_version": SCHEMA_VERSION, **asdict(replace(self, tensors=()))}
        for side in ("reference", "candidate"):
            for name in ("num_idle_ranks", "code"):
                if not value["setup"][side][name]:
                    del value["setup"][side][name]
        if value["setup"]["map"] is not None:  # under its former name, too
            map_setup = value["setup"]["map"]
            map_setup["num_unsure"] = map_setup["num_unverified"]
        if not self.culprits:
            del value["culprits"]
        if self.isolation is None:
            del value["isolation"]
        value = encode(value)
        value["tensors"] = [tensor_to_json(tensor) for tensor in self.tensors]
        return value

    def json_text(self) -> str:
        """The report as the text of a JSON file."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"

    def save(self, path: Path | str) -> None:
        """Writes the report as JSON, into a folder that is there.

        Raises:
            UsageError: The folder does not exist.
            StorageFullError: It could not be written.
        """
        write_output(Path(path), self.json_text())

    @classmethod
    def from_json(cls, value: Mapping) -> "Report":
        """Reads what ``to_json`` made.

        Raises:
            SchemaVersionError: It was written in another format.
            TraceError: A value has another type than ``to_json`` gives it.
            ValueError, LookupError, TypeError: It is not what ``to_json`` makes.
        """
        if value["schema_version"] != SCHEMA_VERSION:
            raise SchemaVersionError(
                "a report of another version",
                expected=f"schema version {SCHEMA_VERSION}",
                got=value["schema_version"],
                remedy=_REMEDY,
            )
        wrong = find_mismatch(_with_former_names(value), cls)
        if wrong is not None:
            raise TraceError(
                "not a report as ttrace writes it",
                where=wrong.field,
                expected=wrong.expected,
                got=wrong.got,
                remedy=_REMEDY,
            )
        value = decode(value)
        first = value["first_divergence"]
        setup = value["setup"]
        return cls(
            verdict=Outcome(value["verdict"]),
            summary=value["summary"],
            backend=value["backend"],
            counts=Counts(**value["counts"]),
            first_divergence=FirstDivergence(**first) if first else None,
            diagnosis=tuple(
                Diagnosis(**{**item, "tensor_ids": tuple(item["tensor_ids"])})
                for item in value["diagnosis"]
            ),
            structure=tuple(
                StructureDifference(**item) for item in value.get("structure", ())
            ),
            tensors=tuple(tensor_from_json(item) for item in value["tensors"]),
            setup=Setup(
                reference=RunSetup(**setup["reference"]),
                candidate=RunSetup(**setup["candidate"]),
                differences={
                    name: (pair[0], pair[1])
                    for name, pair in setup["differences"].items()
                },
                binding=tuple(setup["binding"]),
                tensors=tuple(setup["tensors"]),
                map=_map_from_json(setup["map"]) if setup.get("map") else None,
            ),
            error_kind=ErrorKind(value["error_kind"])
            if value.get("error_kind")
            else None,
            error=ErrorDetails(**value["error"]) if value.get("error") else None,
            only=value.get("only", {}),
            remarks=tuple(value.get("remarks", ())),
            gaps=None if value.get("gaps") is None else tuple(value["gaps"]),
            coverage={
                kind: KindCoverage(**counts)
                for kind, counts in value.get("coverage", {}).items()
            },
            culprits=tuple(
                Culprit(**{**item, "ids": tuple(item["ids"])})
                for item in value.get("culprits", ())
            ),
            isolation=Isolation.from_json(value["isolation"])
            if value.get("isolation")
            else None,
        )

    @classmethod
    def load(cls, path: Path | str) -> "Report":
        """Reads a report file.

        Raises:
            TraceNotFoundError: There is no such file.
            SchemaVersionError: It was written in another format.
            TraceError: It is not a report.
        """
        path = Path(path)
        value = read_document(path, "a report", remedy=_REMEDY)
        try:
            return cls.from_json(value)
        except SchemaVersionError as error:
            raise SchemaVersionError(
                error.what,
                where=path,
                expected=error.expected,
                got=error.got,
                remedy=error.remedy,
            ) from error
        except TraceError as error:
            raise TraceError(
                error.what,
                where=f"{error.where} of {path}",
                expected=error.expected,
                got=error.got,
                remedy=error.remedy,
            ) from error
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise TraceError(
                "not a whole report",
                where=path,
                got=f"{type(error).__name__}: {error}",
                remedy=_REMEDY,
            ) from error


def _with_former_names(value: Mapping) -> Mapping:
    """A report whose map has the key of today, too."""
    setup = value.get("setup")
    former = setup.get("map") if isinstance(setup, Mapping) else None
    if not isinstance(former, Mapping) or "num_unsure" not in former:
        return value
    assert isinstance(setup, Mapping)
    named = {"num_unverified": former["num_unsure"], **former}
    return {**value, "setup": {**setup, "map": named}}


def _map_from_json(value: Mapping) -> MapSetup:
    """Of a report of today, or of one that has the former key alone."""
    arguments = dict(value)
    former = arguments.pop("num_unsure", None)
    if "num_unverified" not in arguments and former is not None:
        arguments["num_unverified"] = former
    return MapSetup(**arguments)


def render_json(report: Report) -> str:
    """The renderer ``json`` of ``ttrace.report.renderers``."""
    return report.json_text()
