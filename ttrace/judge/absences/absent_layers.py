"""Layers of which one run recorded nothing at all, among others that both runs have."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_OF_PARAMETERS = frozenset({Kind.PARAM, Kind.MAIN_GRAD, Kind.UPDATED_PARAM})


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentLayer:
    """A layer with parameters that only one run has.

    Attributes:
        path: Of the layer: ends in its number.
        present: The run that has it.
        verdicts: On all its tensors.
    """

    path: str
    present: Side
    verdicts: tuple[TensorVerdict, ...]

    @property
    def missing_in(self) -> Side:
        """The run that has nothing of it."""
        if self.present is Side.REFERENCE:
            return Side.CANDIDATE
        return Side.REFERENCE

    def has(self, module: str) -> bool:
        """Whether a module is, or lies within, the layer."""
        return module == self.path or module.startswith(f"{self.path}.")


def absent_layers(verdicts: Sequence[TensorVerdict]) -> list[AbsentLayer]:
    """Those of which all is in one run, in the order in which they come.

    Only where others of their row were compared: else the runs name them otherwise. Of
    layers within others the outermost.
    """
    of_layer: dict[str, list[TensorVerdict]] = {}
    for verdict in verdicts:
        for layer in _layers(verdict.id.module):
            of_layer.setdefault(layer, []).append(verdict)
    rows_compared = {
        _row(layer)
        for layer, of_one in of_layer.items()
        if any(v.status in (Status.PASSED, Status.FAILED) for v in of_one)
    }
    found: dict[str, AbsentLayer] = {}
    for layer, of_one in of_layer.items():
        side = _only_side(of_one)
        if side is None or _row(layer) not in rows_compared:
            continue
        if any(outer in found for outer in _layers(_row(layer))):
            continue
        if any(verdict.id.kind in _OF_PARAMETERS for verdict in of_one):
            found[layer] = AbsentLayer(path=layer, present=side, verdicts=tuple(of_one))
    return list(found.values())


def _only_side(verdicts: Sequence[TensorVerdict]) -> Side | None:
    """The only run that has anything of these; None if both do.

    What a run skips itself, it has: its reason begins with the side.
    """
    sides = {
        verdict.present for verdict in verdicts if verdict.status is not Status.SKIPPED
    }
    if len(sides) != 1:
        return None
    (side,) = sides
    is_own = all(
        verdict.reason.startswith(f"{side}")
        for verdict in verdicts
        if verdict.status is Status.SKIPPED
    )
    return side if is_own else None


def _layers(module: str) -> list[str]:
    """The layers that a module lies in, or is, outermost first."""
    parts = module.split(".")
    return [
        ".".join(parts[: index + 1])
        for index, part in enumerate(parts)
        if part.isdecimal()
    ]


def _row(layer: str) -> str:
    return layer.rpartition(".")[0]
