"""Steps, and micro-batches of a step, that only one of two runs has."""

from collections.abc import Iterator, Mapping

from ttrace.compare.align import Alignment, Unmatched
from ttrace.compare.extents import Extent, ran_together, ranges
from ttrace.ir.side import Side
from ttrace.ir.trace import TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.runs.rank_samples import repeated_microbatches

_CALLS = "torch"
"""The framework of whose model every call is a micro-batch."""


def other_lengths(
    alignment: Alignment, reference: TraceInfo, candidate: TraceSource
) -> Iterator[str]:
    """Says which run has fewer steps, and in which step one has fewer micro-batches.

    Only where tensors are unmatched by this. Of a run whose steps ran together it is
    said that they did. Nothing of micro-batches that the candidate has for ranks which
    were given the samples of others: a diagnosis says that.

    Args:
        alignment: What became of every tensor.
        reference: The trusted run, as it was given.
        candidate: The run under test, likewise.
    """
    infos = {Side.REFERENCE: reference, Side.CANDIDATE: candidate.info}
    if any(info.is_checkpoint or ran_together(info) for info in infos.values()):
        return
    beyond = [e.id for e in alignment.entries if isinstance(e, Unmatched) and e.beyond]
    if not beyond:
        return
    runs = {side: Extent(info).microbatches for side, info in infos.items()}
    common = runs[Side.REFERENCE].keys() & runs[Side.CANDIDATE].keys()
    if any(id_.step not in common for id_ in beyond):
        yield _steps(runs)
    unmatched: dict[int, set[int]] = {}
    for id_ in beyond:
        if id_.step in common and id_.microbatch is not None:
            unmatched.setdefault(id_.step, set()).add(id_.microbatch)
    # Where samples were matched, micro-batches are not those that were recorded.
    found = [
        step
        for step, numbers in unmatched.items()
        if numbers == runs[Side.REFERENCE][step] ^ runs[Side.CANDIDATE][step]
    ]
    if found and not _are_repeated(found[0], runs, candidate):
        calls = all(info.ranks[0].framework == _CALLS for info in infos.values())
        yield _microbatches(found, runs, are_calls=calls)


def _are_repeated(
    step: int,
    runs: Mapping[Side, Mapping[int, frozenset[int]]],
    candidate: TraceSource,
) -> bool:
    """Whether further micro-batches of the candidate hold samples of other ranks."""
    ours, theirs = runs[Side.CANDIDATE][step], runs[Side.REFERENCE][step]
    return (
        theirs < ours
        and repeated_microbatches(candidate, step, ours - theirs) is not None
    )


def _steps(runs: Mapping[Side, Mapping[int, frozenset[int]]]) -> str:
    common = runs[Side.REFERENCE].keys() & runs[Side.CANDIDATE].keys()
    of_candidate, of_reference = (
        ranges(runs[side]) for side in (Side.CANDIDATE, Side.REFERENCE)
    )
    plural = "s" if len(runs[Side.CANDIDATE]) > 1 else ""
    sentence = (
        f"the candidate has step{plural} {of_candidate}, the reference {of_reference}: "
        "let both runs make the same steps"
    )
    return f"{sentence}, or compare --steps {ranges(common)}" if common else sentence


def _microbatches(
    steps: list[int],
    runs: Mapping[Side, Mapping[int, frozenset[int]]],
    *,
    are_calls: bool,
) -> str:
    first = steps[0]
    ours, theirs = runs[Side.CANDIDATE][first], runs[Side.REFERENCE][first]
    if are_calls:
        counts = (
            f"calls the model {_times(len(ours))} in step {first}, the reference "
            f"{_times(len(theirs))}"
        )
    else:
        counts = f"has {len(ours)} micro-batches in step {first}, the reference "
        counts += str(len(theirs))
    only = [
        f"{ranges(numbers)} {'is' if len(numbers) == 1 else 'are'} in the {side} only"
        for side, numbers in (
            (Side.CANDIDATE, ours - theirs),
            (Side.REFERENCE, theirs - ours),
        )
        if numbers
    ]
    plural = "s" if len(steps) > 2 else ""
    more = f"; likewise in step{plural} {ranges(steps[1:])}" if len(steps) > 1 else ""
    look = (
        "look for a call of the model that only one run makes, and at how each "
        "accumulates gradients"
        if are_calls
        else "look at how each run accumulates gradients"
    )
    noun = "micro-batch" if len(ours ^ theirs) == 1 else "micro-batches"
    return f"the candidate {counts}: {noun} {' and '.join(only)}{more}; {look}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
