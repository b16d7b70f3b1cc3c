"""Which sample of a step is where, in two runs: values; found in ``sample_search``."""

from collections.abc import Mapping
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run has a sample.

    Attributes:
        microbatch: Its micro-batch.
        row: Its row there.
    """

    microbatch: int
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSamples:
    """A step that the two runs do not cut into the same micro-batches.

    Attributes:
        step: Its number.
        sizes: By side and micro-batch the number of samples; None where it is not
            known.
        places: By micro-batch of the reference, where the candidate has each of its
            samples; None where that is not known. A micro-batch of a call of the
            optimizer's closure that the candidate does not make is not in it.
        repeated: Micro-batches of the reference with a sample whose inputs another one
            repeats: which of them is which is not known.
        obstacle: Why ``places`` are not known; empty where they are.
        difference: Where the runs were not given the same samples: what differs. Empty
            where they were, or where it is not known.
        differs_at: An input of the model that ``difference`` is about.
    """

    step: int
    sizes: Mapping[Side, Mapping[int, int | None]]
    places: Mapping[int, tuple[Place, ...]] | None = None
    repeated: frozenset[int] = frozenset()
    obstacle: str = ""
    difference: str = ""
    differs_at: TensorId | None = None

    @property
    def is_cut_alike(self) -> bool:
        """Whether the micro-batches have the same numbers and sizes in both runs."""
        return self.sizes[Side.REFERENCE] == self.sizes[Side.CANDIDATE]

    @property
    def sizes_sentence(self) -> str:
        """``1 micro-batch of 8 samples in the reference, 4 of 2 in the candidate``."""
        if self.is_cut_alike:
            sizes = _counted(self.sizes[Side.REFERENCE], "micro-batch")
            return f"{sizes} in either run, in another order"
        of_reference = _counted(self.sizes[Side.REFERENCE], "micro-batch")
        of_candidate = _counted(self.sizes[Side.CANDIDATE], "")
        return f"{of_reference} in the reference, {of_candidate} in the candidate"


def _counted(sizes: Mapping[int, int | None], noun: str) -> str:
    number = len(sizes)
    what = f"{number} {noun}{'es' if noun and number > 1 else ''}".strip()
    known = [size for size in sizes.values() if size is not None]
    if len(known) < number:
        return what
    samples = " samples" if noun else ""
    if len(set(known)) == 1:
        return f"{what} of {known[0]}{samples if known[0] > 1 else samples[:-1]}"
    return f"{what} of {min(known)} to {max(known)}{samples}"


def is_model_input(id_: TensorId) -> bool:
    """Whether it is what the model was given in a micro-batch."""
    return (
        id_.kind is Kind.INPUT
        and id_.module == ROOT_MODULE
        and id_.pass_ is Pass.FORWARD
        and not id_.is_index
    )
