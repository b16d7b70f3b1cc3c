"""Whether optimizers and model belong together: what a script may have got wrong."""

from collections.abc import Iterator, Sequence

import torch

from ttrace.errors import UsageError
from ttrace.frontends.torch_parts.description import ModelDescription, NamedParameter
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.ir.unheld_parameters import unheld_setting
from ttrace.recording.said_warnings import warn


class TrainedParameters:
    """What of a model is trained, and which of it the optimizers of a rank hold.

    Args:
        optimizers: All that the trace was given.
        description: Of the model.
        world_size: Ranks of the run; the optimizers of others may hold what these
            do not.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        description: ModelDescription,
        *,
        world_size: int,
    ):
        self.num_optimizers = len(optimizers)
        self._optimizers = optimizers
        self._description = description
        self._world_size = world_size

    def unheld(self) -> list[NamedParameter]:
        """Those that need a gradient and are in no optimizer of this rank.

        None where the optimizers hold nothing of the model.
        """
        held = {id(p) for optimizer in self._optimizers for p in _held_by(optimizer)}
        own = list(self._description.parameters())
        if held.isdisjoint(id(named.parameter) for named in own):
            return []
        return [
            named
            for named in own
            if id(named.parameter) not in held and named.parameter.requires_grad
        ]

    def may_be_held_elsewhere(self) -> bool:
        """Whether there are any, and other ranks whose optimizers may hold them."""
        return self._world_size > 1 and bool(self.unheld())

    @guarded("name the parameters that no optimizer holds")
    def setting(self) -> dict[str, str] | None:
        """What a rank of several says of them; whoever reads all ranks can tell."""
        if not self._optimizers or self._world_size == 1:
            return {}
        return unheld_setting((named.module, named.slot) for named in self.unheld())

    @guarded("compare the parameters of model and optimizers")
    def warn(self) -> None:
        """Logs a warning of optimizers without the model's parameters, or the reverse.

        An optimizer that was made before the model was sharded holds parameters that
        the model has no longer: nothing that it does reaches the model.
        """
        if not self._optimizers:
            return
        of_model = {id(named.parameter) for named in self._description.parameters()}
        for optimizer in self._optimizers:
            own = {id(parameter) for parameter in _held_by(optimizer)}
            if own and own.isdisjoint(of_model):
                warn(
                    f"{type(optimizer).__name__} holds none of the model's parameters, "
                    "so that none of its gradients and updates are recorded. If it was "
                    "made before the model was sharded, wrapped or moved, it does not "
                    "train it either: make it from the parameters of the model that is "
                    "given to trace()."
                )
        left = self.unheld()
        if left and self._world_size == 1:
            more = f" and {len(left) - 1} more parameters" if len(left) > 1 else ""
            warn(
                f"no optimizer that was given to trace() holds {_name_of(left[0])}"
                f"{more}, so that no main_grad and no update of it is recorded; give "
                "trace() all optimizers, or set requires_grad=False on what is not "
                "trained."
            )


def _held_by(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def steps_in_backward(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it seems to be one of many that a hook on its only parameter steps."""
    own = [p for group in optimizer.param_groups for p in group["params"]]
    return len(own) == 1 and bool(getattr(own[0], "_post_accumulate_grad_hooks", None))


def require_values(named: NamedParameter) -> None:
    """Refuses a parameter that is still to be made.

    Raises:
        UsageError: It is of a lazy module that never ran, on the device ``meta``, or
            ZeRO 3 of DeepSpeed has taken its values away.
    """
    parameter = named.parameter
    if torch.nn.parameter.is_lazy(parameter):
        state, remedy = "no shape yet", "run one forward of the model before the trace"
    elif parameter.device.type == "meta":
        state = "no values: it is on the device meta"
        remedy = "begin the trace after to_empty() and the initialization"
    elif hasattr(parameter, "ds_shape"):
        state = "no values here: ZeRO 3 of DeepSpeed gathers them for each forward"
        remedy = "compare ZeRO 2, which trains the same; ttrace knows its partitions"
    else:
        return
    raise UsageError(
        f"a parameter has {state}",
        where=_name_of(named),
        expected="a model that can be trained as it is",
        got=type(parameter).__name__,
        remedy=remedy,
    )


def _name_of(named: NamedParameter) -> str:
    return f"{named.module}.{named.slot}"
