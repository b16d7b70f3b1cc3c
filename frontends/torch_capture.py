"""Captures a run of any plain torch model.

What is recorded, and how it is counted:

- A micro-batch is one forward of the model (an evaluation counts too; put it into
  ``with trace.paused():``). A module that is called outside the model's forward belongs
  to the micro-batch that began last.
- Gradients belong to the micro-batch of the forward that made their graph. One backward
  pass serves one micro-batch.
- ``grad_output`` is the total gradient of an output. ``grad_input`` is the module's
  share of the gradient of its input, as far as it comes from the module's outputs.
- What no gradient reaches has none recorded. A pass that gives no parameter a gradient
  (``torch.autograd.grad`` of an input, for a penalty) is none of the training: what
  modules are given by it is left out.
- ``main_grad`` is ``parameter.grad`` as the optimizer is given it, or as it is before
  it is clipped, if that is done by torch's own functions or the script calls
  ``trace.main_grads()`` first. ``clipped_grad`` is what the optimizer is then given.
- ``updated_param`` is each parameter as ``optimizer.step()`` left it. One that is not
  what was recorded of it last where a step ends, as the script has written to it since,
  is recorded as ``written_param``.
- Gradients of a loss that ``torch.amp.GradScaler`` has scaled carry its factor as
  their scale. A step that it skips, as its gradients overflow, is noted.

Tracing changes no bit of a training step. Outside of training there is one exception:
torch leaves its fused inference path of ``nn.TransformerEncoderLayer`` where a module
has hooks. Modules inside ``torch.compile`` are not looked into.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

import torch

from ttrace.errors import UsageError
from ttrace.frontends.torch_parts.averaged_models import (
    AveragedParameters,
    averaged_parts,
)
from ttrace.frontends.torch_parts.bias_correction import corrected_in_float32
from ttrace.frontends.torch_parts.clips import observed_clips
from ttrace.frontends.torch_parts.coarse_steps import perturbed_casts
from ttrace.frontends.torch_parts.description import ModelDescription
from ttrace.frontends.torch_parts.dims_rules import DimsRules
from ttrace.frontends.torch_parts.grad_scalers import LossScales, observed_scalers
from ttrace.frontends.torch_parts.gradient_norm import (
    NO_NORM,
    NORM_OF_CLIPPED,
    NORM_OF_PARTS,
)
from ttrace.frontends.torch_parts.native import NativeDescription
from ttrace.frontends.torch_parts.optimized_parameters import (
    TrainedParameters,
    steps_in_backward,
)
from ttrace.frontends.torch_parts.optimizers import OptimizerTap
from ttrace.frontends.torch_parts.pipelining import PipelineStages, parts_of
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.frontends.torch_parts.side_passes import observed_side_passes
from ttrace.ir.optimizer_settings import NO_OPTIMIZER, OPTIMIZER
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.recording.request import request_from_environment


class PlainTrace:
    """What a training script tells ttrace; does nothing in a plain run.

    Args:
        session: Takes the records, or None in a plain run.
        optimizers: Those of the script.
        averaged: Averages of the model's parameters; None where it has none.
        scales: Knows the losses that a gradient scaler made.
    """

    def __init__(
        self,
        session: CaptureSession | None = None,
        optimizers: tuple[OptimizerTap, ...] = (),
        averaged: AveragedParameters | None = None,
        scales: LossScales | None = None,
    ):
        self._session = session
        self._optimizers = optimizers
        self._averaged = averaged
        self._scales = scales

    def step(self) -> None:
        """Ends a training step."""
        if self._averaged is not None:
            self._averaged.record()
        if self._session is not None:
            self._session.step()

    def loss(
        self,
        value: torch.Tensor | float,
        *,
        microbatch: int | None = None,
        scale: float | None = None,
    ) -> None:
        """Records the loss of a micro-batch.

        Args:
            value: A scalar.
            microbatch: Counted from 0 in each step; where None, the one whose forward
                ran last.
            scale: Known factor over the mathematical value; where None, that of the
                ``GradScaler`` that made this very tensor, else 1.
        """
        if scale is None and self._scales is not None:
            scale = self._scales.factor_of(value)
        if self._session is not None:
            self._session.records.loss(value, microbatch=microbatch, scale=scale)

    def main_grads(self, *, grad_norm: torch.Tensor | float | None = None) -> None:
        """Records the gradients as they are, for a script that clips them next.

        Args:
            grad_norm: Their norm over all ranks, where no rank can tell it alone; for
                a script with one optimizer.
        """
        for optimizer in self._optimizers:
            optimizer.record_gradients(grad_norm)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Neither records nor counts what runs inside, such as an evaluation."""
        if self._session is None:
            yield
        else:
            with self._session.paused():
                yield


@contextlib.contextmanager
def trace(
    model: torch.nn.Module | Sequence[torch.nn.Module],
    *optimizers: torch.optim.Optimizer,
    description: ModelDescription | None = None,
    dims: DimsRules | None = None,
    method: str = "forward",
    averaged: torch.nn.Module | Mapping[str, torch.nn.Module] | None = None,
) -> Iterator[PlainTrace]:
    """Records a training loop, if the process was started by ``ttrace record``.

    Otherwise nothing happens at all. An exception inside the ``with`` block leaves the
    trace incomplete.

    Args:
        model: The model, wrapped and sharded already (DDP, FSDP, DTensor). Where this
            rank has several stages of a pipeline, the list of their modules.
        optimizers: What updates its parameters.
        description: Names, layouts and scales; where None, they follow from what
            torch's own parallelism has put on the model, and without any of it every
            rank is taken to hold whole tensors and to run its own micro-batches.
        dims: Dims text of plain tensors between tensor-parallel modules, whose layout
            nothing else says, by pattern of module or of ``module/kind/slot``; a
            gradient lies as what it is of. Also of plain parameters that a style of the
            script's own has cut, by patterns that name them (``*.qkv/*/weight``).
            Without effect where nothing is sharded.
        method: Name of the model's method that runs a micro-batch, for a loop that
            does not call the model itself (``model.training_step(batch)``). Its
            arguments are the inputs of ``@root`` then, what it returns the outputs.
        averaged: An ``AveragedModel`` of ``torch.optim.swa_utils``, or another model of
            the same names with averaged parameters; they are recorded where a step
            ends, as ``optimizer_state``, and its buffers as ``updated_buffer``. It may
            be of a part of the model, and there may be several, by the path of the part
            (``{"generator": ema}``).

    Raises:
        UsageError: The recording request is malformed, a filter leaves no rank, the
            model has no such method, it is a ``torch.nn.DataParallel``, or no module,
            or some of its parameters have no values yet (lazy, or on ``meta``), or both
            ``description`` and ``dims`` are given, or ``averaged`` has other names.
        LayoutError: A text of ``dims`` cannot be read, or names an axis that is none of
            the run's.
        TraceError: The trace cannot be created.
    """
    request = request_from_environment(os.environ)
    if request is None:
        yield PlainTrace()
        return
    rank, world_size = place_in_run(os.environ)
    parts = parts_of(model)
    pipeline = PipelineStages(parts)
    native: NativeDescription | None = None
    if dims and description is not None:
        raise UsageError(
            "the trace is given a description and dims",
            where="torch_capture.trace",
            expected="one of them",
            got="description=..., dims=...",
            remedy="write the dims into the description's activations",
        )
    if description is None:
        native = NativeDescription(
            *parts, dims=dims, pipeline=pipeline, rank=rank, world_size=world_size
        )
        description = native
    inner = [_inner_optimizer(optimizer) for optimizer in optimizers]
    trained = TrainedParameters(inner, description, world_size=world_size)
    session = CaptureSession(
        description,
        request,
        rank=rank,
        world_size=world_size,
        observers=(pipeline,) if native is None else (pipeline, native),
        activations=pipeline,
        root_method=_root_method(description, method),
        settings=(trained.setting() or {}) if optimizers else {OPTIMIZER: NO_OPTIMIZER},
        follows_parameters=bool(optimizers),
    )
    taps = _taps(inner, session, description, trained, num_parts=len(parts))
    if native is not None:
        native.attach()
    averages = None
    if averaged is not None:
        found = averaged_parts(averaged, description.parameters())
        averages = AveragedParameters(found, session)
    session.start()
    for tap in taps:
        tap.attach()
    trained.warn()
    seed = request.noise_seed
    perturbed = () if seed is None else [tap.optimizer for tap in taps]
    try:
        with (
            observed_scalers(taps, session) as scales,
            observed_clips(taps),
            observed_side_passes(session.side_passes),
            corrected_in_float32(perturbed),
            perturbed_casts(perturbed, seed or 0),
        ):
            yield PlainTrace(session, tuple(taps), averages, scales)
    except BaseException as error:
        session.abort(f"the run ended with {type(error).__name__}: {error}")
        raise
    else:
        session.close()
    finally:
        for tap in taps:
            tap.detach()


def _taps(
    optimizers: Sequence[torch.optim.Optimizer],
    session: CaptureSession,
    description: ModelDescription,
    trained: TrainedParameters,
    *,
    num_parts: int,
) -> list[OptimizerTap]:
    """The observers of the optimizers, of which some are parts of one."""
    in_backward = len(optimizers) > 1 and all(map(steps_in_backward, optimizers))
    is_one = in_backward or len(optimizers) == num_parts > 1
    is_clipped = isinstance(description, NativeDescription) and (
        description.clips_in_step
    )
    no_norm = NORM_OF_PARTS if in_backward else NO_NORM
    if is_clipped and description.holds_whole_model:
        no_norm = NORM_OF_CLIPPED
    taps: list[OptimizerTap] = []
    for optimizer in optimizers:
        taps.append(
            OptimizerTap(
                optimizer,
                session,
                first_group=sum(map(OptimizerTap.num_groups, taps)),
                holds_whole_model=description.holds_whole_model
                and not (in_backward or is_clipped),
                leader=taps[0] if taps and is_one else None,
                no_norm=no_norm,
                is_given_clipped=is_clipped,
                is_alone=len(optimizers) == 1,
                trained=trained,
            )
        )
    return taps


def _root_method(description: ModelDescription, method: str) -> str | None:
    """The method that runs a micro-batch; None for the forward.

    Raises:
        UsageError: The model does not have it.
    """
    if method == "forward":
        return None
    for path, module in description.modules():
        if path == ROOT_MODULE and not callable(getattr(module, method, None)):
            raise UsageError(
                "the model has no method of that name",
                where=f"trace(..., method={method!r})",
                expected=f"a method of {type(module).__name__}",
                got=method,
                remedy="name the method that the training loop calls",
            )
    return method


def _inner_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer that steps: Accelerate's and Fabric's have it inside."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer):
        if inner is not optimizer and inner.param_groups is optimizer.param_groups:
            return _inner_optimizer(inner)
    return optimizer


def place_in_run(environment: Mapping[str, str]) -> tuple[int, int]:
    """This process's rank and the number of processes.

    Args:
        environment: Consulted (``RANK``, ``WORLD_SIZE``) where torch.distributed is
            not initialized.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
