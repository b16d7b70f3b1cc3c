"""A step of which the runs have other numbers of padded samples: other global batches.

Lengths differ then as well, so that shapes alone do not say which dim counts samples. A
mask among the inputs does, where what it leaves of samples is in both runs.
"""

from ttrace.compare.samples.model_inputs import StepInputs
from ttrace.compare.samples.padded_samples import masked_rows
from ttrace.compare.samples.sample_pairs import pair_samples
from ttrace.compare.samples.samples import StepSamples
from ttrace.ir.side import Side


class BatchSizes:
    """Compares numbers of samples, step by step.

    A mask that proved itself in one step is believed in those that come after it: runs
    with other batches soon have no sample of a step in common.
    """

    def __init__(self):
        self._known: set[str] = set()

    def differing(
        self, step: int, reference: StepInputs, candidate: StepInputs
    ) -> StepSamples | None:
        """Says so where the numbers differ; None where they do not, or are not known.

        Args:
            step: Its number.
            reference: What the reference was given, whole.
            candidate: Likewise.
        """
        runs = (reference, candidate)
        for mask, slots in masked_rows(reference, candidate):
            sizes = {run.side: run.sizes(mask, dim=0) for run in runs}
            totals = {side: sum(of_run.values()) for side, of_run in sizes.items()}
            fewer, more = sorted(totals.values())
            if fewer == more:
                continue
            pairs = pair_samples(*([of_run] for of_run in slots.rows))
            if 2 * (fewer - min(len(pairs.missing), len(pairs.extra))) >= fewer:
                self._known.add(mask)
            if mask not in self._known:
                continue
            first = next(iter(reference.inputs.values()))[slots.slot]
            return StepSamples(
                step=step,
                sizes={side: dict(of_run) for side, of_run in sizes.items()},
                obstacle="the runs were not given the same samples",
                difference=f"step {step} has {totals[Side.REFERENCE]} samples in the "
                f"reference and {totals[Side.CANDIDATE]} in the candidate: another "
                "global batch; compare in both runs how many samples a micro-batch "
                "has, how many micro-batches are accumulated, and on how many "
                "data-parallel ranks",
                differs_at=first.id,
            )
        return None
