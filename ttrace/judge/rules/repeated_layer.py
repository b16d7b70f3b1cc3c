"""A layer that two stages of a pipeline run, one after the other."""

from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of, tensors
from ttrace.judge.runs.rank_names import ranks_text
from ttrace.judge.runs.stages import Stages
from ttrace.judge.verdicts.replicas import differing_replicas

_MAX_NAMED = 4


def repeated_layer(findings: Findings) -> Diagnosis | None:
    """Names the layers whose replicas differ between stages, each of which runs them.

    What the one stage gives the other is what the layer has made there.
    """
    stages: Stages | None = None
    layers: dict[str, None] = {}
    differing = []
    for verdict in findings.failed:
        if verdict.result is None or verdict.tolerance is None:
            continue
        if not verdict.result.candidate_replicas:
            continue
        stages = stages or Stages(findings.candidate)
        shard = verdict.result.plan.match.candidate.shards[0]
        found = {
            stages.repeated_layer(verdict.id.module, bad.rank, bad.against)
            for bad in differing_replicas(
                verdict.result.candidate_replicas,
                verdict.tolerance,
                exact=shard.exact_replicas,
            )
        } - {None}
        if found:
            differing.append(verdict)
            layers |= dict.fromkeys(layer for layer in found if layer is not None)
    if stages is None or not layers:
        return None
    names = list(layers)
    more = len(names) - _MAX_NAMED
    named = ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
    first = names[0]
    ranks = [rank for rank, own in stages.layers.items() if first in own]
    number = len({stages.layers[rank] for rank in ranks})
    runs, it = ("runs", "it") if len(names) == 1 else ("run", first)
    how_many = "two" if number == 2 else str(number)
    where = (
        f"on {ranks_text(ranks)}"
        if len(names) == 1
        else (f"{first} on {ranks_text(ranks)}")
    )
    return Diagnosis(
        code="repeated_layer",
        sentence=f"{named} {runs} in {how_many} stages of the pipeline, {where}, and "
        f"what they record of {it} differs ({tensors(len(differing))}, first "
        f"{differing[0].id}): look at how layers are divided over the stages, so that "
        "each is in one",
        evidence={"layers": ",".join(names), "num_stages": number},
        tensor_ids=ids_of(differing),
    )
