"""A shape that contradicts what a script says of how a tensor lies on the ranks."""

from ttrace.ir.written_dims import written_of
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Cause


def described_shape(findings: Findings) -> Diagnosis | None:
    """Names the pattern and the text of the first one, and how many more have these."""
    settings = findings.candidate.ranks[0].settings
    by_text: dict[tuple[str, str, str], list] = {}
    for verdict in findings.failed:
        said = None
        if verdict.cause is Cause.SHAPE:
            said = written_of(settings, verdict.id)
        if said is not None:
            by_text.setdefault(said, []).append(verdict)
    if not by_text:
        return None
    (which, pattern, text), verdicts = next(iter(by_text.items()))
    num_more = len(verdicts) - 1
    more = f" (and {num_more} more of that pattern)" if num_more else ""
    return Diagnosis(
        code="described_shape",
        sentence=f"of {verdicts[0].id}{more} the candidate's description says {text!r} "
        f"({which}, pattern {pattern!r}), and {verdicts[0].reason}: where its ranks "
        "have parts of it, say so of it in a pattern before that one; else correct "
        "what the candidate computes",
        evidence={"pattern": pattern, "text": text},
        tensor_ids=ids_of(verdicts),
    )
