"""A mask that lets other places through than the reference's."""

from ttrace.judge.diagnosis import Diagnosis, Findings
from ttrace.judge.places.mask_difference import MaskDifference


def mask_differs(findings: Findings) -> Diagnosis | None:
    """Says which places, and how they lie."""
    found = findings.evidence.place.mask
    if found is None:
        return None
    name = f"{found.id.kind} {found.id.slot or 0} of {found.id.module}"
    if found.is_softmax:
        said = (
            f"{name}, weights that sum up to 1 or less, of what agrees, is zero at "
            f"other places ({_number(found, 'not zero')} of {found.size}) and the "
            "reference's elsewhere, but for a factor in each row: another mask"
        )
    elif found.is_inverse:
        said = f"{name}, a mask, is set where the reference's is not, and only there"
    else:
        said = (
            f"{name}, a mask, differs at {found.more + found.less} of {found.size} "
            f"places ({_number(found, 'kept' if found.is_added else 'set')})"
        )
    if found.farthest is not None:
        theirs, ours = found.farthest
        said += (
            f". The farthest key that it lets through lies {ours} before its query, "
            f"{theirs} in the reference, and nothing else differs: look at how long a "
            "window is to be, and whether it counts the token itself"
        )
    elif found.distances:
        distances = ", ".join(map(str, found.distances))
        said += (
            ". All these are keys "
            f"{distances} before their query: look at how a window counts, with the "
            "token itself or without"
            if min(found.distances) >= 0
            else f". All these lie {distances} before their query"
        )
    elif found.is_causal:
        said += (
            ". The candidate's is causal and nothing else: look for what is to be "
            "masked besides, such as padding or the other documents of a sample"
        )
    elif found.is_inverse:
        said += (
            ": look at what True means to what it is given to, a place that is seen or "
            "one that is masked"
        )
    else:
        said += ": look at what the mask is made of (documents, padding, a window)"
    return Diagnosis(
        code="mask_differs",
        sentence=f"{said} ({found.id})",
        evidence={"more": found.more, "less": found.less, "size": found.size},
        tensor_ids=(str(found.id),),
    )


def _number(found: MaskDifference, what: str) -> str:
    parts = []
    if found.more:
        parts.append(f"{found.more} are {what} in the candidate only")
    if found.less:
        parts.append(f"{found.less} are {what} in the reference only")
    return ", ".join(parts)
