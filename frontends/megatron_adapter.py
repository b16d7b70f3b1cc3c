"""``trace``: records a Megatron training loop; does nothing unless ttrace asks for it.

Between ``with`` and the end of the block Megatron's optimizer and its calculation of
the loss are observed too: the first knows the main gradients, the second the losses.
"""

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import schedules

from ttrace.frontends.megatron_description import MegatronDescription
from ttrace.frontends.megatron_rules import Rule
from ttrace.frontends.megatron_session import MegatronSession
from ttrace.frontends.torch_description import NamedParameter, NoLayout
from ttrace.ir.tensor_id import Kind
from ttrace.run.switchboard import request_from_environment


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
            self._session.step()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Neither records nor counts what runs inside, such as an evaluation."""
        with contextlib.ExitStack() as stack:
            if self._session is not None:
                stack.enter_context(self._session.paused())
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
        optimizer: Megatron's optimizer.
        rules: Layouts of activations of your own modules; asked before Megatron's.
        vocab_size: Number of tokens before the vocabulary was padded; None if it was
            not.

    Yields:
        The object whose ``step()`` is to be called at the end of every step.

    Raises:
        UsageError: The version of Megatron, the parallel layout or the model is not
            supported. Only where something is recorded.
        TraceError: The trace cannot be created.
    """
    request = request_from_environment(os.environ)
    if request is None:
        yield MegatronTrace(None)
        return
    session = MegatronSession(
        MegatronDescription(
            model_chunks, optimizer=optimizer, rules=rules, vocab_size=vocab_size
        ),
        request,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )
    session.start()
    try:
        with _observed_optimizer(optimizer, session), _observed_loss(session):
            yield MegatronTrace(session)
    except BaseException as error:
        session.abort(f"the training script ended with {type(error).__name__}")
        raise
    session.close()


@contextlib.contextmanager
def _observed_optimizer(optimizer: Any, session: MegatronSession) -> Iterator[None]:
    original = optimizer.step
    is_wrapped_already = "step" in vars(optimizer)

    @functools.wraps(original)
    def step(*args, **kwargs):
        session.record_parameters(Kind.MAIN_GRAD, _main_grad)
        _record_learning_rates(optimizer, session)
        result = original(*args, **kwargs)
        _record_grad_norm(optimizer, result, session)
        session.record_parameters(Kind.UPDATED_PARAM, _parameter)
        return result

    optimizer.step = step
    try:
        yield
    finally:
        if is_wrapped_already:
            optimizer.step = original
        else:
            del optimizer.step  # uncovers the method of the class


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
        if session.wants(Kind.LOSS) and isinstance(outputs, tuple):
            loss = outputs[0].detach().clone()
            if len(outputs) == 3:  # sum over tokens, number of tokens, what to report
                loss = loss / torch.clamp(outputs[1].detach(), min=1)
            session.loss(loss)
        return outputs

    return observed


def _main_grad(named: NamedParameter) -> torch.Tensor | NoLayout | None:
    if not named.parameter.requires_grad:
        return None
    main_grad = getattr(named.parameter, "main_grad", None)
    if main_grad is None:
        return NoLayout(
            reason="the parameter has no main_grad: the model is not wrapped in "
            "Megatron's DistributedDataParallel"
        )
    return main_grad


def _parameter(named: NamedParameter) -> torch.Tensor:
    return named.parameter


def _record_learning_rates(optimizer: Any, session: MegatronSession) -> None:
    # Megatron makes more groups of parameters under some layouts than under others, all
    # with the rates of a few kinds.
    rates = sorted({float(group["lr"]) for group in optimizer.param_groups})
    for index, rate in enumerate(rates):
        slot = None if len(rates) == 1 else f"rate{index}"
        session.record_scalar(Kind.LEARNING_RATE, rate, slot=slot)


def _record_grad_norm(optimizer: Any, result: Any, session: MegatronSession) -> None:
    # Megatron computes the norm only where it clips, and not after an overflow.
    if optimizer.config.clip_grad > 0 and result[1] is not None:
        # Computed in float32, though some optimizers return it as a Python float: what
        # float32 rounds must not count as exact.
        norm = torch.as_tensor(result[1], dtype=torch.float32)
        session.record_scalar(Kind.GRAD_NORM, norm)
