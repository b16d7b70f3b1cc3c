"""What a rule of diagnosis is given and what it answers with; no rule lies here.

The rules lie in ``ttrace.judge.rules``, one a file.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ttrace.ir.trace import TraceInfo
from ttrace.judge.absences.own_gradients import OwnGradients
from ttrace.judge.evidence import Evidence
from ttrace.judge.verdicts.verdict import TensorVerdict

MAX_IDS = 20
"""Tensor ids named per diagnosis; the report has them all."""


LEAST_ELEMENTS = 8
"""Elements that must have one factor in common: of one element, there always is one."""

_MAX_KINDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One thing that is wrong, with the evidence.

    Attributes:
        code: Stable short name, e.g. ``replicas_differ``.
        sentence: For people.
        evidence: The figures that it rests on, by name.
        tensor_ids: The tensors it speaks of.
    """

    code: str
    sentence: str
    evidence: Mapping[str, str | float]
    tensor_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a rule reads.

    Attributes:
        verdicts: On all tensors, in order of the dataflow.
        failed: Those on tensors that failed.
        candidate: The run under test.
        evidence: What was read of both runs beside.
        own: Gradients that the candidate recorded, compared or not.
    """

    verdicts: Sequence[TensorVerdict]
    failed: Sequence[TensorVerdict]
    candidate: TraceInfo
    evidence: Evidence = Evidence()
    own: OwnGradients = OwnGradients()

    def words(self, torch: str, jax: str) -> str:
        """What to say to a user of PyTorch, or of JAX.

        Args:
            torch: For a candidate of torch, or of what is built on it.
            jax: For one of JAX.
        """
        return jax if self.candidate.ranks[0].framework == "jax" else torch


Rule = Callable[[Findings], Diagnosis | None]
"""Says one thing that is wrong, or None where it has nothing to say."""


def ids_of(verdicts: Sequence[TensorVerdict]) -> tuple[str, ...]:
    """The first ids, as a diagnosis names them."""
    return tuple(str(verdict.id) for verdict in verdicts[:MAX_IDS])


def tensors(num: int) -> str:
    """``1 tensor``, ``2 tensors``."""
    return f"{num} tensor" + ("s" if num != 1 else "")


def kinds_of(verdicts: Sequence[TensorVerdict]) -> str:
    """The kinds of tensors, the most frequent first; at most four of them."""
    counts = Counter(verdict.id.kind.value for verdict in verdicts)
    names = [kind for kind, _ in counts.most_common()]
    more = len(names) - _MAX_KINDS
    return ", ".join(names[:_MAX_KINDS]) + (
        f" and {more} more kinds" if more > 0 else ""
    )
