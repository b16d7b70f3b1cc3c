"""The dims of what goes into the routed experts and comes out of them.

Letters: x rows (tokens that were routed here), h hidden, f features inside an expert.
Each rank along ``etp`` has a part of the features: what an expert gives, and the
gradient of what it takes, must still be summed over ``etp``, which Megatron does where
it brings tokens back.
"""

from dataclasses import dataclass

from ttrace.ir.kinds import Kind

_INPUTS = (Kind.INPUT, Kind.GRAD_INPUT)
_GRADIENTS = (Kind.GRAD_INPUT, Kind.GRAD_OUTPUT)

_HIDDEN = "x[@index] h"
_FEATURES = "x[@index] f[etp]"
_GATE_AND_UP = "x[@index] f[etp:parts(2)]"
_PROBABILITIES = "x[@index]"
_PARTIAL = " partial[etp]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertModule:
    """A module among the routed experts of a layer.

    Attributes:
        expert: Global number of the expert that it is or belongs to; None for a module
            that serves all experts of this rank.
        name: Its name inside an expert, such as ``linear_fc1``; empty for the expert
            itself.
    """

    expert: int | None
    name: str


def parse_expert_path(tail: str) -> ExpertModule | None:
    """Reads what follows the path of a layer's experts; None if it is not known.

    Args:
        tail: E.g. ``.local_experts.3.linear_fc1``; empty for the experts themselves.
    """
    match tail.split(".")[1:]:
        case ["local_experts", number] if number.isdecimal():
            return ExpertModule(expert=int(number), name="")
        case ["local_experts", number, name] if number.isdecimal():
            return ExpertModule(expert=int(number), name=name)
        case [name]:
            return ExpertModule(expert=None, name=name)
        case []:
            return ExpertModule(expert=None, name="")
        case _:
            return None


def row_dims(
    module: ExpertModule, kind: Kind, slot: str, *, is_gated: bool
) -> str | None:
    """Dims text of a tensor whose rows are tokens, on the mesh ``expert``.

    Args:
        module: The module.
        kind: What the tensor is.
        slot: Position or name of the argument or output.
        is_gated: The first linear holds gate and up projection.

    Returns:
        The text; None where the tensor is not known to have tokens as rows.
    """
    is_gradient = kind in _GRADIENTS
    if kind in _INPUTS:
        dims = _input_dims(module, slot)
        is_partial = is_gradient and dims in (_HIDDEN, _PROBABILITIES)
    else:
        dims = _output_dims(module, slot, is_gated=is_gated)
        is_partial = not is_gradient and dims == _HIDDEN
    return dims + _PARTIAL if dims is not None and is_partial else dims


def is_token_count(module: ExpertModule, slot: str) -> bool:
    """Whether an input says how many tokens each expert of this rank gets."""
    return module == ExpertModule(expert=None, name="") and slot in (
        "1",
        "tokens_per_expert",
    )


def _input_dims(module: ExpertModule, slot: str) -> str | None:
    is_first = slot in ("0", "hidden_states", "permuted_local_hidden_states")
    match module.name:
        case "" if is_first:
            return _HIDDEN
        case "" if module.expert is None and slot in ("2", "permuted_probs"):
            return _PROBABILITIES
        case "" if module.expert is not None and slot in ("1", "per_token_scale"):
            return _PROBABILITIES
        case "linear_fc1" if is_first:
            return _HIDDEN
        case "activation_func" | "linear_fc2" if is_first:
            return _FEATURES
    return None


def _output_dims(module: ExpertModule, slot: str, *, is_gated: bool) -> str | None:
    if slot != "0":
        return None
    match module.name:
        case "" | "linear_fc2":
            return _HIDDEN
        case "linear_fc1":
            return _GATE_AND_UP if is_gated else _FEATURES
        case "activation_func":
            return _FEATURES
    return None
