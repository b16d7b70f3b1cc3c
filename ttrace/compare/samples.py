"""Which sample of a step is where: found by the rows of what the models were given.

Two runs may cut one global batch into micro-batches of other sizes, or give it in
another order. The rows of the recorded inputs of the model tell which sample of the
one run is which of the other. Nothing else is taken for a sample: neither its number
nor its length, so that samples padded to other lengths are not matched.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ttrace.compare.align import is_rank_filtered
from ttrace.compare.assembled import assembled
from ttrace.compare.batch_dims import BatchDims, possible_batch_dims
from ttrace.ir.capture_filter import CaptureFilter
from ttrace.ir.dtypes import dtype_named
from ttrace.ir.kinds import ACTIVATIONS, PER_MICROBATCH, Kind
from ttrace.ir.side import Side
from ttrace.ir.tensor_id import ROOT_MODULE, Pass, TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource

Inputs = Mapping[int, Mapping[str, TensorRecord]]
"""What the model was given in a step, by micro-batch and slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run has a sample.

    Attributes:
        microbatch: Its micro-batch.
        row: Its row there.
    """

    microbatch: int
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSamples:
    """A step that the two runs do not cut into the same micro-batches.

    Attributes:
        step: Its number.
        sizes: By side and micro-batch the number of samples; None where it is not
            known.
        places: By micro-batch of the reference, where the candidate has each of its
            samples; None where that is not known.
        repeated: Micro-batches of the reference with a sample whose inputs another one
            repeats: which of them is which is not known.
        obstacle: Why ``places`` are not known; empty where they are.
        difference: Where the runs were not given the same samples: what differs. Empty
            where they were, or where it is not known.
        differs_at: An input of the model that ``difference`` is about.
    """

    step: int
    sizes: Mapping[Side, Mapping[int, int | None]]
    places: Mapping[int, tuple[Place, ...]] | None = None
    repeated: frozenset[int] = frozenset()
    obstacle: str = ""
    difference: str = ""
    differs_at: TensorId | None = None

    @property
    def is_cut_alike(self) -> bool:
        """Whether the micro-batches have the same numbers and sizes in both runs."""
        return self.sizes[Side.REFERENCE] == self.sizes[Side.CANDIDATE]

    @property
    def sizes_sentence(self) -> str:
        """``1 micro-batch of 8 samples in the reference, 4 of 2 in the candidate``."""
        if self.is_cut_alike:
            sizes = _counted(self.sizes[Side.REFERENCE], "micro-batch")
            return f"{sizes} in either run, in another order"
        of_reference = _counted(self.sizes[Side.REFERENCE], "micro-batch")
        of_candidate = _counted(self.sizes[Side.CANDIDATE], "")
        return f"{of_reference} in the reference, {of_candidate} in the candidate"


def _counted(sizes: Mapping[int, int | None], noun: str) -> str:
    number = len(sizes)
    what = f"{number} {noun}{'es' if noun and number > 1 else ''}".strip()
    known = [size for size in sizes.values() if size is not None]
    if len(known) < number:
        return what
    samples = " samples" if noun else ""
    if len(set(known)) == 1:
        return f"{what} of {known[0]}{samples if known[0] > 1 else samples[:-1]}"
    return f"{what} of {min(known)} to {max(known)}{samples}"


def match_samples(
    reference: TraceSource, candidate: TraceSource
) -> tuple[StepSamples, ...]:
    """Finds the steps whose micro-batches do not hold the same samples.

    Reads the recorded inputs of the models, and no other values.

    Returns:
        One entry for each such step; none where micro-batches of equal number were
        given the same, or where it is not known what they were given and they have
        the same shapes.

    Raises:
        CorruptTraceError: The bytes of an input are not those that were written.
    """
    runs = (_Run(Side.REFERENCE, reference), _Run(Side.CANDIDATE, candidate))
    common = set(runs[0].microbatches) & set(runs[1].microbatches)
    found = (_match_step(step, *runs) for step in sorted(common))
    return tuple(samples for samples in found if samples is not None)


class _Run:
    """One run, with the inputs of its model by step and micro-batch."""

    def __init__(self, side: Side, trace: TraceSource):
        self.side = side
        self.trace = trace
        self.inputs: dict[int, dict[int, dict[str, TensorRecord]]] = {}
        self.microbatches: dict[int, set[int]] = {}
        self.has_calls: set[int] = set()
        for id_, record in trace.info.tensors.items():
            if id_.kind not in PER_MICROBATCH or id_.microbatch is None:
                continue
            self.microbatches.setdefault(id_.step, set()).add(id_.microbatch)
            if is_model_input(id_):
                if id_.call:
                    self.has_calls.add(id_.step)
                    continue
                of_step = self.inputs.setdefault(id_.step, {})
                of_step.setdefault(id_.microbatch, {})[id_.slot or ""] = record

    @property
    def is_filtered(self) -> bool:
        """Whether samples of a step may have been left out of the recording."""
        info = self.trace.info
        capture = CaptureFilter.from_json(dict(info.ranks[0].capture))
        return capture.microbatches is not None or is_rank_filtered(info)

    def values(self, record: TensorRecord) -> np.ndarray | None:
        return assembled(record, self.trace)


def is_model_input(id_: TensorId) -> bool:
    """Whether it is what the model was given in a micro-batch."""
    return (
        id_.kind is Kind.INPUT
        and id_.module == ROOT_MODULE
        and id_.pass_ is Pass.FORWARD
        and not id_.is_index
    )


def _match_step(step: int, reference: _Run, candidate: _Run) -> StepSamples | None:
    runs = (reference, candidate)
    numbers = [sorted(run.microbatches[step]) for run in runs]
    unknown = StepSamples(
        step=step,
        sizes={
            run.side: dict.fromkeys(of_run)
            for run, of_run in zip(runs, numbers, strict=True)
        },
        obstacle="which sample is where is not known",
    )
    inputs = [_complete(run.inputs.get(step, {}), run, step) for run in runs]
    if not all(inputs):
        infos = (reference.trace.info, candidate.trace.info)
        if numbers[0] == numbers[1] or not _activations_differ(step, *infos):
            return None
        side = runs[0].side if not inputs[0] else runs[1].side
        return _with_obstacle(
            unknown, f"the {side} recorded no input of the model (@root/input)"
        )
    if _given_the_same(inputs, runs):
        return None
    for run in runs:
        if step in run.has_calls:
            if numbers[0] == numbers[1] and _shapes(inputs[0]) == _shapes(inputs[1]):
                return None
            return _with_obstacle(
                unknown,
                f"the {run.side} calls the model several times in a micro-batch (of a "
                "JAX step that accumulates gradients say "
                "jax_capture.trace(microbatches=...))",
            )
    is_cut_alike = numbers[0] == numbers[1] and _shapes(inputs[0]) == _shapes(inputs[1])
    for run in runs:
        if run.is_filtered:
            if is_cut_alike:
                return None
            return _with_obstacle(
                unknown, f"a filter left samples out of the recorded {run.side}"
            )
    first: StepSamples | None = None
    for dims in possible_batch_dims(*map(_shapes_and_dims, inputs)):
        samples = _match_rows(step, dims, inputs, runs)
        if samples is None:
            return None if is_cut_alike else _with_obstacle(unknown, _PARTS)
        if samples.places is not None:
            return samples
        if dims.is_usual:
            first = first or samples
    if is_cut_alike:
        return None  # the inputs are compared one by one, and say what differs
    if first is not None:
        return first
    if numbers[0] == numbers[1]:
        return None  # the inputs have other shapes, and are compared one by one
    return _with_obstacle(
        unknown,
        "the inputs of the model differ in more than the number of samples, as where "
        "samples are padded to other lengths",
    )


_PARTS = "the recorded ranks do not have the inputs of the model whole"


def _with_obstacle(samples: StepSamples, obstacle: str) -> StepSamples:
    return StepSamples(step=samples.step, sizes=samples.sizes, obstacle=obstacle)


def _complete(
    inputs: Mapping[int, Mapping[str, TensorRecord]], run: _Run, step: int
) -> Inputs:
    """The inputs that every micro-batch of a step has; none if one has none."""
    if set(inputs) != run.microbatches[step]:
        return {}
    slots = set.intersection(*(set(of_one) for of_one in inputs.values()))
    if not slots:
        return {}
    return {
        number: {slot: of_one[slot] for slot in of_one if slot in slots}
        for number, of_one in inputs.items()
    }


def _shapes(inputs: Inputs) -> dict[int, dict[str, tuple[int, ...]]]:
    return {
        number: {slot: record.global_shape for slot, record in of_one.items()}
        for number, of_one in inputs.items()
    }


def _shapes_and_dims(
    inputs: Inputs,
) -> dict[int, dict[str, tuple[tuple[int, ...], str]]]:
    return {
        number: {
            slot: (record.global_shape, record.shards[0].layout.dims)
            for slot, record in of_one.items()
        }
        for number, of_one in inputs.items()
    }


def _activations_differ(step: int, reference: TraceInfo, candidate: TraceInfo) -> bool:
    """Whether micro-batches of one number are not of one size, as far as is known."""
    shapes = [
        (record.global_shape, candidate.tensors[id_].global_shape)
        for id_, record in reference.tensors.items()
        if id_.step == step and id_.kind in ACTIVATIONS and id_ in candidate.tensors
    ]
    return not shapes or any(first != second for first, second in shapes)


def _given_the_same(inputs: list[Inputs], runs: tuple[_Run, _Run]) -> bool:
    """Whether micro-batches of one number were given the same, wherever both are."""
    common = sorted(set(inputs[0]) & set(inputs[1]))
    if not common:
        return False
    for number in common:
        for slot in sorted(set(inputs[0][number]) & set(inputs[1][number])):
            records = [of_run[number][slot] for of_run in inputs]
            if records[0].global_shape != records[1].global_shape:
                return False
            arrays = [
                run.values(record) for run, record in zip(runs, records, strict=True)
            ]
            first, second = arrays
            if first is None or second is None:
                continue
            types = tuple(record.shards[0].dtype for record in records)
            if _comparable(first, types).tobytes() != (
                _comparable(second, types).tobytes()
            ):
                return False
    return True


def _match_rows(
    step: int, dims: BatchDims, inputs: list[Inputs], runs: tuple[_Run, _Run]
) -> StepSamples | None:
    """Matches the samples of a step by their rows; None where values are missing."""
    keys: list[dict[Place, bytes]] = []
    types = _dtypes(dims, inputs)
    for of_run, run in zip(inputs, runs, strict=True):
        of_places = _row_keys(of_run, run, dims, types)
        if of_places is None:
            return None
        keys.append(of_places)
    of_reference, of_candidate = keys
    sizes = {
        run.side: dict(sorted(Counter(place.microbatch for place in of_run).items()))
        for run, of_run in zip(runs, keys, strict=True)
    }
    free: dict[bytes, list[Place]] = defaultdict(list)
    for place, key in of_candidate.items():
        free[key].append(place)
    counts = {key: len(places) for key, places in free.items()}
    places: dict[int, list[Place]] = defaultdict(list)
    repeated, missing = set(), []
    for place, key in of_reference.items():
        if not free[key]:
            missing.append(place)
            continue
        places[place.microbatch].append(free[key].pop(0))
        if counts[key] > 1:
            repeated.add(place.microbatch)
    extra = sorted(
        (place for rest in free.values() for place in rest),
        key=lambda place: (place.microbatch, place.row),
    )
    if missing or extra:
        slot, dim = next(iter(dims.dims.items()))
        numbers = (len(of_reference), len(of_candidate))
        first, side = (
            (missing[0], Side.REFERENCE) if missing else (extra[0], Side.CANDIDATE)
        )
        of_side = inputs[0] if side is Side.REFERENCE else inputs[1]
        totals = (
            f"{numbers[0]} samples in either run"
            if numbers[0] == numbers[1]
            else f"{numbers[0]} samples in the reference, {numbers[1]} in the candidate"
        )
        return StepSamples(
            step=step,
            sizes=sizes,
            obstacle="the runs were not given the same samples",
            difference=f"{totals} (rows along dim {dim}), of which "
            f"{len(missing)} of the reference and {len(extra)} of the candidate have "
            f"no equal in the other run in this step; first: row {first.row} of "
            f"micro-batch {first.microbatch} of the {side}",
            differs_at=of_side[first.microbatch][slot].id,
        )
    return StepSamples(
        step=step,
        sizes=sizes,
        places={number: tuple(of_one) for number, of_one in places.items()},
        repeated=frozenset(repeated),
    )


def _dtypes(dims: BatchDims, inputs: list[Inputs]) -> dict[str, tuple[str, ...]]:
    return {
        slot: tuple(
            sorted(
                {
                    of_one[slot].shards[0].dtype
                    for of_run in inputs
                    for of_one in of_run.values()
                }
            )
        )
        for slot in dims.dims
    }


def _row_keys(
    inputs: Inputs,
    run: _Run,
    dims: BatchDims,
    dtypes: Mapping[str, tuple[str, ...]],
) -> dict[Place, bytes] | None:
    """What each sample of a step holds, in order of micro-batches and rows."""
    keys: dict[Place, bytes] = {}
    for number in sorted(inputs):
        parts: list[Iterator[bytes]] = []
        for slot, dim in dims.dims.items():
            values = run.values(inputs[number][slot])
            if values is None:
                return None
            rows = np.moveaxis(_comparable(values, dtypes[slot]), dim, 0)
            parts.append(row.tobytes() for row in rows)
        for row in itertools.count():
            try:
                key = b"".join([next(part) for part in parts])
            except StopIteration:
                break
            keys[Place(microbatch=number, row=row)] = key
    return keys


def _comparable(values: np.ndarray, dtypes: tuple[str, ...]) -> np.ndarray:
    """Values of which equal ones have equal bytes, also where their dtypes differ."""
    if all(dtype_named(name).epsilon is None for name in dtypes):
        kind = values.dtype.kind
        return values.astype(np.uint64 if kind == "u" else np.int64)
    coarsest = max(dtypes, key=lambda name: dtype_named(name).epsilon or 0.0)
    return values.astype(dtype_named(coarsest).numpy).astype(np.float64) + 0.0
