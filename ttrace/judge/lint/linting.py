"""All that one run shows to be wrong without a reference."""

from ttrace.compare.backend import Backend
from ttrace.ir.trace_source import TraceSource
from ttrace.judge.collectives import collective_faults
from ttrace.judge.diagnosis import Diagnosis
from ttrace.judge.lint.facts import Progress, read_facts
from ttrace.judge.lint.parameters import never_updated, no_gradient
from ttrace.judge.lint.replicas import missing_partials, replicas_differ
from ttrace.judge.lint.settings import unscaled_backward, warnings, zero_rate
from ttrace.judge.lint.stale import stale_activation, stale_gradient
from ttrace.judge.lint.values import all_zero, nonfinite
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.judge.verdicts.replicas import check_replicas

_RULES = (
    nonfinite,
    no_gradient,
    unscaled_backward,
    zero_rate,
    never_updated,
    all_zero,
    stale_activation,
    stale_gradient,
    warnings,
)


def lint_trace(
    trace: TraceSource,
    backend: Backend,
    *,
    tolerances: ToleranceTable | None = None,
    progress: Progress | None = None,
) -> tuple[Diagnosis, ...]:
    """Applies every rule that needs no other run; reads each tensor twice at most.

    Args:
        trace: The run.
        backend: Computes the statistics of replicas.
        tolerances: What rounding explains of replicas; None judges by dtype and depth.
        progress: Called with elements done and in total.

    Returns:
        What was found, the strongest first; empty if nothing was.

    Raises:
        CorruptTraceError: The bytes of a tensor are not those that were written.
    """
    checks = check_replicas(trace, backend, tolerances=tolerances)
    run = read_facts(trace, progress)
    answers = [rule(run) for rule in _RULES]
    answers += collective_faults(trace, checks)
    answers += [replicas_differ(checks, trace.info), missing_partials(checks)]
    return tuple(answer for answer in answers if answer is not None)
