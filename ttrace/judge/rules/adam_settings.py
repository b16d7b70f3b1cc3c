"""Adam with other settings: moments or updates differ while the gradients agree."""

from collections.abc import Sequence

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.optimizers.adam_fit import Setting, SettingFit
from ttrace.judge.reading.failures import examined_text
from ttrace.judge.settings.optimizer_settings import OptimizerDifference

_RECORDED_AS = {
    Setting.BETA1: "betas",
    Setting.BETA2: "betas",
    Setting.EPSILON: "eps",
}
"""Names of the settings that frontends record."""


def adam_settings(findings: Findings) -> Diagnosis | None:
    """Names beta1, beta2 or epsilon, where it explains what both runs recorded."""
    by_setting: dict[Setting, list[SettingFit]] = {}
    for fit in findings.evidence.optimizer.adam:
        by_setting.setdefault(fit.setting, []).append(fit)
    if not by_setting:
        return None
    ids = {fit.id for fit in findings.evidence.optimizer.adam}
    recorded = [difference.sentence for difference in named_by_adam(findings)]
    return Diagnosis(
        code="adam_settings",
        sentence="; ".join(
            [
                *(_sentence(findings, fits) for fits in by_setting.values()),
                "the gradients agree",
                *recorded,
            ]
        ),
        evidence={
            f"{setting}_of_{side}": getattr(fits[0], side)
            for setting, fits in by_setting.items()
            for side in ("reference", "candidate")
        },
        tensor_ids=ids_of([v for v in findings.failed if v.id in ids]),
    )


def named_by_adam(findings: Findings) -> list[OptimizerDifference]:
    """The recorded settings that differ and that the moments or updates show."""
    shown = {_RECORDED_AS[fit.setting] for fit in findings.evidence.optimizer.adam}
    return [each for each in findings.evidence.optimizer.settings if each.name in shown]


def _sentence(findings: Findings, fits: Sequence[SettingFit]) -> str:
    fit = fits[0]
    is_update = fit.id.kind is Kind.UPDATED_PARAM
    name = "updated_param" if is_update else _state(fit.id)
    examined = examined_text(
        findings.verdicts,
        lambda id_: (
            id_.kind is fit.id.kind and (is_update or _state(id_) == _state(fit.id))
        ),
    )
    verb = "is" if len(fits) == 1 else "are"
    return (
        f"{tensors(len(fits))} ({name}){examined} {verb} what "
        f"{fit.setting} = {fit.candidate} gives, and the reference's what "
        f"{fit.setting} = {fit.reference} gives"
    )


def _state(id_: TensorId) -> str:
    return (id_.slot or "").rpartition(".")[2]
