"""A tensor that a gradient reaches in the candidate only, before others are wrong."""

from ttrace.ir.kinds import Kind
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.reading.carried import when


def extra_activation_gradient(findings: Findings) -> Diagnosis | None:
    """Names it, and that it is a state which only the reference detaches, if it is."""
    extra = findings.evidence.place.extra_activations
    if not extra:
        return None
    carried = findings.evidence.place.carried
    first = next((v.id for v in extra if v.id in carried), extra[0].id)
    what = "input" if first.kind is Kind.GRAD_INPUT else "output"
    source = carried.get(first)
    if source is None:
        cut = findings.words("a detach() or a no_grad() block", "a stop_gradient")
        cause = (
            f"look for {cut} of the reference that the candidate does not have, or for "
            "what the candidate alone makes of it"
        )
    else:
        given = f"output {source.slot} of {when(source, first)}"
        cause = (
            f"it is {given}, a state that is carried over: the reference detaches it "
            "and the candidate does not; detach it in both runs or in neither"
        )
    place = f"step {first.step}"
    if first.microbatch is not None:
        place += f", micro-batch {first.microbatch}"
    return Diagnosis(
        code="extra_activation_gradient",
        sentence=f"{what} {first.slot} of {first.module} ({place}) agrees, and a "
        f"gradient reaches it in the candidate only: {cause}",
        evidence={"num_tensors": len(extra)},
        tensor_ids=ids_of(extra),
    )
