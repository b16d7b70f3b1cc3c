"""Gradients that are wrong of just the parameters that one axis shards."""

from ttrace.ir.kinds import Kind
from ttrace.ir.sharded_axes import ShardedAxes
from ttrace.judge.diagnosis import Diagnosis, Findings, ids_of
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_LEAST = 2
"""Gradients that fail together; one alone has a name of its own."""


def sharded_gradients(findings: Findings) -> Diagnosis | None:
    """Names the axis, where gradients of the step are the first that fails.

    Only where all of them fail that are sharded over it, and none of the others, of
    which some were compared.
    """
    if not findings.failed or findings.failed[0].id.kind is not Kind.MAIN_GRAD:
        return None
    step = findings.failed[0].id.step
    axes = ShardedAxes(findings.candidate.ranks)
    failed: list[tuple[TensorVerdict, tuple[str, ...]]] = []
    agreeing: set[str] = set()
    num_agreeing = 0
    for verdict in findings.verdicts:
        record = findings.candidate.tensors.get(verdict.id)
        is_gradient = verdict.id.kind is Kind.MAIN_GRAD and verdict.id.step == step
        if not is_gradient or record is None:
            continue
        sharded_over = axes.of(record)
        if verdict.status is Status.FAILED:
            failed.append((verdict, sharded_over))
        elif verdict.status is Status.PASSED and not verdict.noise_dominated:
            num_agreeing += 1
            agreeing.update(sharded_over)
    if len(failed) < _LEAST or not num_agreeing:
        return None
    common = [
        axis
        for axis in failed[0][1]
        if axis not in agreeing and all(axis in of_one for _, of_one in failed)
    ]
    if not common:
        return None
    over = " and ".join(common)
    verdicts = [verdict for verdict, _ in failed]
    others = "the other agrees" if num_agreeing == 1 else "the others agree"
    return Diagnosis(
        code="sharded_gradients",
        sentence=f"all {len(failed)} main_grad that were compared of parameters that "
        f"are sharded over {over} are wrong in step {step}, and {others} "
        f"({num_agreeing} compared): look "
        "at the group of ranks over which the gradients of these parameters are "
        "reduced, and at what scales them apart from the others",
        evidence={
            "axes": over,
            "num_tensors": len(failed),
            "num_agreeing": num_agreeing,
        },
        tensor_ids=ids_of(verdicts),
    )
