"""Samples that a run has in other steps than the other run has them."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence

from ttrace.compare.extents import ranges
from ttrace.compare.samples.model_inputs import StepInputs
from ttrace.ir.side import Side

Steps = Mapping[int, StepInputs]
"""The inputs of a run, by step."""


class OtherSteps:
    """Looks for samples in the steps of both runs, each of which is read once.

    Args:
        reference: All steps of the reference.
        candidate: All steps of the candidate.
    """

    def __init__(self, reference: Steps, candidate: Steps):
        self.runs: Mapping[Side, Steps] = {
            Side.REFERENCE: reference,
            Side.CANDIDATE: candidate,
        }
        self._held: dict[tuple[object, ...], dict[bytes, list[int]]] = {}

    def sentence(
        self,
        step: int,
        dims: Mapping[str, int],
        missing: Sequence[bytes],
        extra: Sequence[bytes],
    ) -> str:
        """Says that the runs have the same samples, and cut them into other steps.

        Args:
            step: In which they were not.
            dims: The dim that counts samples, of the inputs that have one.
            missing: What those samples of the reference hold that the candidate lacks.
            extra: Likewise of the candidate.

        Returns:
            With what to look at; empty where some samples are in no step of the other
            run.

        Raises:
            CorruptTraceError: The bytes of an input are not those that were written.
        """
        later = self._steps_with(missing, step, dims, Side.CANDIDATE)
        earlier = self._steps_with(extra, step, dims, Side.REFERENCE)
        if later is None or earlier is None:
            return ""
        parts = []
        if later:
            parts.append(f"the candidate has the missing ones in step {ranges(later)}")
        if earlier:
            parts.append(f"the reference has the others in step {ranges(earlier)}")
        return f": {' and '.join(parts)}; {self._look()}"

    def _look(self) -> str:
        reference, candidate = (self.runs[side] for side in Side)
        if len(candidate) == len(reference):
            return (
                "the runs give the same samples in other steps: look at where each "
                "calls trace.step(), and at how many micro-batches it accumulates"
            )
        more = Side.CANDIDATE if len(candidate) > len(reference) else Side.REFERENCE
        return (
            f"the {more} makes more steps of fewer samples: look at where trace.step() "
            "is called in either run (once behind every optimizer.step()), and at how "
            "many micro-batches each accumulates before it"
        )

    def _steps_with(
        self, wanted: Sequence[bytes], step: int, dims: Mapping[str, int], side: Side
    ) -> Collection[int] | None:
        """Other steps of a run that hold rows; None where a row is in none of them."""
        if not wanted:
            return ()
        held = self._rows(dims, side)
        found = set()
        for row in wanted:
            steps = [other for other in held.get(_digest(row), ()) if other != step]
            if not steps:
                return None
            found.add(steps[0])
        return found

    def _rows(self, dims: Mapping[str, int], side: Side) -> dict[bytes, list[int]]:
        """By digest of what a sample holds, the steps of a run that have it."""
        key = (side, *dims.items())
        if key not in self._held:
            held = self._held.setdefault(key, {})
            dtypes = {slot: set(self._dtypes(slot)) for slot in dims}
            for step, inputs in self.runs[side].items():
                slots = inputs.inputs.values()
                if not slots or not all(slot in one for one in slots for slot in dims):
                    continue
                if not inputs.is_whole():
                    continue
                for row in inputs.rows(dims, dtypes).values():
                    steps = held.setdefault(_digest(row), [])
                    if step not in steps[-1:]:
                        steps.append(step)
        return self._held[key]

    def _dtypes(self, slot: str) -> Iterator[str]:
        """Those of an input in any step of either run."""
        for run in self.runs.values():
            for inputs in run.values():
                if all(slot in one for one in inputs.inputs.values()):
                    yield from inputs.dtypes(slot)


def _digest(row: bytes) -> bytes:
    return hashlib.blake2b(row, digest_size=16).digest()
