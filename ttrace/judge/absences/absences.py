"""What one of two runs does not have at all: found once, for all that speaks of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrace.ir.kinds import Kind
from ttrace.judge.absences.absent_layers import AbsentLayer, absent_layers
from ttrace.judge.absences.missing_gradients import missing_gradients
from ttrace.judge.absences.modules_not_run import NotRun, modules_not_run
from ttrace.judge.absences.one_sided_parameters import one_sided_parameters
from ttrace.judge.absences.own_gradients import OwnGradients
from ttrace.judge.verdicts.verdict import TensorVerdict

_OF_PARAMETERS = frozenset({Kind.PARAM_GRAD, Kind.MAIN_GRAD})


@dataclass(frozen=True, slots=True, kw_only=True)
class Absences:
    """What one run has, and the other has not.

    Attributes:
        layers: Whole layers, of rows of which both runs have others.
        not_run: Modules that only one run computes with; those of such layers too.
        gradients: Verdicts on gradients that do not reach the candidate.
        frozen: Those among them of parameters that need none there, by what it says.
        parameters: Verdicts on initial parameters that only one run has.
    """

    layers: tuple[AbsentLayer, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    gradients: tuple[TensorVerdict, ...] = ()
    frozen: tuple[TensorVerdict, ...] = ()
    parameters: tuple[TensorVerdict, ...] = ()


def find_absences(
    verdicts: Sequence[TensorVerdict], own: OwnGradients | None = None
) -> Absences:
    """Looks for all of it.

    Args:
        verdicts: On all tensors, in order of the dataflow.
        own: What the candidate recorded of gradients; None where that is not known.
    """
    own = own or OwnGradients()
    layers = absent_layers(verdicts)
    not_run = modules_not_run(verdicts, layers)
    gradients = missing_gradients(verdicts, not_run, own)
    return Absences(
        layers=tuple(layers),
        not_run=tuple(not_run),
        gradients=tuple(gradients),
        frozen=tuple(
            verdict
            for verdict in gradients
            if verdict.id.kind in _OF_PARAMETERS
            and (verdict.id.module, verdict.id.slot) in own.frozen
        ),
        parameters=one_sided_parameters(verdicts),
    )
