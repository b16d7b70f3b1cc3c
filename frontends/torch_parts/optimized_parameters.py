"""Whether optimizers and model belong together: what a script may have got wrong."""

from collections.abc import Sequence

import torch

from ttrace.errors import UsageError
from ttrace.frontends.torch_parts.description import ModelDescription, NamedParameter
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.recording.said_warnings import warn


@guarded("compare the parameters of model and optimizers")
def warn_of_strangers(
    optimizers: Sequence[torch.optim.Optimizer], description: ModelDescription
) -> None:
    """Logs a warning of optimizers without the model's parameters, and of the reverse.

    An optimizer that was made before the model was sharded holds parameters that the
    model has no longer: nothing that it does reaches the model.
    """
    if not optimizers:
        return
    of_model = {id(named.parameter): named for named in description.parameters()}
    held: set[int] = set()
    for optimizer in optimizers:
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        held |= own
        if own and own.isdisjoint(of_model):
            warn(
                f"{type(optimizer).__name__} holds none of the model's parameters, so "
                "that none of its gradients and updates are recorded. If it was made "
                "before the model was sharded, wrapped or moved, it does not train it "
                "either: make it from the parameters of the model that is given to "
                "trace()."
            )
    left = [
        named
        for key, named in of_model.items()
        if key not in held and named.parameter.requires_grad
    ]
    if left and not held.isdisjoint(of_model):
        more = f" and {len(left) - 1} more parameters" if len(left) > 1 else ""
        warn(
            f"no optimizer that was given to trace() holds {_name_of(left[0])}{more}, "
            "so that no main_grad and no update of it is recorded; give trace() all "
            "optimizers, or set requires_grad=False on what is not trained."
        )


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
