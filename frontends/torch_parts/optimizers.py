"""Hooks on a torch optimizer: what a step is given, and what it makes of it."""

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from ttrace.frontends.torch_parts.clip_times import ClipTimes, Gradients, Remembered
from ttrace.frontends.torch_parts.clips import Clip
from ttrace.frontends.torch_parts.flat_state import FlatState
from ttrace.frontends.torch_parts.gradient_norm import (
    NO_NORM,
    NORM_OF_GROUPS,
    NORM_OF_OWN_PART,
    whole_values,
)
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import NoLayout
from ttrace.frontends.torch_parts.optimized_parameters import TrainedParameters
from ttrace.frontends.torch_parts.optimizer_settings import settings_of
from ttrace.frontends.torch_parts.optimizer_values import OptimizerValues
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.frontends.torch_parts.stepped_groups import SteppedGroups, parameters_of
from ttrace.ir.kinds import Kind
from ttrace.ir.step_notes import clips_key
from ttrace.recording.said_warnings import warn

_NEVER = (-1, 0, 0)
"""A step, a call of its closure and a part of it: none that there was."""


class OptimizerTap:
    """Records the optimizer's side of a step.

    Before the step: ``main_grad`` (``parameter.grad``), ``grad_norm`` (their total
    2-norm, summed in float64: one more pass over the gradients) and ``learning_rate``;
    ``clipped_grad`` where the gradients have changed after they were recorded. After
    it: ``updated_param`` and ``optimizer_state``.

    A step that is given a closure has its gradients recorded after each call of that,
    as of call 0, 1... of the step. ``updated_param`` of a call are the parameters that
    its gradients led to: those at which the closure is called next, or those that the
    step ends with.

    Args:
        optimizer: The optimizer.
        session: Takes the records.
        first_group: Number of its first parameter group, where there are several
            optimizers.
        holds_whole_model: This rank has all parameters, whole; if not, the norm is
            skipped unless the script gives it.
        leader: The optimizer of another part of the model, which stands for both:
            learning rates that are the same are recorded of that one alone, and no
            norm of this one's gradients, but one of all together.
        no_norm: Why the norm is skipped where it is.
        is_given_clipped: What it is given was clipped before anything could be seen of
            it: ``clipped_grad`` is recorded of every step.
        is_alone: There is no other optimizer.
        trained: What of the model is trained; where optimizers of other ranks may hold
            some of it, the norm is what a clip of all gradients returns, or is skipped.
            None where this one holds all.

    Attributes:
        optimizer: The optimizer.
        num_steps: Steps that it has taken since ``attach``.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        session: CaptureSession,
        *,
        first_group: int = 0,
        holds_whole_model: bool = True,
        leader: "OptimizerTap | None" = None,
        no_norm: NoLayout = NO_NORM,
        is_given_clipped: bool = False,
        is_alone: bool = True,
        trained: TrainedParameters | None = None,
    ):
        self.optimizer = optimizer
        self.num_steps = 0
        self._session = session
        self._first_group = first_group
        self._groups = SteppedGroups(optimizer)
        self._values = OptimizerValues(optimizer)
        self._holds_whole_model = holds_whole_model
        self._leader = leader
        self._all_of_one: list[OptimizerTap] = leader._all_of_one if leader else []
        self._all_of_one.append(self)
        self._no_norm = no_norm
        self._is_given_clipped = is_given_clipped
        self._is_alone = is_alone
        self._trained = trained
        self._evaluation = 0
        self._given_gradients = _NEVER
        self._given_norm = _NEVER
        self._was_given = _NEVER
        self._was_clipped = _NEVER
        self._clips = ClipTimes()
        self._recorded: Mapping[int, Remembered] = {}
        self._left_over: Mapping[int, Remembered] = {}
        self._loss_scale = 1.0
        self._scaled: Mapping[int, Remembered] = {}
        self._norm_scale = 1.0
        self._has_warned_of_second_step = False
        self._handles: list[RemovableHandle] = []

    def num_groups(self) -> int:
        """How many parameter groups it has."""
        return len(self._groups.all())

    @guarded("observe an optimizer")
    def attach(self) -> None:
        """Puts the hooks on."""
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]

    def detach(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @guarded("record gradients")
    def record_gradients(self, grad_norm: torch.Tensor | float | None = None) -> None:
        """Records ``main_grad`` and ``grad_norm``, each once in a step or closure call.

        Args:
            grad_norm: The norm, where the script knows it; computed if None.
        """
        with self._still_scaled():
            self._record_gradients(grad_norm)

    def _record_gradients(self, grad_norm: torch.Tensor | float | None = None) -> None:
        is_first = self._record_main_grads()
        if is_first and grad_norm is None and self._no_own_norm() is None:
            if self._groups.is_part:
                self._record_norm(NORM_OF_GROUPS)
            else:
                grad_norm = self._values.total_norm()
        if grad_norm is not None:
            self._record_norm(grad_norm)

    def note_loss_scale(self, factor: float, before: Gradients) -> None:
        """A backward from a scaled loss has ended.

        Args:
            factor: What the loss was multiplied by, and is in the gradients until they
                are unscaled.
            before: The gradients before it; where they are still these, the loss was
                another model's.
        """
        now = self.remembered_gradients()
        if now != before:
            self._loss_scale, self._scaled = factor, now

    def unscale(self, factor: float) -> None:
        """The gradients are unscaled.

        Where no backward of a scaled loss has made them, and they are not those of the
        step before, that is told.

        Args:
            factor: What they are divided by.
        """
        if not self._scaled:
            now = self.remembered_gradients()
            if now and now != self._left_over:
                self._session.records.unscaled_backward(factor)
        self._scaled = {}

    @contextlib.contextmanager
    def _still_scaled(self) -> Iterator[None]:
        """What is recorded inside is divided by the loss scale that it still has.

        Known of gradients that nothing has changed since their backward.
        """
        if self._scaled and self._scaled == self.remembered_gradients():
            self._values.held_scale = self._loss_scale
        try:
            yield
        finally:
            self._values.held_scale = 1.0

    @guarded("record gradients before they are clipped")
    def before_clip(self, clip: Clip) -> None:
        """Records the gradients that are about to be clipped.

        Gradients that no backward pass has changed since the last step are those of
        that step, and the clip has no effect on this one.
        """
        given = clip.with_gradient or clip.parameter_ids
        touches = not given.isdisjoint(self._values.parameters())
        gradients = self.remembered_gradients()
        if touches and gradients != self._left_over:
            with self._still_scaled():
                if clip.limits and not self._session.is_paused:
                    self._clips.before(gradients)
                    self._session.records.clips_of_scaled(self._values.held_scale)
                self._norm_scale = self._values.held_scale
                if self._is_whole_norm(clip):
                    self._record_main_grads()
                else:
                    self._record_gradients()

    @guarded("record the norm of gradients that were clipped")
    def after_clip(self, clip: Clip, norm: torch.Tensor | float | None) -> None:
        """Records the norm that a clip computed.

        Args:
            clip: What was called.
            norm: Total norm before clipping; None if it gave none.
        """
        now = self._now()
        self._clips.after(self.remembered_gradients())
        if self._given_gradients[:2] != now[:2]:
            self._left_over = self.remembered_gradients()
            return
        if isinstance(norm, torch.Tensor):
            norm = whole_values(norm)  # a DTensor may be a sum still to be made
        if norm is not None and self._is_whole_norm(clip):
            scale = None if self._norm_scale == 1 else self._norm_scale
            self._record_norm(norm, scale=scale)
        if not clip.limits:
            self._recorded = self.remembered_gradients()
        elif not clip.parameter_ids.isdisjoint(self._values.parameters()):
            # A DTensor that changes in place does not say so.
            self._was_clipped = now

    @guarded("record a step that was skipped")
    def skip_step(self, loss_scale: float) -> None:
        """Records a step that the optimizer was not let take.

        Its gradients overflowed; they are recorded all the same, and so are the
        parameters, which are what they were.

        Args:
            loss_scale: The scale that the gradients overflowed at.
        """
        self._record_given()
        self._session.records.skipped_step(loss_scale)
        self._record_result()

    @guarded("record what an optimizer is given")
    def _before(
        self, optimizer: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        self._groups.begin_call(self._session.step_number)
        # The closure makes the gradients; before it they are those of the last step.
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._observed(kwargs["closure"])}
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._observed(args[1]), *args[2:]), kwargs
        self._record_given()
        return None

    @guarded("record what an optimizer makes of a step")
    def _after(self, optimizer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.num_steps += 1
        self._warn_of_second_step()
        self._record_given()  # of an optimizer that never called its closure
        self._record_result()
        before = self._left_over if self._now()[2] else {}
        self._left_over = {**before, **self.remembered_gradients()}
        self._evaluation = 0

    def _warn_of_second_step(self) -> None:
        if self._groups.is_again and not self._has_warned_of_second_step:
            self._has_warned_of_second_step = True
            warn(
                "the optimizer has taken a second step in step "
                f"{self._session.step_number} of the trace. Is trace.step() missing "
                "behind it? What comes again in one step is not recorded."
            )

    def _observed(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        """The closure of a step, after each call of which gradients are recorded."""
        has_been_called = False

        @functools.wraps(closure)
        def observed(*args: Any, **kwargs: Any) -> Any:
            nonlocal has_been_called
            if has_been_called:
                self._begin_evaluation()
            has_been_called = True
            result = closure(*args, **kwargs)
            self._after_closure()
            return result

        return observed

    @guarded("record the parameters that a closure is called with")
    def _begin_evaluation(self) -> None:
        """The optimizer calls its closure again, with other parameters."""
        if not self._session.is_paused:
            self._record_parameters()
            self._left_over = self.remembered_gradients()
            self._evaluation += 1

    @guarded("record what a closure computed")
    def _after_closure(self) -> None:
        self._record_given()

    def _now(self) -> tuple[int, int, int]:
        """The running step, which call of its closure, and which part of it."""
        step = self._session.step_number
        return step, self._evaluation, self._groups.part(step)

    def _record_given(self) -> None:
        """Records what the step is given, once in a step or call of its closure."""
        session, now = self._session, self._now()
        if session.is_paused or self._was_given >= now:
            return
        self._was_given = now
        # What ttrace fails at in one of them leaves the others as they are.
        self._record_given_gradients()
        self._record_clipped()
        session.records.unreduced_gradients()
        if not now[2]:
            self._state_settings()
            self._record_learning_rates()

    @guarded("record the gradients that an optimizer is given")
    def _record_given_gradients(self) -> None:
        self._record_gradients()
        no_norm = self._no_own_norm()
        if no_norm is not None:
            self._record_norm(no_norm)

    @guarded("record clipped gradients")
    def _record_clipped(self) -> None:
        records = self._session.records
        if records.wants(Kind.CLIPPED_GRAD):
            now = self._now()
            is_clipped = self._is_given_clipped or self._was_clipped[:2] == now[:2]
            if is_clipped or self._have_changed():
                records.parameters(
                    Kind.CLIPPED_GRAD, self._values.gradient, call=self._evaluation
                )

    @guarded("tell what an optimizer is set to")
    def _state_settings(self) -> None:
        """States what all groups are set to."""
        records, groups = self._session.records, self._groups.all()
        clips = self._clips.of_step(self.remembered_gradients())
        named, first = records.named_parameters(), self._first_group
        holds_all = self._is_alone and len(groups) == 1
        if self._leader is None:
            records.optimizer_settings(
                lambda: {
                    **settings_of(groups, first_group=first),
                    **({} if holds_all else parameters_of(groups, named, first)),
                    **({} if clips is None else {clips_key(first): clips}),
                }
            )

    @guarded("record learning rates")
    def _record_learning_rates(self) -> None:
        records = self._session.records
        if records.wants(Kind.LEARNING_RATE) and not self._evaluation:
            for index, group in enumerate(self._groups.all()):
                if not group["params"]:
                    continue  # it trains nothing
                if "lr" in group and not self._is_led(index, group["lr"]):
                    records.scalar(
                        Kind.LEARNING_RATE,
                        group["lr"],
                        slot=f"group{self._first_group + index}",
                    )

    def _record_main_grads(self) -> bool:
        """Records ``main_grad``, if it has not done so; whether it did so now."""
        session, now = self._session, self._now()
        if session.is_paused or self._given_gradients >= now:
            return False
        every = (*now[:2], sys.maxsize)
        self._given_gradients = now if self._groups.is_part else every
        self._recorded = self.remembered_gradients()
        session.records.parameters(
            Kind.MAIN_GRAD, self._values.gradient, call=self._evaluation
        )
        return True

    def _is_led(self, index: int, learning_rate: torch.Tensor | float) -> bool:
        """Whether the leader's group of the same number has the same learning rate."""
        if self._leader is None:
            return False
        groups = self._leader._groups.all()
        return index < len(groups) and float(groups[index].get("lr", math.nan)) == (
            float(learning_rate)
        )

    def _record_norm(
        self, norm: torch.Tensor | float | NoLayout, *, scale: float | None = None
    ) -> None:
        session, now = self._session, (*self._now()[:2], 0)
        if self._leader is not None:
            return
        if session.is_paused or self._given_norm >= now:
            return
        self._given_norm = now
        slot = f"group{self._first_group}" if self._first_group else None
        is_known = not isinstance(norm, NoLayout)
        session.records.scalar(
            Kind.GRAD_NORM,
            norm if is_known else 0.0,
            slot=slot,
            call=self._evaluation,
            scale=scale,
            layout=None if is_known else norm,
        )

    def _no_own_norm(self) -> NoLayout | None:
        """Why the norm of its gradients, as this rank has them, is not that of all."""
        if not self._holds_whole_model:
            return self._no_norm
        return NORM_OF_OWN_PART if self._holds_part() else None

    def _holds_part(self) -> bool:
        """Whether optimizers of other ranks may hold parameters that none here does."""
        return self._trained is not None and self._trained.may_be_held_elsewhere()

    def _is_whole_norm(self, clip: Clip) -> bool:
        """Whether a clip computes the 2-norm of all gradients of this optimizer.

        Of optimizers that stand for one, it is that of the gradients of all. Of one
        that holds a part of the parameters, that of all the model's gradients counts,
        too; that of the part does where it limits them.
        """
        own = {
            id(parameter)
            for tap in self._all_of_one
            for parameter in tap._values.parameters().values()
            if parameter.grad is not None
        }
        if not clip.gives_norm:
            return False
        if clip.with_gradient == own:
            return clip.limits or not self._holds_part()
        trained = self._trained
        if trained is None or trained.num_optimizers != len(self._all_of_one):
            return False
        others = {
            id(named.parameter)
            for named in trained.unheld()
            if named.parameter.grad is not None
        }
        return bool(others) and clip.with_gradient == own | others

    def _record_result(self) -> None:
        self._record_parameters()
        records = self._session.records
        if not isinstance(self.optimizer, torch.optim.LBFGS):
            # Of another part of the step it is recorded with that.
            only_own = self._groups.is_part
            records.optimizer_state(
                lambda named: self._values.state(named, only_own=only_own)
            )
            return
        state = FlatState(self.optimizer)
        records.optimizer_state(state.of)
        if self._session.wants(Kind.OPTIMIZER_STATE):
            for name, value in state.scalars().items():
                slot = f"group{self._first_group}.{name}"
                records.scalar(Kind.OPTIMIZER_STATE, value, slot=slot)

    def _record_parameters(self) -> None:
        own = self._values.parameters()
        self._session.records.parameters(
            Kind.UPDATED_PARAM,
            lambda named: named.parameter if id(named.parameter) in own else None,
            call=self._evaluation,
        )

    def remembered_gradients(self) -> Mapping[int, Remembered]:
        """The gradients as they are now, to tell later whether they have changed."""
        return self._values.remembered()

    def _have_changed(self) -> bool:
        """Whether gradients are others than were recorded."""
        now = self.remembered_gradients().items()
        return any(self._recorded.get(key) != gradient for key, gradient in now)
