"""Finds which calls of a module, or which rows of them, are which in the other run.

By what they are given. Of a module within another one, by the calls of that; where what
is given differs itself, by other steps of the module, or by other modules that are
called alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ttrace.compare.calls.call_counts import Place
from ttrace.compare.calls.call_pairing import (
    CallPairing,
    Lengths,
    pair_calls,
    pair_rows,
)
from ttrace.compare.calls.call_sketches import Calls, CallSketches, row_dims
from ttrace.compare.calls.row_classes import classify, split
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId
from ttrace.ir.trace_source import TraceSource

Named = Mapping[TensorId, Calls]
"""What was recorded at a place, by name without its call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsAt:
    """What both runs recorded of the calls of a module in a micro-batch.

    Attributes:
        reference: By name.
        candidate: By name.
    """

    reference: Named
    candidate: Named

    @property
    def names(self) -> tuple[set[int], set[int]]:
        """The calls of either run."""
        ours, theirs = (
            {call for calls in named.values() for call in calls}
            for named in (self.reference, self.candidate)
        )
        return ours, theirs


@dataclass(slots=True, kw_only=True)
class CallMatcher:
    """Matches the calls of places, one after the other.

    Attributes:
        reference: The trusted run.
        candidate: The run under test.
        are_ordered: As many calls are made in both runs: they are matched only where
            their order is another one.
        found: By place which rows are which.
    """

    reference: TraceSource
    candidate: TraceSource
    are_ordered: bool = False
    found: dict[Place, CallPairing] = field(default_factory=dict)
    _sketches: CallSketches = field(init=False)
    _by_module: dict[str, CallPairing] = field(default_factory=dict)
    _by_microbatch: dict[
        tuple[int, int | None], dict[int, list[tuple[str, CallPairing]]]
    ] = field(default_factory=dict)

    def __post_init__(self):
        self._sketches = CallSketches(self.reference, self.candidate)

    def match(self, places: Mapping[Place, CallsAt]) -> dict[Place, CallPairing]:
        """Matches calls where that can be told.

        Args:
            places: What was recorded at each.
        """
        outermost_first = sorted(places, key=lambda place: place[2].count("."))
        left: list[tuple[Place, CallPairing | None]] = []
        for place in outermost_first:
            self._sketches.forget()
            pairing = self._nested(place, places[place])
            if pairing is None:
                pairing = self._by_content(places[place])
                if pairing is not None and not pairing.keeps_order:
                    # Other modules that are called alike say whether rows are mixed up.
                    left.append((place, pairing))
                    continue
            if pairing is None:
                left.append((place, None))
            else:
                self._add(place, pairing)
        for place, by_content in left:
            self._sketches.forget()
            at = places[place]
            pairing = self._nested(place, at)
            pairing = pairing or self._borrowed(place, at, by_content) or by_content
            if pairing is not None:
                self._add(place, pairing)
        return self.found

    def _add(self, place: Place, pairing: CallPairing) -> None:
        if pairing.is_plain:
            return
        self.found[place] = pairing
        if not pairing.is_assumed:
            self._by_module[place[2]] = pairing
            of_all = self._by_microbatch.setdefault(place[:2], {})
            of_all.setdefault(len(pairing.reference), []).append((place[2], pairing))

    def _nested(self, place: Place, at: CallsAt) -> CallPairing | None:
        """As of the nearest module around that was matched."""
        step, microbatch, module = place
        while "." in module:
            module = module.rpartition(".")[0]
            around = self.found.get((step, microbatch, module))
            if around is not None:
                return self._fitting(around, at, is_inside=True)
        return None

    def _borrowed(
        self, place: Place, at: CallsAt, by_content: CallPairing | None
    ) -> CallPairing | None:
        """As in another micro-batch, or as of a module that is called alike.

        Rows that are found, though mixed up, are not mixed up alike in every step: of
        these only another module of the micro-batch may tell.
        """
        alike = self._by_microbatch.get(place[:2], {}).get(len(at.names[0]), ())
        known = self._by_module.get(place[2]) if by_content is None else None
        own = [] if known is None else [(place[2], known)]
        for module, pairing in (*own, *alike):
            if by_content is not None and pairing.reference != by_content.reference:
                continue
            fitting = self._fitting(pairing, at)
            if fitting is not None:
                if by_content is not None and fitting.pairs == by_content.pairs:
                    return by_content
                return replace(fitting, is_assumed=True, like=module)
        return None

    def _fitting(
        self, pairing: CallPairing, at: CallsAt, *, is_inside: bool = False
    ) -> CallPairing | None:
        """A pairing of another place as that of this one; None if it is none."""
        num_calls = len(at.names[0]) // len(pairing.reference)
        if not num_calls:
            return None
        fitting = pairing.nested(num_calls)
        if at.names != (set(fitting.reference), set(fitting.candidate)):
            return None
        for calls in _inputs(at):
            if fitting.are_whole:
                is_nearer = self._is_nearer(fitting, *calls)
                return fitting if is_nearer or is_nearer is None and is_inside else None
            if dim_and_factor(*calls, fitting) is not None:
                return fitting
        return None

    def _is_nearer(
        self, pairing: CallPairing, ours: Calls, theirs: Calls
    ) -> bool | None:
        """Whether calls are more alike in that order than one after the other.

        So they are where one run makes more of them. None where that is not read.
        """
        if len(ours) != len(theirs):
            return True
        sketches = self._sketches.of_calls(ours, theirs)
        if sketches is None:
            return None
        one, other = (
            dict(zip(sorted(calls), part, strict=True))
            for calls, part in zip((ours, theirs), sketches, strict=True)
        )

        def distance(order: Mapping[int, int]) -> float:
            return sum(
                float(np.linalg.norm(one[call] - other[order[call]]))
                if one[call].dtype != np.uint64
                else float((one[call] != other[order[call]]).any())
                for call in one
                if order.get(call) in other
            )

        return distance(pairing.order) < distance({call: call for call in one})

    def _by_content(self, at: CallsAt) -> CallPairing | None:
        """By all arguments, or by those that tell."""
        # Calls whose arguments are not all recorded are not told by them.
        inputs = [calls for calls in _inputs(at) if tuple(map(set, calls)) == at.names]
        doubtful = None
        for one in inputs:
            found = self._of_inputs([one])
            if found is not None and not (found.repeated or found.is_assumed):
                return found
            doubtful = doubtful or found
        if len(inputs) > 1:
            found = self._of_inputs(inputs)
            if found is not None and not found.is_assumed:
                return found
        return doubtful

    def _of_inputs(self, inputs: Sequence[tuple[Calls, Calls]]) -> CallPairing | None:
        if self.are_ordered:
            found = self._calls_of(inputs)
            return found or self._rows_of(inputs)
        return self._rows_of(inputs) or self._calls_of(inputs)

    def _calls_of(self, inputs: Sequence[tuple[Calls, Calls]]) -> CallPairing | None:
        """Whole calls of the one run that are calls of the other."""
        names = [sorted(calls) for calls in inputs[0]]
        sketches = [self._sketches.of_calls(*calls) for calls in inputs]
        if any(each is None for each in sketches):
            return None
        classes = classify([each for each in sketches if each is not None])
        numbers = [
            dict(zip(of_run, part.tolist(), strict=True))
            for of_run, part in zip(
                names, (classes.reference, classes.candidate), strict=True
            )
        ]
        return pair_calls(*numbers)

    def _rows_of(self, inputs: Sequence[tuple[Calls, Calls]]) -> CallPairing | None:
        for dims in row_dims(inputs):
            sketches, lengths = [], None
            for calls, dim in zip(inputs, dims, strict=True):
                both = self._sketches.of_rows(*calls, dim)
                if both is None:
                    break
                found = tuple(
                    {call: len(rows) for call, rows in of_run.items()}
                    for of_run in both
                )
                if lengths not in (None, found):
                    break
                lengths = found
                sketches.append(
                    tuple(np.concatenate(list(of_run.values())) for of_run in both)
                )
            if lengths is None or len(sketches) < len(inputs):
                continue
            classes = classify(sketches)
            pairing = pair_rows(
                _by_call(classes.reference, lengths[0]),
                _by_call(classes.candidate, lengths[1]),
                is_usual=self.are_ordered,
            )
            if pairing is not None:
                return pairing
        return None


def _inputs(at: CallsAt) -> Iterator[tuple[Calls, Calls]]:
    """Arguments of the first forward that both runs recorded."""
    for name, calls in at.reference.items():
        if name.kind is Kind.INPUT and name.pass_ is Pass.FORWARD:
            if name in at.candidate:
                yield calls, at.candidate[name]


def _by_call(classes: np.ndarray, lengths: Lengths) -> dict[int, np.ndarray]:
    parts = split(classes, list(lengths.values()))
    return dict(zip(lengths, parts, strict=True))


def dim_and_factor(
    reference: Calls, candidate: Calls, pairing: CallPairing
) -> tuple[int, int] | None:
    """The dim of a tensor that counts rows, and how many of them for each row.

    Args:
        reference: What was recorded of it, by call.
        candidate: Likewise.
        pairing: Of rows.

    Returns:
        None where no dim does, alike in all calls.
    """
    described = [
        (record.global_shape, rows[call])
        for calls, rows in (
            (reference, pairing.reference),
            (candidate, pairing.candidate),
        )
        for call, record in calls.items()
        if call in rows
    ]
    shapes = [shape for shape, _ in described]
    if len(described) != len(reference) + len(candidate) or (
        len({len(shape) for shape in shapes}) != 1
    ):
        return None
    for dim in range(len(shapes[0])):
        rests = {shape[:dim] + shape[dim + 1 :] for shape in shapes}
        factors = {divmod(shape[dim], rows) for shape, rows in described if rows}
        if len(rests) == 1 and len(factors) == 1 and (pair := factors.pop())[0]:
            if not pair[1]:
                return dim, pair[0]
    return None
