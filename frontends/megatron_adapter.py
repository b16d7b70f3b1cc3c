"""``trace``: records a Megatron training loop; does nothing unless ttrace asks for it.

Between ``with`` and the end of the block Megatron's optimizer and its calculation of
the loss are observed too: the first knows the main gradients, the second the losses.
"""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import schedules

from ttrace.frontends.megatron_parts.description import MegatronDescription
from ttrace.frontends.megatron_parts.optimizer_shards import OptimizerShards
from ttrace.frontends.megatron_parts.optimizer_tap import observed_optimizer
from ttrace.frontends.megatron_parts.rules import Rule
from ttrace.frontends.megatron_parts.session import MegatronSession
from ttrace.frontends.megatron_parts.torch_optimizer import observed_torch_optimizer
from ttrace.ir.kinds import Kind
from ttrace.recording.request import request_from_environment

Step = TypeVar("Step")


class MegatronTrace:
    """What the training loop is given: it says where a step ends.

    Args:
        session: The recording, or None in a plain run.
    """

    def __init__(self, session: MegatronSession | None):
        self._session = session

    def step(self) -> None:
        """Ends a training step; call it after the optimizer's step."""
        if self._session is not None:
            self._session.capture.step()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Neither records nor counts what runs inside, such as an evaluation."""
        with contextlib.ExitStack() as stack:
            if self._session is not None:
                stack.enter_context(self._session.capture.paused())
            yield


@contextlib.contextmanager
def trace(
    model_chunks: torch.nn.Module | Sequence[torch.nn.Module],
    optimizer: Any,
    *,
    rules: Sequence[Rule] = (),
    vocab_size: int | None = None,
) -> Iterator[MegatronTrace]:
    """Records the steps inside the block, if ``ttrace record`` runs the script.

    Begin it when everything is built and before the first step; the initial parameters
    are recorded at once. The run computes bit for bit what it computes without it.

    Args:
        model_chunks: The model chunks of this rank, wrapped for data parallelism.
        optimizer: Megatron's optimizer, or a single one of torch.
        rules: Layouts of activations of your own modules; asked before Megatron's.
        vocab_size: Number of tokens before the vocabulary was padded; None if it was
            not.

    Yields:
        The object whose ``step()`` is to be called at the end of every step.

    Raises:
        UsageError: The version of Megatron, the parallel layout, the model or the
            optimizer is not supported. Only where something is recorded.
        TraceError: The trace cannot be created.
    """
    request = request_from_environment(os.environ)
    if request is None:
        yield MegatronTrace(None)
        return
    is_single = isinstance(model_chunks, torch.nn.Module)
    chunks = [model_chunks] if is_single else list(model_chunks)
    is_plain = isinstance(optimizer, torch.optim.Optimizer)
    description = MegatronDescription(
        chunks,
        optimizer=None if is_plain else optimizer,
        rules=rules,
        vocab_size=vocab_size,
    )
    session = MegatronSession(
        description, request, rank=dist.get_rank(), world_size=dist.get_world_size()
    )
    capture = session.capture
    if is_plain:
        observed = observed_torch_optimizer(optimizer, capture.records)
    else:
        optimizer_shards = OptimizerShards(optimizer, chunks)
        observed = observed_optimizer(
            optimizer, chunks, optimizer_shards, capture.records
        )
    capture.start()
    try:
        with observed, _observed_loss(session):
            yield MegatronTrace(session)
    except GeneratorExit:
        capture.abort("the loop over the steps was left before its end")
        raise
    except BaseException as error:
        capture.abort(f"the training script ended with {type(error).__name__}")
        raise
    capture.close()


def trace_steps(
    steps: Iterable[Step],
    model_chunks: torch.nn.Module | Sequence[torch.nn.Module],
    optimizer: Any,
    *,
    rules: Sequence[Rule] = (),
    vocab_size: int | None = None,
) -> Iterator[Step]:
    """``trace`` for a loop in which each round is one step, without indenting it.

    For example ``for step in trace_steps(range(5), model, optimizer):``. Whether the
    loop was left by ``break`` or by an exception cannot be told apart: in both cases
    the trace is left incomplete, and says so. A loop that also evaluates needs
    ``trace``, and its ``paused()``.

    Args:
        steps: What the loop ran over.
        model_chunks: As in ``trace``.
        optimizer: As in ``trace``.
        rules: As in ``trace``.
        vocab_size: As in ``trace``.

    Yields:
        What ``steps`` yields.

    Raises:
        UsageError: As in ``trace``.
        TraceError: As in ``trace``.
    """
    with trace(
        model_chunks, optimizer, rules=rules, vocab_size=vocab_size
    ) as megatron_trace:
        for step in steps:
            yield step
            megatron_trace.step()


@contextlib.contextmanager
def _observed_loss(session: MegatronSession) -> Iterator[None]:
    # The schedules divide the loss in place and return nothing of it but what the
    # user's function chose to report.
    original = schedules.forward_step_calc_loss
    signature = inspect.signature(original)

    @functools.wraps(original)
    def calc_loss(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        session.expect_microbatches(bound.arguments["num_microbatches"])
        if bound.arguments["loss_func"] is not None:
            bound.arguments["loss_func"] = _observed_loss_func(
                bound.arguments["loss_func"], session
            )
        return original(*bound.args, **bound.kwargs)

    schedules.forward_step_calc_loss = calc_loss
    try:
        yield
    finally:
        schedules.forward_step_calc_loss = original


def _observed_loss_func(
    loss_func: Callable[..., Any], session: MegatronSession
) -> Callable[..., Any]:
    @functools.wraps(loss_func)
    def observed(*args, **kwargs):
        outputs = loss_func(*args, **kwargs)
        if session.capture.wants(Kind.LOSS) and isinstance(outputs, tuple):
            session.loss_outputs(outputs)
        return outputs

    return observed
