"""What the script of the page reads: every tensor in compact columns, then details.

Columns have one value a tensor, in order of the dataflow; texts that many tensors share
are numbered in tables. Details lie in chunks that are unpacked when one is opened.
"""

import base64
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttrace.ir.kinds import KINDS, Kind
from ttrace.judge.verdicts.verdict import Cause
from ttrace.report.html.module_tree import build_tree, split_id
from ttrace.report.model import Report, TensorReport
from ttrace.report.printable import printable
from ttrace.report.tensor_report import tensor_to_json

CHUNK = 200
"""Tensors whose details are packed together."""

MAX_DETAIL_CHARS = 3_000_000
"""Characters that all details may take; those of failed tensors come first."""

_IN_COLUMNS = frozenset(
    {"id", "kind", "status", "cause", "rel_err", "tolerance", "margin"}
)
"""Fields that the columns hold, if with fewer digits."""

_SHARED = ("kind", "status", "cause", "tolerance_from")

_ZERO = -10_000
"""Stands for the logarithm of zero."""

_HUGE = 10_000
"""Stands for that of infinity, and for NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What is embedded in the page.

    Attributes:
        summary: The columns and tables, packed.
        chunks: Details of ``CHUNK`` tensors each, packed.
        num_detailed: Tensors whose details the page has; the JSON report has all.
    """

    summary: str
    chunks: tuple[str, ...]
    num_detailed: int


class _Table:
    """Texts by number, in the order in which they came first."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def texts(self) -> list[str]:
        return list(map(printable, self._numbers))


def pack(value: object) -> str:
    """A JSON value as text of the base64 alphabet, compressed."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack(text: str) -> Any:
    """What ``pack`` packed; the page's own script does it by DecompressionStream."""
    return json.loads(zlib.decompress(base64.b64decode(text)))


def build_payload(report: Report, *, max_chars: int = MAX_DETAIL_CHARS) -> Payload:
    """Packs the tensors of a report.

    Args:
        report: The report.
        max_chars: Characters that the details may take.
    """
    chunks: list[str] = []
    chunk_of = [-1] * len(report.tensors)
    order = _by_interest(report.tensors)
    room, num_detailed = max_chars, 0
    for start in range(0, len(order), CHUNK):
        indices = order[start : start + CHUNK]
        packed = pack(
            {str(index): tensor_details(report.tensors[index]) for index in indices}
        )
        room -= len(packed)
        if room < 0:
            break
        for index in indices:
            chunk_of[index] = len(chunks)
        num_detailed += len(indices)
        chunks.append(packed)
    summary = {**_summary(report), "chunk": _runs(chunk_of)}
    return Payload(
        summary=pack(summary), chunks=tuple(chunks), num_detailed=num_detailed
    )


def _by_interest(tensors: Sequence[TensorReport]) -> list[int]:
    """Indices of the tensors, those first whose details are asked for first."""
    rank = {"failed": 0, "unmatched": 1, "passed": 2}
    return sorted(
        range(len(tensors)), key=lambda index: rank.get(tensors[index].status, 3)
    )


def tensor_details(tensor: TensorReport) -> dict[str, object]:
    """All that is known of a tensor beside the columns, as JSON has it."""
    value = tensor_to_json(tensor)
    for name in _IN_COLUMNS:
        value.pop(name, None)
    return _printable(value)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return value


def _summary(report: Report) -> dict[str, object]:
    tables = {
        name: _Table() for name in ("prefix", "module", "suffix", "reason", *_SHARED)
    }
    columns: dict[str, list] = {name: [] for name in (*tables, "step")}
    columns |= {name: [] for name in ("rel_err", "tolerance", "margin")}
    modules = []
    for tensor in report.tensors:
        parts = split_id(tensor.id)
        modules.append(parts.module)
        for name in ("prefix", "module", "suffix"):
            columns[name].append(tables[name].number(getattr(parts, name)))
        for name in _SHARED:
            columns[name].append(tables[name].number(getattr(tensor, name) or ""))
        # A failure by its figures is told by them; other reasons are few, and shared.
        by_figures = tensor.status == "failed" and tensor.cause == Cause.ERROR
        reason = "" if by_figures else tensor.reason
        columns["reason"].append(tables["reason"].number(reason))
        columns["step"].append(-1 if parts.step is None else parts.step)
        for name in ("rel_err", "tolerance", "margin"):
            columns[name].append(shortened(getattr(tensor, name)))
    tree = build_tree(modules)
    names = tables["module"].texts()
    return {
        "columns": columns,
        "tables": {name: table.texts() for name, table in tables.items()},
        "phases": {kind.value: KINDS[kind].phase.value for kind in Kind},
        "kinds": [kind.value for kind in Kind],
        "nodes": {
            "label": list(map(printable, tree.labels)),
            "path": list(map(printable, tree.paths)) if len(names) < 50_000 else [],
            "parent": tree.parents,
            "of_module": [tree.node_of_module[name] for name in dict.fromkeys(modules)],
        },
        "ranks": {
            **_rank_margins(report.tensors, tree.node_of_module),
            **rank_sets(report.tensors),
        },
        "first": None
        if report.first_divergence is None
        else printable(report.first_divergence.id),
    }


def shortened(value: float | None) -> float | str | None:
    """The three digits that the page shows; JSON has no infinities.

    What is above 1 stays so: it tells a divergence.
    """
    if value is None:
        return None
    if not math.isfinite(value):
        return str(value)
    short = float(f"{value:.2e}")
    return 1.001 if value > 1 >= short else short


def _runs(values: Sequence[int]) -> list[list[int]]:
    """Equal neighbours as ``[value, how many]``."""
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return runs


def _rank_margins(
    tensors: Sequence[TensorReport], node_of_module: Mapping[str, int]
) -> dict[str, list]:
    """Of every module and rank, how far its part of any tensor is from its tolerance.

    Returns:
        ``names`` of the ranks; ``node``, ``rank`` (index into these) and ``level``: ten
        times the logarithm of the largest error of the rank's part over the tolerance
        of the whole tensor.
    """
    worst: dict[tuple[int, str], float] = {}
    for tensor in tensors:
        if not tensor.rank_rel_err or tensor.tolerance is None:
            continue
        node = node_of_module[split_id(tensor.id).module]
        for rank, rel_err in tensor.rank_rel_err.items():
            margin = _margin(rel_err, tensor.tolerance)
            if margin >= worst.get((node, rank), 0.0):
                worst[node, rank] = margin
    ordered = _rank_names(tensors)
    index = {rank: number for number, rank in enumerate(ordered)}
    return {
        "names": list(map(printable, ordered)),
        "node": [node for node, _ in worst],
        "rank": [index[rank] for _, rank in worst],
        "level": list(map(log_level, worst.values())),
    }


def rank_sets(tensors: Sequence[TensorReport]) -> dict[str, list]:
    """Of every tensor the ranks that hold a part, and those whose part is off.

    Returns:
        ``sets``: ranks, as indices into the names of ``_rank_margins``; ``held`` and
        ``beyond``: of every tensor, which of these sets it has, where that of
        ``beyond`` are the ranks whose own part is beyond the tolerance of the whole.
    """
    numbers: dict[tuple[int, ...], int] = {(): 0}
    found: dict[str, list] = {"held": [], "beyond": []}
    index = {rank: number for number, rank in enumerate(_rank_names(tensors))}
    for tensor in tensors:
        errors: Mapping[str, float] = {}
        if tensor.rank_rel_err and tensor.tolerance is not None:
            errors = tensor.rank_rel_err
        held = tuple(sorted(index[rank] for rank in errors))
        beyond = sorted(
            index[rank]
            for rank, rel_err in errors.items()
            if _margin(rel_err, tensor.tolerance or 0.0) > 1
        )
        found["held"].append(numbers.setdefault(held, len(numbers)))
        found["beyond"].append(numbers.setdefault(tuple(beyond), len(numbers)))
    return {**found, "sets": list(map(list, numbers))}


def _rank_names(tensors: Sequence[TensorReport]) -> list[str]:
    """Ranks of the candidate that hold a part of what was compared, in order."""
    names = {
        rank
        for tensor in tensors
        if tensor.rank_rel_err and tensor.tolerance is not None
        for rank in tensor.rank_rel_err
    }
    return sorted(names, key=lambda rank: (len(rank), rank))


def _margin(rel_err: float, tolerance: float) -> float:
    """What is not finite is as far off as can be."""
    if not math.isfinite(rel_err):
        return math.inf
    if tolerance == 0:
        return 0.0 if rel_err == 0 else math.inf
    return rel_err / tolerance


def log_level(margin: float) -> int:
    """Ten times the decimal logarithm, within ``_ZERO`` and ``_HUGE``."""
    if margin == 0:
        return _ZERO
    return round(10 * math.log10(margin)) if math.isfinite(margin) else _HUGE
