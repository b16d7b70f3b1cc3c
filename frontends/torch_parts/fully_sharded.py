"""What FSDP hides from hooks on parameters: it computes with unsharded ones of its own.

They stand in the modules while these run, so that a hook on the module finds them. Of
FSDP2 they are the same in every step, of FSDP1 new ones in every forward.
"""

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from ttrace.frontends.torch_parts.names import NamedParameter
from ttrace.frontends.torch_parts.tensors import says_its_layout

REASON = (
    "FSDP runs forward and backward on an unsharded parameter of its own, which was "
    "not found in the module when its wrapper ran, so that what a micro-batch adds to "
    "the gradient was not seen; compare main_grad instead"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HiddenParameter:
    """A parameter that is another object while the model runs.

    Attributes:
        named: As the optimizer has it.
        owner: The module in which the other one stands.
        unit: The module whose forward puts it there.
    """

    named: NamedParameter
    owner: torch.nn.Module
    unit: torch.nn.Module


def hidden_by_fully_shard(
    modules: Iterable[tuple[str, torch.nn.Module]],
    parameters: Iterable[NamedParameter],
) -> list[HiddenParameter]:
    """The parameters that FSDP2 hides.

    Args:
        modules: All modules of the model, under their canonical paths.
        parameters: Those of interest.
    """
    fsdp_class = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if fsdp_class is None:
        return []
    by_path: dict[str, torch.nn.Module] = {}
    units: dict[int, torch.nn.Module] = {}
    seen: set[int] = set()
    for path, module in modules:
        by_path.setdefault(path, module)
        if id(module) in seen:
            continue
        for inner in module.modules():  # also wrappers, which have no path of their own
            seen.add(id(inner))
            if isinstance(inner, fsdp_class):
                # Units inside come later, and take theirs.
                units.update((id(part), inner) for part in inner.modules())
    hidden = []
    for named in parameters:
        owner = by_path.get(named.module)
        unit = units.get(id(owner))
        is_managed = named.parameter.requires_grad and says_its_layout(named.parameter)
        if owner is not None and unit is not None and is_managed:
            hidden.append(HiddenParameter(named=named, owner=owner, unit=unit))
    return hidden


class UnshardedHooks:
    """Hooks on the unsharded parameters.

    Args:
        hidden: The parameters.
        add: Takes the place of a parameter in that list and what is added to its
            gradient.
    """

    def __init__(
        self,
        hidden: list[HiddenParameter],
        add: Callable[[int, torch.Tensor], None],
    ):
        self._add = add
        self._units: dict[int, tuple[torch.nn.Module, list]] = {}
        for index, one in enumerate(hidden):
            unit = self._units.setdefault(id(one.unit), (one.unit, []))
            unit[1].append((index, one.owner, one.named.slot))
        self._handles: list[RemovableHandle] = []
        self._on_parameters: list[RemovableHandle] = []
        self._hooked: dict[int, weakref.ref[torch.Tensor]] = {}
        self._found: set[int] = set()

    def is_found(self, index: int) -> bool:
        """Whether a parameter was there to be observed, the last time that it ran."""
        return index in self._found

    def attach(self) -> None:
        """Puts the hooks on the modules."""
        for unit, places in self._units.values():

            def before(module: Any, args: Any, places: list = places) -> None:
                # A parameter that is not found is skipped with that reason.
                with contextlib.suppress(Exception):
                    self._hook(places)

            self._handles.append(unit.register_forward_pre_hook(before))

    def detach(self) -> None:
        """Takes the hooks off the modules, and off parameters that stay."""
        for handle in (*self._handles, *self._on_parameters):
            handle.remove()
        self._handles.clear()
        self._on_parameters.clear()
        self._hooked.clear()
        self._found.clear()

    def _hook(self, places: list[tuple[int, torch.nn.Module, str]]) -> None:
        for index, owner, slot in places:
            unsharded = getattr(owner, slot, None)
            self._found.discard(index)
            if not isinstance(unsharded, torch.Tensor) or not unsharded.requires_grad:
                continue
            if self._is_hooked(unsharded):
                self._found.add(index)
                continue

            def on_gradient(gradient: torch.Tensor, index: int = index) -> None:
                self._add(index, gradient)

            handle = unsharded.register_hook(on_gradient)
            self._found.add(index)
            if unsharded.is_leaf:
                self._hooked[id(unsharded)] = weakref.ref(unsharded)
                self._on_parameters.append(handle)

    def _is_hooked(self, parameter: torch.Tensor) -> bool:
        hooked = self._hooked.get(id(parameter))
        return hooked is not None and hooked() is parameter
