"""The groups of parameters of an optimizer, and those that one call of its step takes.

DeepSpeed steps an optimizer once for each group, and takes the other groups away from
it meanwhile. These calls are one step.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ttrace.frontends.torch_parts.description import NamedParameter
from ttrace.ir.parameter_groups import parameters_key, parameters_text

Group = Mapping[str, Any]


class SteppedGroups:
    """Tells calls of one step, with other parameters each, from steps.

    Args:
        optimizer: Its groups are read when a step begins, and when asked for.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer
        self._all: list[Group] = list(optimizer.param_groups)
        self._step = -1
        self._part = 0
        self._stepped: set[int] = set()
        self._groups_stepped: set[int] = set()
        self._is_again = False

    @property
    def is_again(self) -> bool:
        """Whether the last call stepped parameters a second time in its step."""
        return self._is_again

    @property
    def is_part(self) -> bool:
        """Whether the optimizer has fewer groups now than it had."""
        return len(self._optimizer.param_groups) < len(self.all())

    def all(self) -> Sequence[Group]:
        """Every group, in order, also those that are taken away for one call."""
        known = {id(group) for group in self._all}
        current = self._optimizer.param_groups
        if len(current) >= len(known) or any(id(g) not in known for g in current):
            self._all = list(current)
        return self._all

    def begin_call(self, step: int) -> None:
        """A call of the optimizer's step begins.

        Args:
            step: The running step of the trace.
        """
        current = self._optimizer.param_groups
        groups = {id(group) for group in current}
        own = {id(p) for group in current for p in group["params"]}
        if step != self._step:
            if self._step >= 0 and self._groups_stepped == groups:
                self._all = list(current)  # what the last step left out is gone
            self._step, self._part, self._is_again = step, 0, False
            self._stepped, self._groups_stepped = own, groups
            return
        self._is_again = not own or not own.isdisjoint(self._stepped)
        self._part += not self._is_again
        self._stepped |= own
        self._groups_stepped |= groups

    def part(self, step: int) -> int:
        """Which call of a step runs, of those with other parameters each; from 0.

        Args:
            step: The running step of the trace.
        """
        return self._part if step == self._step else 0


def parameters_of(
    groups: Sequence[Group], parameters: Iterable[NamedParameter], first_group: int
) -> dict[str, str]:
    """The settings that name what each group holds.

    Args:
        groups: Of an optimizer.
        parameters: Of the model.
        first_group: Number of the first group, where there are several optimizers.
    """
    names: dict[int, list[str]] = {}
    for named in parameters:
        name = f"{named.module}/{named.slot}"
        names.setdefault(id(named.parameter), []).append(name)
    return {
        parameters_key(first_group + index): parameters_text(
            name for p in group["params"] for name in names.get(id(p), ())
        )
        for index, group in enumerate(groups)
    }
