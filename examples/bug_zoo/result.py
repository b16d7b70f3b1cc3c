"""What running one bug showed, and its JSON form."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields

from ttrace.examples.bug_zoo.bug import Bug
from ttrace.report.model import Outcome, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class BugResult:
    """One row of the table.

    Attributes:
        name: Of the bug.
        source: Where it was reported.
        clean: Verdict on the clean twin: ``pass``, ``diverged`` or ``error``.
        found: Whether the buggy run diverged, or was given other data and ttrace says
            so.
        first_divergence: Id of the first tensor that did, or None.
        kind: What that tensor is.
        module_right: Whether it is where the bug must be seen first.
        margin: Its relative error over its tolerance, where figures were compared.
        diagnosis: Codes of the diagnoses, strongest first.
        diagnosis_right: Whether the expected one is among them; None if none is.
        seconds: How long its runs took, the reference among them if nobody had
            recorded it before.
        reason: Why it was not found, or what failed; empty otherwise.
        expected_code: Code that was stated before the run; None if none was.
        code_right: Whether the first diagnosis has it; None if none was stated.
        isolated_to: Modules that are wrong by themselves, where the buggy run was made
            once more on the reference's values; None where it was not.
    """

    name: str
    source: str
    clean: str
    found: bool
    first_divergence: str | None
    kind: str | None
    module_right: bool
    margin: float | None
    diagnosis: tuple[str, ...]
    diagnosis_right: bool | None
    seconds: float
    reason: str = ""
    expected_code: str | None = None
    code_right: bool | None = None
    isolated_to: tuple[str, ...] | None = None

    @property
    def as_expected(self) -> bool:
        """Found in the right place, and no false alarm on the twin."""
        return self.clean == Outcome.PASS and self.found and self.module_right

    def to_json(self) -> dict:
        """All fields by name."""
        value = asdict(self)
        # JSON has no infinity: a margin over a tolerance of zero.
        if self.margin is not None and self.margin == float("inf"):
            value["margin"] = "Infinity"
        return value

    @classmethod
    def from_json(cls, value: Mapping) -> "BugResult":
        """Reads what ``to_json`` made; fields of later versions are left out.

        Those that an earlier version lacks have their default.

        Raises:
            LookupError, TypeError, ValueError: It is not what ``to_json`` makes.
        """
        known = {
            f.name: value[f.name]
            for f in fields(cls)
            if f.name in value or f.default is MISSING
        }
        known["diagnosis"] = tuple(known["diagnosis"])
        if known.get("isolated_to") is not None:
            known["isolated_to"] = tuple(known["isolated_to"])
        if known["margin"] is not None:
            known["margin"] = float(known["margin"])
        return cls(**known)


def judge_bug(bug: Bug, clean: Report, buggy: Report, *, seconds: float) -> BugResult:
    """Says whether a bug was found, and in the right place."""
    first = buggy.first_divergence
    found = buggy.verdict is Outcome.DIVERGED
    if bug.is_setup:
        is_named = first is not None and first.phase == "set-up"
        found = buggy.verdict is Outcome.ERROR and is_named
    codes = tuple(diagnosis.code for diagnosis in buggy.diagnosis)
    margins = {tensor.id: tensor.margin for tensor in buggy.tensors}
    problems = []
    if clean.verdict is not Outcome.PASS:
        problems.append(f"clean twin: {clean.summary}")
    if not found:
        problems.append(bug.not_found or f"buggy run: {buggy.summary}")
    return BugResult(
        name=bug.name,
        source=bug.source,
        clean=clean.verdict.value,
        found=found,
        first_divergence=first.id if first else None,
        kind=first.kind if first else None,
        module_right=first is not None and bug.is_seen_at(first.module, first.kind),
        margin=margins.get(first.id) if first else None,
        diagnosis=codes,
        diagnosis_right=None if bug.diagnosis is None else bug.diagnosis in codes,
        seconds=round(seconds, 1),
        reason="; ".join(problems),
        expected_code=bug.expected_code,
        code_right=None
        if bug.expected_code is None
        else codes[:1] == (bug.expected_code,),
        isolated_to=None
        if buggy.isolation is None or buggy.isolation.step is None
        else tuple(place.module for place in buggy.isolation.isolated),
    )


def failed_bug(
    bug: Bug, clean: Report | None, error: Exception, *, seconds: float
) -> BugResult:
    """The row of a bug one of whose runs failed; ``clean`` is None if it was that."""
    return BugResult(
        name=bug.name,
        source=bug.source,
        clean=(clean.verdict if clean else Outcome.ERROR).value,
        found=False,
        first_divergence=None,
        kind=None,
        module_right=False,
        margin=None,
        diagnosis=(),
        diagnosis_right=None if bug.diagnosis is None else False,
        seconds=round(seconds, 1),
        reason=str(error),
        expected_code=bug.expected_code,
        code_right=None if bug.expected_code is None else False,
    )
