"""Averages of a model's parameters over steps (``torch.optim.swa_utils``): EMA, SWA.

They are no part of the model and of no optimizer; a script names them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from ttrace.errors import UsageError
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import NoLayout
from ttrace.frontends.torch_parts.names import (
    NamedParameter,
    canonical_modules,
    canonical_parameters,
)
from ttrace.frontends.torch_parts.session import CaptureSession
from ttrace.frontends.torch_parts.tree import clean_name
from ttrace.ir.averages import AVERAGED
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import ROOT_MODULE

_Name = tuple[str, str]
"""A module's path and the name of a parameter in it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AveragedPart:
    """The averages of a model's parameters, or of those of a part of it.

    Attributes:
        path: Of the module that they are averages of; ``@root`` for all of the model.
        model: Their module, without what ``torch`` wraps around it.
    """

    path: str
    model: torch.nn.Module


def averaged_parts(
    averaged: torch.nn.Module | Mapping[str, torch.nn.Module],
    parameters: Iterable[NamedParameter],
) -> tuple[AveragedPart, ...]:
    """Finds what averages are of.

    Args:
        averaged: An ``AveragedModel`` of the model or of a part of it, or a copy that
            the script updates; several by the path of the part.
        parameters: Of the model.

    Raises:
        UsageError: The names of its parameters are those of no part, or of several.
    """
    shapes = {
        (named.module, named.slot): tuple(named.parameter.shape) for named in parameters
    }
    if isinstance(averaged, Mapping):
        parts = tuple(
            AveragedPart(path=path or ROOT_MODULE, model=_own(model))
            for path, model in averaged.items()
        )
        for part in parts:
            if not _common(part, shapes):
                raise _no_part(part.model, f"of {part.path}", shapes)
        return parts
    model = _own(averaged)
    whole = AveragedPart(path=ROOT_MODULE, model=model)
    names = set(_shapes(whole))
    if names & set(shapes):
        return (whole,)
    found = [
        part
        for part in (AveragedPart(path=p, model=model) for p in _paths(shapes))
        if _shapes(part).items() <= shapes.items()
    ]
    if not found:
        raise _no_part(model, "of it or of a part of it", shapes)
    if len(found) > 1:
        raise UsageError(
            "the averages may be of several parts of the model",
            where="torch_capture.trace(averaged=...)",
            expected="a model of whose names and shapes one part is",
            got=", ".join(part.path for part in found),
            remedy=f"name the part: averaged={{{found[0].path!r}: averaged_model}}",
        )
    return tuple(found)


class AveragedParameters:
    """Records averages of a model's parameters as state of the optimizer.

    The buffers of the averaged model, which may be averages as well, or copies, or left
    as they were, are recorded beside the model's own: ``running_mean.averaged``.

    Args:
        parts: What they are averages of.
        session: Takes the records.
    """

    def __init__(self, parts: Iterable[AveragedPart], session: CaptureSession):
        self._parts = tuple(parts)
        self._session = session

    @guarded("record averaged parameters")
    def record(self) -> None:
        """Records them as they are now."""
        for part in self._parts:
            self._session.records.optimizer_state(_state_of(part))
            modules = {
                clean_name(_below(part.path, path)): module
                for path, module in canonical_modules(part.model)
            }
            self._session.records.buffers(
                Kind.UPDATED_BUFFER, modules, suffix=f".{AVERAGED}"
            )


def _state_of(
    part: AveragedPart,
) -> Callable[[NamedParameter], Mapping[str, torch.Tensor] | NoLayout | None]:
    found = _parameters(part)

    def state(named: NamedParameter) -> Mapping[str, torch.Tensor] | NoLayout | None:
        average = found.get((named.module, named.slot))
        if average is not None:
            return {AVERAGED: average}
        if part.path != ROOT_MODULE and not _is_below(named.module, part.path):
            return None
        return NoLayout(
            reason="the averaged model has no parameter of its name, which is that of "
            "the model without its wrappers"
        )

    return state


def _own(model: torch.nn.Module) -> torch.nn.Module:
    is_torchs = isinstance(model, torch.optim.swa_utils.AveragedModel)
    return model.module if is_torchs else model


def _parameters(part: AveragedPart) -> dict[_Name, torch.nn.Parameter]:
    """Averages under the names of what they are averages of."""
    return {
        (_below(part.path, named.module), named.slot): named.parameter
        for named in canonical_parameters(part.model)
    }


def _shapes(part: AveragedPart) -> dict[_Name, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in _parameters(part).items()}


def _common(part: AveragedPart, shapes: Mapping[_Name, tuple[int, ...]]) -> set[_Name]:
    return set(_parameters(part)) & set(shapes)


def _paths(names: Iterable[_Name]) -> list[str]:
    """The modules that hold parameters, and those around them."""
    found: dict[str, None] = {}
    for module, _ in names:
        steps = module.split(".")
        for number in range(1, len(steps) + 1):
            found.setdefault(".".join(steps[:number]))
    found.pop(ROOT_MODULE, None)
    return list(found)


def _below(path: str, module: str) -> str:
    """The path of a module of a part, in the model."""
    if path == ROOT_MODULE:
        return module
    return path if module == ROOT_MODULE else f"{path}.{module}"


def _is_below(module: str, path: str) -> bool:
    return module == path or module.startswith(f"{path}.")


def _no_part(model: torch.nn.Module, what: str, shapes: Iterable[_Name]) -> UsageError:
    def text(names: Iterable[_Name]) -> str:
        listed = [slot if m == ROOT_MODULE else f"{m}.{slot}" for m, slot in names]
        return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")

    return UsageError(
        "the averages are not of the model's parameters",
        where="torch_capture.trace(averaged=...)",
        expected=f"the names and shapes {what}: {text(shapes)}",
        got=text(_shapes(AveragedPart(path=ROOT_MODULE, model=model))),
        remedy="give the average of the model, or of a part of it by the part's path: "
        "averaged={'path.of.the.part': averaged_model}",
    )
