"""A report of many tensors, with figures of the kind that a large model's has."""

import math
import random
from collections.abc import Iterator

from ttrace.ir.kinds import Kind
from ttrace.report.model import (
    Counts,
    FirstDivergence,
    KindCoverage,
    Outcome,
    Report,
    TensorReport,
)
from ttrace.testing.report_samples import diverged_report

PARTS = (
    "input_layernorm",
    "self_attention.linear_qkv",
    "self_attention.core_attention",
    "self_attention.linear_proj",
    "pre_mlp_layernorm",
    "mlp.router",
    "mlp.experts.linear_fc1",
    "mlp.experts.linear_fc2",
)

PER_MICROBATCH = (Kind.INPUT, Kind.OUTPUT, Kind.GRAD_OUTPUT, Kind.GRAD_INPUT)
PER_STEP = (Kind.MAIN_GRAD, Kind.OPTIMIZER_STATE, Kind.UPDATED_PARAM)


def large_report(num_tensors: int, *, num_ranks: int = 8, seed: int = 0) -> Report:
    """Diverged in the middle of its layers, from which all that follows is wrong.

    Args:
        num_tensors: At least as many.
        num_ranks: Whose parts' errors are stated one by one.
        seed: Of the figures.
    """
    per_layer = len(PARTS) * (2 * len(PER_MICROBATCH) + len(PER_STEP))
    num_layers = 96
    num_steps = math.ceil(num_tensors / (num_layers * per_layer))
    figures = random.Random(seed)
    tensors = []
    for place, id_ in enumerate(_ids(num_layers, num_steps)):
        if place >= num_tensors:
            break
        failed = place > num_tensors // 2 and figures.random() < 0.6
        tensors.append(_tensor(id_, figures, failed=failed, num_ranks=num_ranks))
    return _report(tensors)


def _ids(num_layers: int, num_steps: int) -> Iterator[tuple[str, Kind]]:
    for step in range(num_steps):
        for microbatch in range(2):
            for kind in PER_MICROBATCH:
                for layer in range(num_layers):
                    for part in PARTS:
                        module = f"decoder.layers.{layer}.{part}"
                        yield f"step{step}/mb{microbatch}/{module}/{kind}/0", kind
        for kind in PER_STEP:
            for layer in range(num_layers):
                for part in PARTS:
                    yield (
                        f"step{step}/decoder.layers.{layer}.{part}/{kind}/weight",
                        kind,
                    )


def _tensor(
    id_: tuple[str, Kind], figures: random.Random, *, failed: bool, num_ranks: int
) -> TensorReport:
    text, kind = id_
    noise = 10 ** figures.uniform(-7, -5)
    tolerance = 6.2 * noise
    rel_err = tolerance * 10 ** (
        figures.uniform(0.1, 5) if failed else -figures.uniform(0.05, 2)
    )
    return TensorReport(
        id=text,
        kind=kind.value,
        status="failed" if failed else "passed",
        reason=f"rel_err {rel_err:.3g} exceeds the tolerance {tolerance:.3g}"
        if failed
        else "",
        cause="error" if failed else None,
        shape=(4096, 2, 1024),
        dtypes=("float32", "bfloat16"),
        layouts=("s b h (1 rank)", f"s[tp] b h ({num_ranks} ranks)"),
        scales=(1.0, 1.0),
        rel_err=rel_err,
        tolerance=tolerance,
        tolerance_from="perturbed",
        tolerance_derivation=f"6.2 x the largest of 3 noise runs ({noise * 31:.3g}, "
        f"rel {noise:.3g}): {tolerance * 31:.3g}, rel {tolerance:.3g}",
        noise_share=noise,
        margin=rel_err / tolerance,
        reference_norm=figures.uniform(1, 100),
        max_abs_err=rel_err * figures.uniform(1, 9),
        max_abs_err_at=tuple(figures.randrange(size) for size in (4096, 2, 1024)),
        cosine=1 - rel_err**2,
        scale_fit=1 + rel_err * figures.uniform(-1, 1),
        num_unequal=figures.randrange(4096 * 2 * 1024),
        num_elements=4096 * 2 * 1024,
        nan=(0, 0),
        inf=(0, 0),
        replica_spread=None,
        rank_rel_err={
            str(rank): rel_err * figures.uniform(0.5, 1.5) for rank in range(num_ranks)
        },
    )


def _report(tensors: list[TensorReport]) -> Report:
    failed = [tensor for tensor in tensors if tensor.status == "failed"]
    of_kind = {kind.value: 0 for kind in Kind}
    for tensor in tensors:
        of_kind[tensor.kind] += 1
    small = diverged_report()
    return Report(
        verdict=Outcome.DIVERGED,
        summary=f"Of {len(tensors)} tensors: {len(failed)} diverge.",
        backend="jax",
        counts=Counts(
            total=len(tensors),
            passed=len(tensors) - len(failed),
            failed=len(failed),
            unmatched=0,
            skipped=0,
            skipped_reasons={},
        ),
        coverage={
            kind: KindCoverage(compared=count, skipped=0, unmatched=0, total=count)
            for kind, count in of_kind.items()
            if count
        },
        first_divergence=FirstDivergence(
            id=failed[0].id,
            module="decoder.layers",
            kind=failed[0].kind,
            phase="forward",
            sentence=failed[0].reason,
        ),
        diagnosis=(),
        tensors=tuple(tensors),
        setup=small.setup,
    )
