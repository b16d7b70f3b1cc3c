"""Ranks of the candidate that initialise what they share with values of their own."""

from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.initial_replicas import candidate_replicas, of_candidate

_MAX_RANKS = 8


def initial_replicas(findings: Findings) -> Diagnosis | None:
    """Names the ranks, and the parameters that they start from differently."""
    found = of_candidate(findings.verdicts)
    if not found or findings.candidate.is_checkpoint:
        return None
    replicas = [each for verdict in found for each in candidate_replicas(verdict)]
    ranks = sorted({rank for each in replicas for rank in (each.rank, each.against)})
    first = found[0].id
    name = first.slot if first.module == ROOT_MODULE else f"{first.module}.{first.slot}"
    what = name if len(found) == 1 else f"{len(found)} parameters, first {name}"
    it = "it" if len(found) == 1 else "them"
    return Diagnosis(
        code="initial_replicas",
        sentence=f"ranks {_ranks(ranks)} hold different initial values of {what}, "
        f"which must agree: seed them alike, or broadcast {it} after initialisation; "
        "what follows may be a consequence",
        evidence={
            "num_tensors": len(found),
            "largest_spread": max(each.spread for each in replicas),
        },
        tensor_ids=ids_of(found),
    )


def _ranks(ranks: list[int]) -> str:
    named = [str(rank) for rank in ranks[:_MAX_RANKS]]
    if len(ranks) > _MAX_RANKS:
        return f"{', '.join(named)} and {len(ranks) - _MAX_RANKS} more"
    return f"{', '.join(named[:-1])} and {named[-1]}"
