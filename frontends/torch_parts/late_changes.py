"""What a script did to its model after the trace began, and hooks do not see."""

import weakref
from collections.abc import Iterable

import torch

from ttrace.frontends.torch_parts.names import NamedParameter
from ttrace.frontends.torch_parts.tensors import says_its_layout

_REMEDY = "begin `with torch_capture.trace(...)` after it"


class LateChanges:
    """Finds modules and parameters that a model had not when the trace began.

    Adapters (PEFT) put modules of their own into a model, FSDP and tensor parallelism
    other parameters.

    Args:
        modules: All modules of the model, by canonical path.
        parameters: Its parameters.
        keeps_parameters: What holds the parameters leaves the same ones in the model;
            FSDP, for one, gives it others while it runs.
    """

    def __init__(
        self,
        modules: Iterable[tuple[str, torch.nn.Module]],
        parameters: Iterable[NamedParameter],
        *,
        keeps_parameters: bool,
    ):
        self._modules = weakref.WeakSet(module for _, module in modules)
        self._keeps_parameters = keeps_parameters
        self._parameters = {
            (named.module, named.slot): weakref.ref(named.parameter)
            for named in parameters
            if not says_its_layout(named.parameter)
        }

    def sentences(
        self,
        modules: Iterable[tuple[str, torch.nn.Module]],
        parameters: Iterable[NamedParameter],
    ) -> list[str]:
        """What is to be said of the model as it is now; a warning each.

        Args:
            modules: As they are now.
            parameters: Likewise.
        """
        new = [
            (path, module) for path, module in modules if module not in self._modules
        ]
        if new:
            path, module = new[0]
            return [
                f"ttrace: {_counted(len(new), 'module')} came into the model after the "
                f"trace began (first {path}, a {type(module).__name__}), and "
                f"{'is' if len(new) == 1 else 'are'} not observed; {_REMEDY}"
            ]
        if not self._keeps_parameters:
            return []
        now = {(named.module, named.slot): named.parameter for named in parameters}
        other = [
            key
            for key, known in self._parameters.items()
            if key not in now or now[key] is not known()
        ]
        if not other:
            return []
        first = now.get(other[0])
        became = "gone" if first is None else f"a {type(first).__name__}"
        return [
            f"ttrace: {_counted(len(other), 'parameter')} of the model "
            f"{'was' if len(other) == 1 else 'were'} replaced after the trace began "
            f"(first {'.'.join(other[0])}, which is {became} now), so that what each "
            f"rank has of the model is not known; {_REMEDY}"
        ]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"
