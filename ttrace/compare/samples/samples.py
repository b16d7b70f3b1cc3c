"""Which sample of a step is where, in two runs: values; found in ``sample_search``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
class Span:
    """The positions of a sample that are no padding.

    Attributes:
        start: The first one.
        length: Their number.
    """

    start: int
    length: int


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
        is_by_number: Micro-batches of one number were given the same, and only one run
            has others: they are compared by number.
        mask: The input (slot) that says which positions are padding, where samples are
            padded in another way; else empty, and so are the next two.
        lengths: By side and micro-batch what its samples are padded to.
        spans: By side and sample its positions.
    """

    step: int
    sizes: Mapping[Side, Mapping[int, int | None]]
    places: Mapping[int, tuple[Place, ...]] | None = None
    repeated: frozenset[int] = frozenset()
    obstacle: str = ""
    difference: str = ""
    differs_at: TensorId | None = None
    is_by_number: bool = False
    mask: str = ""
    lengths: Mapping[Side, Mapping[int, int]] = field(default_factory=dict)
    spans: Mapping[Side, Mapping[Place, Span]] = field(default_factory=dict)

    @property
    def is_cut_alike(self) -> bool:
        """Whether the micro-batches have the same numbers and sizes in both runs."""
        return self.sizes[Side.REFERENCE] == self.sizes[Side.CANDIDATE]

    @property
    def sizes_sentence(self) -> str:
        """``1 micro-batch of 8 samples in the reference, 4 of 2 in the candidate``."""
        if self.is_cut_alike:
            sizes = _counted(self.sizes[Side.REFERENCE], "micro-batch")
            how = self._padding if self.mask else "in another order"
            return f"{sizes} in either run, {how}"
        of_reference = _counted(self.sizes[Side.REFERENCE], "micro-batch")
        of_candidate = _counted(self.sizes[Side.CANDIDATE], "")
        text = f"{of_reference} in the reference, {of_candidate} in the candidate"
        return f"{text}, {self._padding}" if self.mask else text

    @property
    def is_padded_alike(self) -> bool:
        """Whether each sample is padded by as much, on the same sides, in both runs.

        Of samples that were matched by what a mask leaves.
        """
        spans, lengths = self.spans, self.lengths
        return all(
            spans[Side.REFERENCE][Place(microbatch=number, row=row)]
            == spans[Side.CANDIDATE][place]
            and lengths[Side.REFERENCE][number]
            == lengths[Side.CANDIDATE][place.microbatch]
            for number, places in (self.places or {}).items()
            for row, place in enumerate(places)
        )

    @property
    def _padding(self) -> str:
        """``padded to 16 positions in the reference, 12 to 16 in the candidate``."""
        of_reference, of_candidate = (
            _range(self.lengths[side].values())
            for side in (Side.REFERENCE, Side.CANDIDATE)
        )
        if of_reference == of_candidate:
            return (
                f"padded to {of_reference} positions in either run, but not each "
                "sample alike"
            )
        return (
            f"padded to {of_reference} positions in the reference, {of_candidate} in "
            "the candidate"
        )


def _range(numbers: Iterable[int]) -> str:
    low, high = min(numbers := list(numbers)), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _counted(sizes: Mapping[int, int | None], noun: str) -> str:
    number = len(sizes)
    what = f"{number} {noun}{'es' if noun and number > 1 else ''}".strip()
    known = [size for size in sizes.values() if size is not None]
    if len(known) < number:
        return what
    samples = " samples" if noun else ""
    is_one = set(known) == {1}
    return f"{what} of {_range(known)}{samples[:-1] if is_one else samples}"


def is_model_input(id_: TensorId) -> bool:
    """Whether it is what the model was given in a micro-batch."""
    return (
        id_.kind is Kind.INPUT
        and id_.module == ROOT_MODULE
        and id_.pass_ is Pass.FORWARD
        and not id_.is_index
    )
