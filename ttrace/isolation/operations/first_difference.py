"""The first operation of a call that differs from the reference's: pure graph work.

What agrees is known. From the value that is wrong, what it was made of is followed back
through all that does not agree; operations there that take nothing but what agrees are
where it begins. Whether a value without a twin is wrong or only made another way, the
reference's operations on the same operands say.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ttrace.ir.operation import RETURNED
from ttrace.isolation.operations.call import Operation, OperationCall

Twins = Mapping[str, frozenset[str]]
"""Of each value of the candidate's call, the keys of the reference's that it is."""

_SAME_NAME = {
    "addmm": "matmul",
    "baddbmm": "matmul",
    "bmm": "matmul",
    "dot_general": "matmul",
    "linear": "matmul",
    "mm": "matmul",
    "native_dropout": "dropout",
    "native_layer_norm": "layer_norm",
    "to_copy": "to",
    "convert_element_type": "to",
    "true_divide": "div",
    "integer_pow": "pow",
    "reshape": "view",
    "reshape_alias": "view",
    "unsafe_view": "view",
}
"""Names of operations that are ways of computing another one."""

_ARRANGING = frozenset(
    {
        "alias",
        "as_strided",
        "broadcast_in_dim",
        "clone",
        "detach",
        "expand",
        "permute",
        "squeeze",
        "t",
        "to",
        "transpose",
        "unsqueeze",
        "view",
    }
)
"""Operations that change no value."""


_SELECTING = frozenset(
    {"chunk", "index", "narrow", "select", "slice", "split", "split_with_sizes"}
)
"""Operations that take a part of what they are given."""


class Difference(StrEnum):
    """What is known of the first operation that differs."""

    OTHER_RESULT = "other_result"
    OTHER_OPERANDS = "other_operands"
    MISSING = "missing"
    EXTRA = "extra"
    OTHER_WAY = "other_way"
    RETURNED = "returned"
    PENDING = "pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstDifference:
    """The first operation of the candidate that differs.

    Attributes:
        what: In which way.
        operation: Of the candidate. Of a missing one: what runs in its place. Of what
            is returned: what gave it.
        reference: The one of the reference that it is set against, or that is missing;
            None where there is none.
        further: Operations of the candidate behind it that give what is wrong, and have
            no twin either, in order.
        reference_further: The reference's between what agrees, in order.
        unknown_operands: Operands from outside of which the reference has no twin.
        takes: Of other operands: what the candidate's operation takes and the
            reference's does not, in words. Of what is missing at the end, or returned:
            what comes from outside and is handed on as it is.
        reference_takes: What the reference's takes in its place.
        result: Which of its results, by position, does not agree.
        is_at_end: Of a missing one: nothing of the candidate comes behind it.
    """

    what: Difference
    operation: Operation
    reference: Operation | None = None
    further: tuple[Operation, ...] = ()
    reference_further: tuple[Operation, ...] = ()
    unknown_operands: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    reference_takes: tuple[str, ...] = ()
    is_at_end: bool = False
    result: int = 0


def kind_of_name(name: str) -> str:
    """The name that all ways of computing an operation share."""
    plain = name.strip("_")
    return _SAME_NAME.get(plain, plain)


def first_difference(
    candidate: OperationCall,
    reference: OperationCall,
    twins: Twins,
    *,
    wrong: Iterable[str],
    expected: Collection[str] = (),
    pending: Collection[str] = (),
) -> FirstDifference | None:
    """The first operation that differs and that what is wrong follows from.

    Args:
        candidate: Its call.
        reference: That of the reference.
        twins: What agrees.
        wrong: Keys of the candidate's values that are wrong.
        expected: Keys of the reference's values that they should be.
        pending: Keys of the candidate's values of which each rank has a part of a sum.

    Returns:
        None where nothing that is known of the two calls tells.
    """
    search = _Search(candidate, reference, twins, frozenset(expected))
    wrong = [key for key in wrong if key]
    for key in wrong:
        if key in pending and (not expected or twins[key] & frozenset(expected)):
            return search.pending(key)
    returned = [key for key in wrong if twins.get(key)]
    if expected and wrong and len(returned) == len(wrong):
        return search.returned(returned[0])
    behind, roots = search.begins(key for key in wrong if not twins.get(key))
    if not roots:
        return None
    named = [search.named(root, behind) for root in roots]
    for found in named:
        if found.what is not Difference.OTHER_WAY:
            return found
    # What takes nothing agrees with nothing by what it takes.
    return next((found for found in named if found.operation.operands), named[0])


class _Search:
    """Both calls as graphs.

    Args:
        candidate: Its call.
        reference: That of the reference.
        twins: What agrees.
        expected: Keys of what the reference hands on.
    """

    def __init__(
        self,
        candidate: OperationCall,
        reference: OperationCall,
        twins: Twins,
        expected: frozenset[str],
    ):
        self._candidate = candidate
        self._expected = expected
        self._twins = twins
        self._makers = candidate.makers()
        self._reference_makers = reference.makers()
        self._reference = reference
        self._found = frozenset(key for keys in twins.values() for key in keys)
        self._takers: dict[str, list[Operation]] = {}
        for one in reference.operations:
            for key in dict.fromkeys(one.operands):
                self._takers.setdefault(key, []).append(one)

    def begins(self, wrong: Iterable[str]) -> tuple[list[Operation], list[Operation]]:
        """What does not agree and leads to what is wrong, and where that begins."""
        behind: dict[int, Operation] = {}
        roots: dict[int, Operation] = {}
        seen: set[str] = set()
        waiting = list(wrong)
        while waiting:
            key = waiting.pop()
            if key in seen:
                continue
            seen.add(key)
            waiting += self._candidate.written.get(key, ())
            made_by = self._makers.get(key)
            if made_by is None or made_by.number in behind:
                continue
            behind[made_by.number] = made_by
            wrong_operands = [k for k in made_by.operands if not self._agrees(k)]
            if wrong_operands:
                waiting += wrong_operands
            else:
                roots[made_by.number] = made_by
        in_order = [behind[number] for number in sorted(behind)]
        return in_order, [roots[number] for number in sorted(roots)]

    def named(self, root: Operation, behind: Sequence[Operation]) -> FirstDifference:
        """What is known of an operation that takes what agrees, and gives another."""
        takers = self._takers_of(root)
        unknown = tuple(
            self._candidate.given[key]
            for key in root.operands
            if key in self._candidate.given and not self._twins.get(key)
        )
        further = tuple(one for one in behind if one.number > root.number)
        alike = [one for one in takers if self._is_like(one, root)]
        result = next(
            (n for n, key in enumerate(root.results) if not self._twins.get(key)), 0
        )
        whole = [one for one in alike if self._takes_the_same(one, root)]
        if whole:
            other = _first(whole, self._is_unmatched)
            theirs = self._not_taken(other, root)
            if not unknown or not theirs:
                return FirstDifference(
                    what=Difference.OTHER_RESULT,
                    operation=root,
                    reference=other,
                    unknown_operands=unknown,
                    result=result,
                )
            return self._other_operands(root, other)
        if any(
            self._arranged(twin) in map(self._arranged, self._expected)
            for operand in root.operands
            for twin in self._twins.get(operand, ())
        ):
            return FirstDifference(what=Difference.EXTRA, operation=root)
        lost = [one for one in takers if self._is_unmatched(one)]
        if not root.operands:
            lost, alike = [], []
        # What the reference does first, before it does the same.
        for one in lost:
            if not self._is_like(one, root) and self._leads_to_like(one, root):
                return FirstDifference(
                    what=Difference.MISSING, operation=root, reference=one
                )
        if alike:
            return self._other_operands(root, _first(alike, self._is_unmatched))
        # What the candidate does first, before it does the same.
        after = _first_taker(root, further)
        if after is not None:
            same = [one for one in lost if self._is_like(one, after)]
            if same and len(root.operands) <= 2:
                return FirstDifference(
                    what=Difference.EXTRA, operation=root, reference=same[0]
                )
            instead = [
                one
                for one in lost
                if self._takes_the_same(one, root) and self._is_before_like(one, after)
            ]
            if len(instead) == 1 and kind_of_name(root.name) not in (
                _ARRANGING | _SELECTING
            ):
                return FirstDifference(
                    what=Difference.OTHER_RESULT, operation=root, reference=instead[0]
                )
        return FirstDifference(
            what=Difference.OTHER_WAY,
            operation=root,
            further=further,
            reference_further=tuple(self._followed(lost)),
            unknown_operands=unknown,
        )

    def pending(self, key: str) -> FirstDifference | None:
        """A value of which each rank hands on its part of a sum."""
        operation = self._makers.get(key)
        makers = map(self._reference_makers.get, sorted(self._twins[key]))
        if operation is None:
            return None
        return FirstDifference(
            what=Difference.PENDING,
            operation=operation,
            reference=next(filter(None, makers), None),
        )

    def returned(self, key: str) -> FirstDifference | None:
        """A value that agrees with one of the reference, but not the one expected."""
        operation = self._makers.get(key)
        makers = [self._reference_makers.get(one) for one in sorted(self._expected)]
        meant = next((one for one in makers if one is not None), None)
        if self._twins[key] & self._expected:
            return None
        takes: tuple[str, ...] = ()
        if operation is None:
            if key not in self._candidate.given:
                return None
            takes = (_words(key, self._candidate, self._makers),)
            operation = Operation(
                name=RETURNED,
                number=len(self._candidate.operations),
                operands=(key,),
                results=(key,),
            )
        arranged = set(map(self._arranged, self._twins[key]))
        is_next = meant is not None and not arranged.isdisjoint(
            map(self._arranged, meant.operands)
        )
        return FirstDifference(
            what=Difference.MISSING if is_next else Difference.RETURNED,
            operation=operation,
            reference=meant,
            takes=takes,
            is_at_end=is_next,
        )

    def _other_operands(self, root: Operation, other: Operation) -> FirstDifference:
        """An operation that takes something else than its twin."""
        taken = set(map(self._arranged, other.operands))
        return FirstDifference(
            what=Difference.OTHER_OPERANDS,
            operation=root,
            reference=other,
            takes=tuple(
                _words(key, self._candidate, self._makers)
                for key in root.operands
                if taken.isdisjoint(map(self._arranged, self._twins.get(key, ())))
            ),
            reference_takes=tuple(
                _words(key, self._reference, self._reference_makers)
                for key in self._not_taken(other, root)
            ),
        )

    def _not_taken(self, reference: Operation, candidate: Operation) -> list[str]:
        """Operands of one operation of which another, the candidate's, has no twin."""
        taken = {
            self._arranged(twin)
            for key in candidate.operands
            for twin in self._twins.get(key, ())
        }
        return [key for key in reference.operands if self._arranged(key) not in taken]

    def _agrees(self, key: str) -> bool:
        """Whether a value agrees, or comes from outside, where others see to it."""
        return not key or bool(self._twins.get(key)) or key in self._candidate.given

    def _takers_of(self, one: Operation) -> list[Operation]:
        """Operations of the reference that take anything of what one takes, in order.

        What only arranges a value anew is looked through. What takes nothing begins
        where others do.
        """
        if not one.operands:
            return [
                other
                for other in self._reference.operations
                if not other.operands and self._is_unmatched(other)
            ]
        found: dict[int, Operation] = {}
        for operand in one.operands:
            for key in self._twins.get(operand, ()):
                for taker in self._through(key):
                    found[taker.number] = taker
        return [found[number] for number in sorted(found)]

    def _through(self, key: str) -> Iterable[Operation]:
        for taker in self._takers.get(key, ()):
            yield taker
            if kind_of_name(taker.name) in _ARRANGING:
                for result in taker.results:
                    yield from self._through(result)

    def _is_like(self, one: Operation, other: Operation) -> bool:
        return kind_of_name(one.name) == kind_of_name(other.name)

    def _is_unmatched(self, one: Operation) -> bool:
        return not any(result in self._found for result in one.results)

    def _takes_the_same(self, reference: Operation, candidate: Operation) -> bool:
        """Whether an operation takes twins of what another one takes, and no more."""
        if len(reference.operands) != len(candidate.operands):
            return False
        taken = {self._arranged(key) for key in reference.operands}
        for key in candidate.operands:
            twins = self._twins.get(key, frozenset())
            if not twins:
                continue  # from outside, and not known of the reference
            if not any(self._arranged(twin) in taken for twin in twins):
                return False
        return True

    def _arranged(self, key: str) -> str:
        """The value of the reference that another only arranges anew."""
        maker = self._reference_makers.get(key)
        while (
            maker is not None
            and kind_of_name(maker.name) in _ARRANGING
            and maker.operands
            and maker.operands[0]
        ):
            key = maker.operands[0]
            maker = self._reference_makers.get(key)
        return key

    def _leads_to_like(self, one: Operation, root: Operation) -> bool:
        """Whether what takes a result, and agrees with nothing, is like another."""
        return any(self._is_like(next_, root) for next_ in self._followed([one])[1:])

    def _is_before_like(self, one: Operation, other: Operation) -> bool:
        """Whether what takes a result at once is like another operation."""
        return any(
            self._is_like(taker, other)
            for result in one.results
            for taker in self._through(result)
        )

    def _followed(self, begin: Sequence[Operation]) -> list[Operation]:
        """Operations of the reference from some on, as long as nothing agrees."""
        found: dict[int, Operation] = {}
        waiting = list(begin)
        while waiting:
            one = waiting.pop()
            if one.number in found or not self._is_unmatched(one):
                continue
            found[one.number] = one
            for result in one.results:
                waiting += self._takers.get(result, ())
        return [found[number] for number in sorted(found)]


def _words(key: str, call: OperationCall, makers: Mapping[str, Operation]) -> str:
    """What a value is: ``input/0``, or ``what `mul` at model.py:88 gives``."""
    maker = makers.get(key)
    if maker is None:
        return call.given.get(key) or "a tensor from outside"
    at = f" at {maker.line}" if maker.line else ""
    return f"what `{maker.name.lstrip('_')}`{at} gives"


def _first(
    operations: Sequence[Operation], holds: Callable[[Operation], bool]
) -> Operation:
    return next(filter(holds, operations), operations[0])


def _first_taker(one: Operation, behind: Iterable[Operation]) -> Operation | None:
    """The first operation that takes what another gives, perhaps arranged anew."""
    results = set(one.results)
    for other in behind:
        if results.intersection(other.operands):
            if kind_of_name(other.name) not in _ARRANGING:
                return other
            results.update(other.results)
    return None
