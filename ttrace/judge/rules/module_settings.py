"""A module that is configured otherwise, and whose result is the first that differs."""

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of

_EPSILONS = ("eps", "epsilon")


def module_settings(findings: Findings) -> Diagnosis | None:
    """Names the settings that both runs state of what fails first, and have otherwise.

    Of one setting it is one sentence, however many modules have it.
    """
    if not findings.failed:
        return None
    first = findings.failed[0].id
    if first.kind is Kind.INPUT or first.module == ROOT_MODULE:
        return None
    evidence = findings.evidence
    found = [
        each
        for each in evidence.runs.modules
        if each.is_within(first.module)
        # An epsilon that explains the values is told with them.
        and not (evidence.place.epsilon and each.name.endswith(_EPSILONS))
    ]
    if not found:
        return None
    modules = dict.fromkeys(verdict.id.module for verdict in findings.verdicts)
    sentences = []
    for each in found:
        number = sum(map(each.has, modules))
        is_pattern = len(each.modules) == 1 and number > 1
        sentences.append(
            f"{each.label}{f' ({number} modules)' if is_pattern else ''} is "
            f"{each.reference} in the reference and {each.candidate} in the candidate"
        )
    return Diagnosis(
        code="module_settings",
        sentence=f"{'; '.join(sentences)}, and what differs first is {first}: "
        "configure the modules alike in both runs",
        evidence={
            f"{each.label} of the {side}": getattr(each, side)
            for each in found
            for side in ("reference", "candidate")
        },
        tensor_ids=ids_of(findings.failed[:1]),
    )
