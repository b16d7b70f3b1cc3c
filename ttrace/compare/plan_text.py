"""A plan in words: what will be set against what, for people; computes nothing."""

from collections.abc import Iterator

from ttrace.compare.operands import Operand, PairPlan
from ttrace.compare.plan import ComparePlan, Pair, Replica, TensorPlan
from ttrace.compare.rows import OneSidedRows, RowPair, Rows
from ttrace.ir.layout import Region
from ttrace.ir.side import Side


def format_plan(plan: ComparePlan) -> str:
    """One line for each tensor, and one for each pair of it, indented."""
    return "\n".join(line for tensor in plan.tensors for line in _lines(tensor))


def _lines(tensor: TensorPlan) -> Iterator[str]:
    shape = list(tensor.match.candidate.global_shape)
    if tensor.shapes_differ:
        reference = list(tensor.match.reference.global_shape)
        yield f"{tensor.id} {shape}: not compared, {reference} in the reference"
        return
    if not tensor.is_whole:
        yield f"{tensor.id} {shape}: by rows of dim {tensor.index_dim}, not read yet"
        return
    yield f"{tensor.id} {shape}: {tensor.size} elements in all"
    for pair in tensor.pairs:
        yield f"  {_pair(pair)}"
    for side, cover in (
        (Side.REFERENCE, tensor.reference_cover),
        (Side.CANDIDATE, tensor.candidate_cover),
    ):
        for replica in cover.replicas:
            yield f"  {side}: {_replica(replica)}"
        if cover.num_uncovered:
            yield f"  {side}: {cover.num_uncovered} elements held by no rank"
        if cover.missing_partials:
            yield f"  {side}: partials of a sum are missing"


def _pair(pair: Pair) -> str:
    if isinstance(pair, OneSidedRows):
        side = Side.CANDIDATE if pair.in_candidate else Side.REFERENCE
        return f"{_rows(pair.rows)}: {side} {_ranks(pair.rows.operand)} against zeros"
    where, candidate, reference = _operands(pair)
    text = f"{where}: candidate {_ranks(candidate)} against reference "
    text += _ranks(reference)
    return text if pair.factor == 1 else f"{text}, times {pair.factor:g}"


def _replica(pair: Replica) -> str:
    where, replica, first = _operands(pair)
    return f"{where}: replica on {_ranks(replica)} against {_ranks(first)}"


def _operands(pair: Replica) -> tuple[str, Operand, Operand]:
    if isinstance(pair, RowPair):
        rows = pair.reference
        return _rows(rows), pair.candidate.operand, rows.operand
    assert isinstance(pair, PairPlan)
    return _region(pair.region), pair.candidate, pair.reference


def _region(region: Region) -> str:
    bounds = zip(region.start, region.stop, strict=True)
    return f"[{', '.join(f'{start}:{stop}' for start, stop in bounds)}]"


def _rows(rows: Rows) -> str:
    plural = "" if rows.positions.size == 1 else "s"
    where = f"dim {rows.dim} of {_region(rows.columns)}"
    return f"{rows.positions.size} row{plural} of {where}"


def _ranks(operand: Operand) -> str:
    ranks = [str(term.shard.rank) for term in operand.terms]
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"the sum of {'+'.join(ranks)}"
