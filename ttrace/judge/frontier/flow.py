"""What reaches a tensor along the dataflow, and where failures begin.

A failed tensor whose inputs agree begins a failure; one that has a failed tensor
upstream is explained by what began that one. Nothing here knows of modules.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from ttrace.ir.kinds import KINDS, Kind, Phase
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_CLEAR = 10.0
"""Times the margin of its inputs, from which on a tensor fails by itself although an
error may have come to it through tensors that pass."""

_MAX_PLACES = 16
"""Places that one tensor is explained by, at most."""

Places = frozenset[int]
"""Numbers of places, in the order in which they were found."""

_NONE: Places = frozenset()

_UNEXPLAINED: Places = frozenset({-1})
"""Stands for the place of a failure that is behind another one in time, and of which
is not known what it is computed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What is known of some tensors that another is computed from.

    Attributes:
        failed: Places that explain those among them that failed.
        reached: Places upstream of those that passed: their error may go on below the
            tolerance.
        margin: The largest one of those that passed.
        is_known: All of them were compared.
        is_any_known: Some were.
    """

    failed: Places = _NONE
    reached: Places = _NONE
    margin: float = 0.0
    is_known: bool = True
    is_any_known: bool = False

    def __add__(self, other: "Flow") -> "Flow":
        if self is NOTHING:
            return other
        if other is NOTHING:
            return self
        return Flow(
            failed=_union(self.failed, other.failed),
            reached=_union(self.reached, other.reached),
            margin=max(self.margin, other.margin),
            is_known=self.is_known and other.is_known,
            is_any_known=self.is_any_known or other.is_any_known,
        )


NOTHING = Flow()
"""No tensor at all: adds nothing to a flow."""

UNKNOWN = Flow(is_known=False)
"""Tensors that were not recorded."""

GIVEN = Flow(is_any_known=True)
"""What is upstream of what a run is given: nothing."""


RIGHT = Flow(is_any_known=True)
"""What goes on from a tensor that had the right values put in its place."""


def _union(one: Places, other: Places) -> Places:
    if one is other or not other:
        return one
    if not one:
        return other
    union = one | other
    return (
        union if len(union) <= _MAX_PLACES else frozenset(sorted(union)[:_MAX_PLACES])
    )


@dataclass(slots=True, kw_only=True)
class Place:
    """Failed tensors that begin a failure together.

    Attributes:
        verdicts: On these.
        is_claimed: The inputs of the first one were compared, and agree.
        is_whole: That is all of its inputs.
        explained: Failed tensors that follow from them, themselves too, by kind.
        num_lacking: How many of these only one run has.
    """

    verdicts: list[TensorVerdict]
    is_claimed: bool
    is_whole: bool
    explained: Counter[Kind] = field(default_factory=Counter)
    num_lacking: int = 0


class Failures:
    """Takes tensors in an order in which each comes behind what it is computed from.

    Args:
        lacking: Tensors that only one run has, which is a failure there.
        first: Of those of which nothing is known that they are computed from, the only
            one that is a place; None for the first that comes.
        overwritten: Tensors that had right values put in their place, once they were
            recorded.
        first_key: That of ``first``, if it is of the optimizer's phase: what fails
            there by the same key, of which as little is known, is of its place.
    """

    def __init__(
        self,
        lacking: Iterable[TensorId],
        first: str | None = None,
        overwritten: Collection[TensorId] = (),
        *,
        first_key: Hashable = None,
    ):
        self._lacking = frozenset(lacking)
        self._overwritten = frozenset(overwritten)
        self._first = first
        self._first_key = first_key
        self._by_key: dict[Hashable, int] = {}
        self.places: list[Place] = []
        self.closed: Places = _NONE
        """Places whose failures reach the parameters that a step starts from: what
        fails in it is no place of its own."""

    def is_failure(self, verdict: TensorVerdict) -> bool:
        """Whether a tensor failed, or is missing where it must not be."""
        return verdict.status is Status.FAILED or verdict.id in self._lacking

    @property
    def overwrites(self) -> bool:
        """Whether any tensor had right values put in its place."""
        return bool(self._overwritten)

    def within(self, verdict: TensorVerdict, flow: Flow) -> Flow:
        """What goes on from a tensor into the module that is given it.

        Args:
            verdict: On the tensor.
            flow: What goes on from it elsewhere, as ``take`` said.
        """
        return RIGHT if verdict.id in self._overwritten else flow

    def take(self, verdict: TensorVerdict, given: Flow, key: Hashable) -> Flow:
        """Says what goes on from a tensor.

        Args:
            verdict: On the tensor.
            given: What it is computed from.
            key: Failures of one key that begin by themselves are one place.
        """
        if self.is_failure(verdict):
            return self._failure(verdict, given, key)
        if verdict.status is not Status.PASSED:
            return Flow(
                failed=given.failed,
                reached=given.reached,
                margin=given.margin,
                is_known=False,
            )
        result = verdict.result
        is_equal = result is None or result.stats.num_unequal == 0
        return Flow(
            reached=_NONE if is_equal else _union(given.failed, given.reached),
            margin=0.0 if is_equal else verdict.margin or 0.0,
            is_any_known=True,
        )

    def take_beside(self, verdicts: Sequence[TensorVerdict]) -> None:
        """Takes tensors of which nothing is recorded that they are computed from.

        They may come from all that failed before, and are a place only if nothing did.

        Args:
            verdicts: On these, which come behind all that was taken so far.
        """
        failed = [v for v in verdicts if self.is_failure(v)]
        places = frozenset(range(min(len(self.places), _MAX_PLACES)))
        may_begin = self._first is None or any(str(v.id) == self._first for v in failed)
        for verdict in failed:
            if not places and may_begin:
                self._begin(verdict, UNKNOWN, (verdict.id.kind, "beside"))
            for place in places:
                self._explain(verdict, place)

    def _failure(self, verdict: TensorVerdict, given: Flow, key: Hashable) -> Flow:
        if given is GIVEN:
            return self._begin(verdict, given, key)
        places = given.failed
        if not places and given.is_any_known:
            margin = verdict.margin
            is_clear = margin is None or given.margin * _CLEAR <= margin
            if self.closed and not given.reached and key in self._by_key:
                return self._begin(verdict, given, key)
            if self.closed:
                places = _union(given.reached, self.closed)
            elif given.reached and not is_clear:
                places = given.reached
            elif is_clear or not self.places:
                return self._begin(verdict, given, key)
        elif not places:
            is_first = self._first in (None, str(verdict.id))
            if not self.places and is_first or self._is_alike(verdict, given, key):
                return self._begin(verdict, given, key)
            places = _union(given.reached, self.closed)
        places = places or _UNEXPLAINED
        for place in places - _UNEXPLAINED:
            self._explain(verdict, place)
        return Flow(failed=places, is_any_known=True)

    def _is_alike(self, verdict: TensorVerdict, given: Flow, key: Hashable) -> bool:
        """Whether a tensor of a parameter fails like the first one, of as little known.

        What is made of one parameter is not computed from what is made of another.
        """
        if KINDS[verdict.id.kind].phase is not Phase.OPTIMIZER:
            return False
        place = self._by_key.get(key)
        is_begun = place is not None and not self.places[place].is_claimed
        is_alike = is_begun or (not self.places and key == self._first_key)
        return is_alike and not given.reached and not self.closed

    def _begin(self, verdict: TensorVerdict, given: Flow, key: Hashable) -> Flow:
        place = self._by_key.get(key)
        if place is None:
            place = self._by_key[key] = len(self.places)
            self.places.append(
                Place(
                    verdicts=[],
                    is_claimed=given.is_any_known,
                    is_whole=given.is_known,
                )
            )
        self.places[place].verdicts.append(verdict)
        self._explain(verdict, place)
        return Flow(failed=frozenset({place}), is_any_known=True)

    def _explain(self, verdict: TensorVerdict, place: int) -> None:
        self.places[place].explained[verdict.id.kind] += 1
        self.places[place].num_lacking += verdict.status is not Status.FAILED
