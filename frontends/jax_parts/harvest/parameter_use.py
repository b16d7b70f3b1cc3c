"""The arrays that were the parameters of one step, over all of its programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from ttrace.frontends.jax_parts.harvest.parameter_flow import Name, ProgramParams


class ParameterUse:
    """Fills while the programs of a step run.

    Arrays are known by identity, and kept for as long: an id is not used again. Their
    values are never read.

    Attributes:
        has_optimizer: A main gradient was tapped.
    """

    def __init__(self):
        self.has_optimizer = False
        self._arrays: dict[Name, dict[int, Any]] = {}
        self._made_of: dict[int, tuple[Any, list[Any]]] = {}

    def add(
        self, program: ProgramParams, args: Sequence[Any], results: Sequence[Any]
    ) -> None:
        """Takes note of one program that ran.

        Args:
            program: What is known of it.
            args: Its flat arguments.
            results: Its flat results.
        """
        self.has_optimizer |= program.has_optimizer
        for name, index in program.arguments.items():
            arrays = self._arrays.setdefault(name, {})
            if index is not None:
                arrays[id(args[index])] = args[index]
        if program.is_differentiated:
            for result, indices in zip(results, program.direct, strict=True):
                self._made_of[id(result)] = (result, [args[i] for i in indices])

    def arrays(self) -> Mapping[Name, Any]:
        """The array that was each parameter; None where it was none, or several."""
        return {
            name: next(iter(arrays.values())) if len(arrays) == 1 else None
            for name, arrays in self._arrays.items()
        }

    def may_update(self, param: Any, result: Any) -> bool:
        """Whether an array can be what the step made of a parameter.

        A gradient of it is not: a program made that of the parameter only through what
        is differentiated. Of what was computed outside of such programs nothing is
        known; it may be.
        """
        if result is param or id(result) not in self._made_of:
            return True
        _, sources = self._made_of[id(result)]
        return any(source is param for source in sources)
