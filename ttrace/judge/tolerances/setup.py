"""What two runs were given, before any computation: compared, and told apart from bugs.

Settings, initial parameters and inputs. A difference in them is no divergence: runs
that are given other things compute other things.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ttrace.ir.computed_buffers import KEY as COMPUTED_BUFFERS
from ttrace.ir.dropout import without_dropout
from ttrace.ir.frozen_parameters import KEY as FROZEN_PARAMETERS
from ttrace.ir.kinds import Kind
from ttrace.ir.module_settings import without_modules
from ttrace.ir.optimizer_settings import without_optimizer
from ttrace.ir.parameter_groups import without_groups
from ttrace.ir.settings import differing_settings
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId
from ttrace.ir.trace import MODEL_SETTINGS, TraceInfo
from ttrace.ir.trace_warnings import KEY as WARNINGS
from ttrace.ir.unheld_parameters import KEY as UNHELD_PARAMETERS
from ttrace.ir.written_dims import without_written
from ttrace.judge.settings.dropout_rates import dropout_differences
from ttrace.judge.settings.module_settings import module_differences
from ttrace.judge.settings.optimizer_settings import optimizer_differences
from ttrace.judge.tolerances.tolerance import Estimator, Tolerance

_OF_OTHER_RULES = (COMPUTED_BUFFERS, FROZEN_PARAMETERS, UNHELD_PARAMETERS, WARNINGS)

SETUP_TOLERANCE = Tolerance(
    difference_norm=0.0,
    estimator=Estimator.EXACT,
    derivation="both runs must be given the same parameters and inputs",
)
"""The tolerance of what comes before any computation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDifferences:
    """What two runs say of themselves, as far as it is not the same.

    Attributes:
        all: Versions and settings that differ, each with both values.
        model: Names of those among them that change the mathematics.
    """

    all: Mapping[str, tuple[object, object]]
    model: tuple[str, ...]


def compare_settings(reference: TraceInfo, candidate: TraceInfo) -> SettingDifferences:
    """Versions and settings of two runs, as their first ranks state them.

    A setting that one of the frontends, or descriptions, does not state is unknown
    there, which is no difference; nor is a version that the frontend of another
    framework does not know.
    """
    first, second = reference.ranks[0], candidate.ranks[0]
    differences = differing_settings(first.versions, second.versions)
    if first.framework != second.framework:
        differences = _stated_by_both(differences, first.versions, second.versions)
    differences |= _stated_by_both(
        differing_settings(_general(first.settings), _general(second.settings)),
        first.settings,
        second.settings,
    )
    differences |= {
        each.label: (each.reference, each.candidate)
        for each in optimizer_differences(reference, candidate)
    }
    differences |= {
        each.label: (each.reference, each.candidate)
        for each in dropout_differences(reference, candidate)
    }
    differences |= {
        each.label: (each.reference, each.candidate)
        for each in module_differences(reference, candidate)
    }
    return SettingDifferences(
        all=differences,
        model=tuple(model_setting_differences(first.settings, second.settings)),
    )


def _general(settings: Mapping[str, object]) -> dict[str, object]:
    """Those that are not compared by other rules."""
    general = without_written(without_dropout(without_optimizer(settings)))
    general = without_modules(without_groups(general))
    return {name: v for name, v in general.items() if name not in _OF_OTHER_RULES}


def _stated_by_both(
    differences: Mapping[str, tuple[object, object]],
    reference: Mapping[str, object],
    candidate: Mapping[str, object],
) -> dict[str, tuple[object, object]]:
    return {
        name: pair
        for name, pair in differences.items()
        if name in reference and name in candidate
    }


def model_setting_differences(
    reference: Mapping[str, object], candidate: Mapping[str, object]
) -> dict[str, tuple[object, object]]:
    """The settings that change the mathematics and have another value in each run.

    A setting that one of the frontends does not know is no difference.
    """
    return {
        name: pair
        for name, pair in differing_settings(reference, candidate).items()
        if name in MODEL_SETTINGS and name in reference and name in candidate
    }


def first_step(tensor_ids: Iterable[TensorId], *infos: TraceInfo) -> int | None:
    """The step whose parameters the runs were given; None if all are checkpoints.

    No run was given the parameters of a checkpoint: they are a result.

    Args:
        tensor_ids: Of all that is judged.
        infos: The runs.
    """
    if all(info.is_checkpoint for info in infos):
        return None
    return min((tensor_id.step for tensor_id in tensor_ids), default=0)


def is_script_scalar(tensor_id: TensorId, shape: tuple[int, ...]) -> bool:
    """Whether it is a single number that a script gives the model beside the data.

    Such as the number of tokens that the loss is divided by. Scripts compute them, with
    the layout in mind: another value is a mistake of theirs, not another data set.

    Args:
        tensor_id: Of what the model was given.
        shape: Its logical shape.
    """
    return tensor_id.kind is Kind.INPUT and shape == ()


def is_given(tensor_id: TensorId, first_step: int | None) -> bool:
    """Whether it is an initial parameter or buffer, or what the model was given."""
    if tensor_id.kind in (Kind.PARAM, Kind.BUFFER):
        return tensor_id.step == first_step
    return (
        tensor_id.kind is Kind.INPUT
        and tensor_id.module == ROOT_MODULE
        and tensor_id.pass_ is Pass.FORWARD
    )
