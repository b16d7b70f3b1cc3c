"""Follows failures through the forward and the backward of one micro-batch.

What is computed from what is read off the nesting of modules: what a module is given
comes from what the module around it was given, and from what ran before within it; what
it returns from its inputs, its parameters and what ran within it. Gradients go the same
way back. Equal figures tell that two tensors are one array, which says more.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from ttrace.compare.stats import PairStats
from ttrace.ir.kinds import Kind
from ttrace.judge.frontier.calls import Call, calls_of, recomputed
from ttrace.judge.frontier.flow import GIVEN, NOTHING, UNKNOWN, Failures, Flow
from ttrace.judge.verdicts.structure import layers_left_out
from ttrace.judge.verdicts.verdict import TensorVerdict

_LEAST_ELEMENTS = 4
"""Elements of tensors whose equal figures tell that they are one array."""

_PARALLEL = 1e-9
"""What the cosine of a tensor and a multiple of it may be less than 1."""

_ROUNDED = 1e-14
"""What float64 rounds in the number of elements that a norm is of."""

_GRADIENTS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD, Kind.CLIPPED_GRAD})

_Content = tuple[int, float, float]

_Slot = tuple[str, int, str | None]
"""Module, call and slot of an input or an output."""


class Microbatch:
    """What a micro-batch made of the parameters that a step starts from.

    Attributes:
        gradients: What reaches each gradient of a parameter, by module and slot.
        of_modules: What was seen in the forward and the backward of a module.
    """

    def __init__(
        self,
        verdicts: Sequence[TensorVerdict],
        failures: Failures,
        held: Mapping[str, Flow],
    ):
        """Follows all of it.

        Args:
            verdicts: On the tensors of the micro-batch, in order of capture.
            failures: What takes them.
            held: What reaches parameters and buffers, by module.
        """
        self.gradients: dict[tuple[str, str | None], Flow] = {}
        self.of_modules: dict[str, Flow] = {}
        self._failures = failures
        self._held = held
        self._contents: dict[_Content, Flow] = {}
        self._inputs: dict[_Slot, Flow] = {}
        self._outputs: dict[_Slot, Flow] = {}
        self._forward: dict[Call, Flow] = {}
        self._repeated: dict[tuple[str, int], Flow] = {}
        self._num_calls: Counter[str] = Counter()
        self._of_all_calls: list[TensorVerdict] = []
        first, again = recomputed(verdicts)
        root = calls_of(first)
        self._run(root, GIVEN)
        self._num_calls = Counter(call.module for call in self._forward)
        seen = self._forward[root]
        losses = NOTHING
        for loss in root.of(Kind.LOSS):
            losses += self._take(loss, seen, (Kind.LOSS,))
        self._contents = {}
        if again:
            first_forward, self._forward = self._forward, {}
            for call in calls_of(again).children:
                self._run(call, UNKNOWN, is_repeated=True)
            for call, flow in self._forward.items():
                name = call.module, call.number
                self._repeated[name] = self._repeated.get(name, NOTHING) + flow
            self._forward = first_forward
        self._contents = {}
        self._run_back(root, seen + (losses if losses is not NOTHING else UNKNOWN))
        # A parameter's gradient comes of all calls of its module, which were seen now.
        for verdict in self._of_all_calls:
            self._take_gradient(verdict, self.of_modules[verdict.id.module])

    def _take(self, verdict: TensorVerdict, given: Flow, key: Hashable) -> Flow:
        """What goes on from a tensor; what is one array with another comes from it."""
        content = content_of(verdict)
        if content is None:
            return self._failures.take(verdict, given, key)
        before = self._contents.get(content)
        flow = self._failures.take(verdict, given if before is None else before, key)
        # Of an array that is wrong, modules may be given right copies.
        if before is None or not (before.failed and self._failures.overwrites):
            self._contents[content] = flow
        return flow

    def _run(self, call: Call, around: Flow, *, is_repeated: bool = False) -> Flow:
        """Follows a forward; returns what goes in and out of it.

        Args:
            call: Whose.
            around: What was seen in the call that it is within.
            is_repeated: It is what a recomputation begins with.
        """
        form = layers_left_out(call.module)
        of = "" if call.parent is None else layers_left_out(call.parent.module)
        seen = borders = within = NOTHING
        for verdict in call.of(Kind.INPUT):
            given, name = around, (call.module, call.number, verdict.id.slot)
            if is_repeated:
                given = self._inputs.get(name, UNKNOWN)
            else:
                given += _if_failed(self._inputs.get(name, NOTHING))
            flow = self._take(verdict, given, (Kind.INPUT, of, verdict.id.pass_))
            self._inputs.setdefault(name, flow)
            borders += flow
            within += self._failures.within(verdict, flow)
        seen += within if call.of(Kind.INPUT) else around + UNKNOWN
        seen += self._held.get(call.module, NOTHING)
        for child in call.children:
            seen += self._run(child, seen)
        given = seen
        for verdict in call.of(Kind.OUTPUT):
            name = (call.module, call.number, verdict.id.slot)
            before = _if_failed(self._outputs.get(name, NOTHING))
            flow = self._take(
                verdict, given + before, (Kind.OUTPUT, form, verdict.id.pass_)
            )
            self._outputs.setdefault(name, flow)
            borders += flow
            seen += flow
        self._forward[call] = seen
        return borders if call.of(Kind.OUTPUT) else seen

    def _run_back(self, call: Call, around: Flow) -> Flow:
        """Follows a backward; returns what goes in and out of it.

        Args:
            call: Whose.
            around: What was seen in that of the call that it is within, and in the
                forward of that.
        """
        form = layers_left_out(call.module)
        of = "" if call.parent is None else layers_left_out(call.parent.module)
        seen = borders = within = NOTHING
        for verdict in call.of(Kind.GRAD_OUTPUT):
            flow = self._take(verdict, around, (Kind.GRAD_OUTPUT, of))
            borders += flow
            within += self._failures.within(verdict, flow)
        if call.of(Kind.GRAD_OUTPUT):
            seen += within
        else:
            seen += around if call.parent is None else around + UNKNOWN
        seen += self._forward[call]
        seen += self._repeated.get((call.module, call.number), NOTHING)
        for child in call.last_first:
            seen += self._run_back(child, seen)
        given = seen
        for verdict in call.of(Kind.GRAD_INPUT):
            flow = self._take(verdict, given, (Kind.GRAD_INPUT, form))
            borders += flow
            seen += flow
        of_parameters = call.of(Kind.PARAM_GRAD)
        if self._num_calls[call.module] > 1:
            self._of_all_calls += of_parameters
        else:
            for verdict in of_parameters:
                self._take_gradient(verdict, seen)
        of_module = self.of_modules.get(call.module, NOTHING)
        self.of_modules[call.module] = of_module + seen
        return borders if call.of(Kind.GRAD_INPUT) else seen

    def _take_gradient(self, verdict: TensorVerdict, given: Flow) -> None:
        name = (verdict.id.module, verdict.id.slot)
        flow = self._failures.take(verdict, given, parameter_key(verdict))
        self.gradients[name] = self.gradients.get(name, NOTHING) + flow


def _if_failed(first: Flow) -> Flow:
    """What goes on from a tensor to its recomputation: what was wrong is so again."""
    return first if first.failed else NOTHING


def parameter_key(verdict: TensorVerdict) -> Hashable:
    """What failures of parameters, and of their gradients, are one place by.

    Of one kind, and by the same factor, if it is one: an optimizer, or a reduction,
    goes wrong in many parameters at once. What clips has a factor for each group of
    them, and is one place.
    """
    if verdict.result is None:
        return verdict.id.kind, verdict.cause
    stats = verdict.result.stats
    is_multiple = stats.reference_norm > 0 and abs(stats.cosine) > 1 - _PARALLEL
    if is_multiple and verdict.id.kind is Kind.CLIPPED_GRAD:
        return verdict.id.kind, "a multiple"
    is_gradient = verdict.id.kind in _GRADIENTS
    if not (is_multiple and is_gradient and stats.count >= _LEAST_ELEMENTS):
        return verdict.id.kind, None
    return verdict.id.kind, f"{stats.candidate_norm / stats.reference_norm:.3g}"


def content_of(verdict: TensorVerdict) -> _Content | None:
    """Equal for tensors that are one array in the reference.

    None where others may have the same figures, too: of a mask, or of where tokens are
    routed to, these only say how many elements are set.
    """
    result = verdict.result
    if result is None or result.stats.count < _LEAST_ELEMENTS:
        return None
    stats = result.stats
    if not stats.reference_norm or verdict.id.kind is Kind.LOSS:
        return None
    if _has_one_magnitude(stats):
        return None
    return stats.count, stats.reference_norm, stats.max_abs_reference


def _has_one_magnitude(stats: PairStats) -> bool:
    """Whether the elements seem to be zero or of one magnitude."""
    largest = stats.max_abs_reference
    number = (stats.reference_norm / largest) ** 2 if largest else 0.0
    return math.isfinite(number) and (
        abs(number - round(number)) <= _ROUNDED * max(1.0, number)
    )
