"""Captures a training step of JAX: jitted or not, sharded or not, flax or plain.

::

    from ttrace.frontends import jax_capture

    train_step = jax_capture.trace(train_step)
    for batch in batches:
        state, loss = train_step(state, batch)

In a plain run ``trace`` leaves the function as it is. In a run that
``ttrace record`` started, the step computes the same and emits every named value:

- Names come from flax linen, NNX and equinox modules, from optax, from what
  ``jax.grad`` differentiates, from ``jax.named_scope`` and from ``ttrace.tap``.
- Named values, and their gradients, become further outputs of the jitted program. They
  keep their shardings, each process writes what its devices hold; nothing is gathered,
  and there are no host callbacks.
- Updated parameters are those that the step returns: what it returns, or leaves in
  a model that it changes, at the path at which it was given the parameter.
- The inputs of the outermost module are the batch. In plain JAX it is what the step is
  given beside its state, by the names of its arguments.
- A rank of the trace is a device.
- Values in loops are recorded for every iteration (the nth call of their module), those
  of branches that were not taken are skipped.

The program computes the same operations on the same devices, with the same collectives.
Two liberties of XLA depend on what else a program emits, and may change last bits:

- It keeps more precision than bfloat16 asks for, as far as it can fuse operations. With
  ``strict=True`` it rounds wherever the program says so.
- On CPUs it makes fused multiply-adds of what it fuses: gradients that are emitted
  moved updated parameters by one unit in the last place. With
  ``XLA_FLAGS=--xla_cpu_max_isa=AVX`` there are none.

With both, tracing changes no bit; but that is another program than the default one.
``strict`` compiles every step so, those of plain runs as well. The settings
``xla_allow_excess_precision`` and ``xla_cpu_max_isa`` of the trace say which one ran.
"""

import atexit
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import jax

from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.harvest.captured import Capture
from ttrace.frontends.jax_parts.harvest.plan import MAX_ITERATIONS
from ttrace.frontends.jax_parts.harvest.step_trace import RunningStep, StepTrace
from ttrace.frontends.jax_parts.record.declared import DeclaredDims
from ttrace.frontends.jax_parts.record.given_batch import (
    GIVEN,
    argument_names,
    has_model_input,
)
from ttrace.frontends.jax_parts.record.mini_steps import without_mini_steps
from ttrace.frontends.jax_parts.record.order_of_use import in_order_of_use
from ttrace.frontends.jax_parts.record.overwriting import Overwriting
from ttrace.frontends.jax_parts.record.recording import Options
from ttrace.frontends.jax_parts.record.session import JaxSession
from ttrace.frontends.jax_parts.record.step_params import (
    GivenArrays,
    Returned,
    with_returned,
)
from ttrace.frontends.jax_parts.strict_step import StrictStep
from ttrace.frontends.jax_parts.taps.mini_steps import is_marker
from ttrace.frontends.jax_parts.taps.optax_settings import setting_of
from ttrace.frontends.jax_parts.taps.patching import Missed, note
from ttrace.frontends.jax_parts.taps.sites import TapSite
from ttrace.frontends.jax_parts.taps.stated import Stated
from ttrace.frontends.jax_parts.taps.step_taps import step_taps
from ttrace.frontends.jax_parts.taps.tap import tap as tap
from ttrace.ir.kinds import Kind
from ttrace.recording.faults import reason_of
from ttrace.recording.request import RecordRequest, request_from_environment


def trace(
    step: Callable[..., Any],
    *,
    strict: bool = False,
    microbatches: int = 1,
    max_iterations: int = MAX_ITERATIONS,
    dims: Mapping[str, str] | None = None,
    scopes: bool | None = None,
    loss_scale: float = 1.0,
) -> Callable[..., Any]:
    """Records every call of a training step, if ``ttrace record`` started the process.

    Otherwise the step itself comes back, or with ``strict`` the same step compiled
    strictly.

    The trace ends with the process. An exception, in the step or after it, leaves the
    trace incomplete.

    Args:
        step: The whole step, gradients and optimizer in it; best a jitted function.
            ``jax.jit`` and ``nnx.jit`` keep their donation, shardings and static
            arguments.
        strict: Compile without excess precision, recorded or not (see the module's
            documentation).
        microbatches: Iterations of the loop in which the step accumulates gradients;
            they become micro-batches of the trace.
        max_iterations: Iterations of a ``while`` loop that are recorded; memory for
            as many is taken.
        dims: Dims text (see ``ttrace.ir.dims``) by pattern, for values inside a
            ``shard_map``: how the values of the devices make up the logical tensor.
            The first pattern that matches counts. One without ``/`` is matched against
            the module path of inputs, outputs and their gradients, any other one
            against ``module/kind/slot`` of every value. ``...`` at the end of a text
            stands for all further dims, unsharded. Arguments and results of the whole
            body need none: its specs say it. With ``check_vma=False``, the gradient of
            what all devices hold alike is a sum over them: ``b d partial[tp]``.
        scopes: What leaves a ``jax.named_scope`` in the function that is differentiated
            is an output of that name; by default where the script has imported neither
            flax nor equinox.
        loss_scale: A constant by which the step multiplies the loss that it
            differentiates, and divides the gradients before the update.

    Returns:
        A function of the same arguments and results.

    Raises:
        UsageError: The step was compiled ahead of time, an option makes no sense, the
            recording request is malformed, or this version of JAX was not tested.
        LayoutError: A dims text cannot be read.
    """
    _require_step(step)
    _require_positive("microbatches", microbatches)
    _require_positive("max_iterations", max_iterations)
    _require_scale(loss_scale)
    options = Options(
        strict=strict,
        microbatches=microbatches,
        max_iterations=max_iterations,
        dims=DeclaredDims.parse(dims or {}),
        scopes=scopes,
        loss_scale=loss_scale,
    )
    request = request_from_environment(os.environ)
    if request is None:
        return StrictStep(step) if strict else step
    return TracedStep(step, request, JaxSession(request, options), options)


class TracedStep:
    """A training step whose calls are recorded; use it like the step itself.

    What else the step has, such as ``lower`` of a jitted function, it has too. As a
    context manager it ends the trace before the process ends.

    Args:
        step: The step.
        request: What to record.
        session: Takes the captures.
        options: Of the script.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        request: RecordRequest,
        session: JaxSession,
        options: Options,
    ):
        functools.update_wrapper(self, step, updated=())
        self._step = step
        self._unrecorded = StrictStep(step) if options.strict else step
        self._request = request
        self._session = session
        self._options = options
        self._missed: list[Missed] = []
        self._stated = Stated()
        wants = request.capture
        self._marks = wants.wants_operations_of if wants.wants_kind(Kind.OP) else None
        self._programs = StepTrace(
            wants=self._wants,
            noise_seed=request.noise_seed,
            noise_dtype=request.noise_dtype,
            max_iterations=options.max_iterations,
            strict=options.strict,
            wants_operations=self._marks,
        )
        self._returned: Returned | None = None
        self._number = 0
        atexit.register(self._at_exit)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the step, and records it."""
        number, self._number = self._number, self._number + 1
        is_wanted = self._session.is_open and self._request.capture.wants_step(number)
        if not is_wanted and self._request.noise_seed is None:
            return self._unrecorded(*args, **kwargs)
        given: GivenArrays | None = None
        overwriting = self._session.overwriting(number) if is_wanted else None
        if is_wanted:
            with self._session.stopping_at_faults("read the arguments of the step"):
                given = GivenArrays(args, kwargs, self._returned)
        try:
            taps = step_taps(
                self._missed,
                self._stated,
                scopes=self._options.scopes,
                marks=self._marks,
            )
            guard = self._session.stopping_at_faults
            with taps, self._programs.running(number, guard, overwriting) as running:
                result = self._step(*args, **kwargs)
            self._returned = Returned(result)
            if given is not None:
                names = argument_names(self._step, args, kwargs)
                self._record(number, running, given, names, result, overwriting)
        except BaseException as error:
            self.abort(f"the run ended with {type(error).__name__}: {error}")
            raise
        return result

    def _record(
        self,
        number: int,
        running: RunningStep,
        given: GivenArrays,
        names: Mapping[str, str],
        result: Any,
        overwriting: Overwriting | None,
    ) -> None:
        def find_captures() -> list[Capture]:
            use = running.params
            found = running.captures()
            operations = [one for one in found if one.operation is not None]
            values = [one for one in found if one.operation is None]
            captures = in_order_of_use(without_mini_steps(values), use.read())
            batch: list[Capture] = []
            if captures:
                batch = self._batch(given, running, names, result, captures)
            updated = given.updated(use, result)
            has_optimizer = use.has_optimizer
            made = with_returned(captures, updated, has_optimizer=has_optimizer)
            first = [capture for capture in batch if capture.order == GIVEN]
            others = [capture for capture in batch if capture.order != GIVEN]
            return [*first, *made, *others, *operations]

        stated = self._stated.texts() | running.params.stated()
        self._session.record(
            number,
            find_captures,
            self._missed,
            stated,
            overwriting,
            self._programs.without_operations,
        )

    def _batch(
        self,
        given: GivenArrays,
        running: RunningStep,
        names: Mapping[str, str],
        result: Any,
        captures: Sequence[Capture],
    ) -> list[Capture]:
        """The batch and what a model keeps; where that fails, all else is recorded."""
        try:
            keeps = any(capture.site.is_kept for capture in captures)
            if keeps or has_model_input(captures):
                return given.kept_by_modules(running.params, result, captures)
            return given.batch_and_state(
                running.params,
                result,
                names=names,
                microbatches=self._options.microbatches,
            )
        except Exception as error:
            reason = reason_of(error, "find it among the step's arguments")
            note(self._missed, Missed(what="the batch of a step", reason=reason))
            return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def __enter__(self) -> "TracedStep":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort(f"the run ended with {type(error).__name__}: {error}")

    def close(self) -> None:
        """Completes the trace."""
        atexit.unregister(self._at_exit)
        self._session.close(num_steps=self._number)

    def abort(self, reason: str) -> None:
        """Leaves the trace incomplete.

        Args:
            reason: Why, in a few words; readers of the trace are shown them.
        """
        atexit.unregister(self._at_exit)
        self._session.abort(reason.partition("\n")[0])

    def _at_exit(self) -> None:
        error = getattr(sys, "last_value", None)  # what ended the script, if anything
        if error is None:
            self._session.close(num_steps=self._number)
        else:
            self.abort(f"the run ended with {type(error).__name__}: {error}")

    def _wants(self, site: TapSite, kind: Kind) -> bool:
        """Whether a value leaves the program; a norm needs every main gradient."""
        capture = self._request.capture
        if kind is Kind.OP:
            return True  # tapped where it is wanted only
        if is_marker(site) or setting_of(site) is not None:
            return True
        if kind is Kind.MAIN_GRAD and capture.wants_kind(Kind.GRAD_NORM):
            return True
        kinds = {kind, Kind.UPDATED_BUFFER} if site.is_kept else {kind}
        return any(map(capture.wants_kind, kinds)) and capture.wants_module(site.module)


def _require_step(step: object) -> None:
    if isinstance(step, jax.stages.Compiled | jax.stages.Lowered | jax.stages.Traced):
        raise UsageError(
            "a step that was compiled ahead of time cannot be traced: its values have "
            "no names any more",
            where="jax_capture.trace",
            expected="the jitted function",
            got=f"jax.stages.{type(step).__name__}",
            remedy="give the function before .trace(), .lower() or .compile()",
        )
    if not callable(step):
        raise UsageError(
            "the step is not a function",
            where="jax_capture.trace",
            got=type(step).__name__,
            remedy="give the function that makes one training step",
        )


def _require_scale(scale: float) -> None:
    if not 0 < scale < float("inf"):
        raise UsageError(
            "a loss scale that is no positive number",
            where="jax_capture.trace(loss_scale=...)",
            expected="the number by which the step multiplies its loss",
            got=scale,
            remedy="correct it; leave out one that changes from step to step, and "
            "compare --kinds main_grad,updated_param",
        )


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(
            f"a number of {name.replace('_', ' ')} that no step has",
            where=f"jax_capture.trace({name}=...)",
            expected="at least 1",
            got=value,
            remedy="correct it, or leave it out",
        )
