"""Samples whose positions a run cuts over its ranks otherwise than its dims texts say.

Put together by the texts, an input then holds what the other run has of each sample at
other positions: all that is compared by these texts is compared with something else.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttrace.compare.assembled import assembled
from ttrace.compare.samples.batch_dims import cut_dims, possible_batch_dims
from ttrace.compare.samples.model_inputs import StepInputs, comparable, step_inputs
from ttrace.compare.samples.sample_pairs import pair_samples
from ttrace.compare.samples.samples import Place
from ttrace.compare.shown_trace import ShownTrace
from ttrace.errors import LayoutError
from ttrace.ir.dims import Dims
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.kinds import Kind
from ttrace.ir.side import Side
from ttrace.ir.splits import Modifier, Split
from ttrace.ir.tensor_id import TensorId
from ttrace.ir.trace import TensorRecord, TraceInfo
from ttrace.ir.trace_source import TraceSource
from ttrace.ir.written_dims import written_of
from ttrace.judge.reading.values import MAX_ELEMENTS
from ttrace.judge.verdicts.verdict import Status, TensorVerdict

_OTHER_CUT = {Modifier.EVEN: Modifier.ZIGZAG, Modifier.ZIGZAG: Modifier.EVEN}

_Records = Mapping[int, Mapping[str, TensorRecord]]
"""By micro-batch and slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedPositions:
    """A cut of positions that is not as a dims text says.

    Attributes:
        id: An input of the model that has the values of each sample elsewhere.
        side: The run whose text it is.
        dim: The dim of the positions, as the text calls it.
        text: The dims text.
        fitting: The text by which each value is where the other run has it; empty where
            none of those that were tried does.
        pattern: Of the rule of the script that says the text; empty where it is the
            frontend's own.
    """

    id: TensorId
    side: Side
    dim: str
    text: str
    fitting: str
    pattern: str


def find_moved_positions(
    verdicts: Sequence[TensorVerdict], reference: TraceSource, candidate: TraceSource
) -> MovedPositions | None:
    """Looks for it in the first step whose inputs of the model differ.

    None where it is not an input that differs first of what the runs were given.

    Args:
        verdicts: On all tensors.
        reference: The trusted run.
        candidate: The run under test, with its own micro-batches.
    """
    first = next((v for v in verdicts if v.setup and v.status is Status.FAILED), None)
    if first is None or first.id.kind is not Kind.INPUT:
        return None
    steps = (
        step_inputs(Side.REFERENCE, reference).get(first.id.step),
        step_inputs(Side.CANDIDATE, candidate).get(first.id.step),
    )
    if steps[0] is None or steps[1] is None:
        return None
    for run, other in ((steps[1], steps[0]), (steps[0], steps[1])):
        if not all(_is_readable(one) for one in (run, other)):
            return None
        found = _moved(run, other, first.id.slot or "")
        if found is not None:
            return found
    return None


def _is_readable(run: StepInputs) -> bool:
    size = sum(
        math.prod(record.global_shape)
        for slots in run.inputs.values()
        for record in slots.values()
    )
    return (
        bool(run.inputs)
        and size <= MAX_ELEMENTS
        and not (run.has_calls or run.is_filtered)
        and run.is_whole()
    )


def _moved(run: StepInputs, other: StepInputs, differing: str) -> MovedPositions | None:
    """By what one run says of its inputs; None where it has each value in its place.

    Args:
        run: The run.
        other: The run that it is compared with.
        differing: An input that differs: it is named, if its positions are cut.
    """
    for dims in possible_batch_dims(run.described(), other.described()):
        if not dims.is_usual:
            continue
        cuts = _Cuts(run, other, dims.dims)
        if not cuts.positions or all(run.is_binary(slot) for slot in cuts.positions):
            continue
        as_said = cuts.are_equal(run.inputs, in_any_order=False)
        if as_said is not False or not cuts.are_equal(run.inputs, in_any_order=True):
            continue
        return _finding(run, cuts, differing)
    return None


class _Cuts:
    """The inputs whose positions a dims text of a run cuts.

    Args:
        run: The run.
        other: The run that it is compared with.
        samples: The dim that counts samples, by slot.

    Attributes:
        positions: The dim that counts positions, by slot.
    """

    def __init__(self, run: StepInputs, other: StepInputs, samples: Mapping[str, int]):
        self._run, self._other, self._samples = run, other, samples
        self.positions: dict[str, int] = {}
        for slot, (_, text) in next(iter(run.described().values())).items():
            cut = [dim for dim in cut_dims(text) if dim != samples.get(slot)]
            if slot in samples and len(cut) == 1:
                self.positions[slot] = cut[0]

    def are_equal(self, inputs: _Records, *, in_any_order: bool) -> bool | None:
        """Whether both runs have the same samples; None where it cannot be told.

        Args:
            inputs: Those of the run, as they are to be put together.
            in_any_order: Of the positions of a sample.
        """
        ours = self._rows(self._run, inputs, in_any_order)
        theirs = self._rows(self._other, self._other.inputs, in_any_order)
        if ours is None or theirs is None:
            return None
        pairs = pair_samples(
            self._other.by_evaluation(theirs), self._run.by_evaluation(ours)
        )
        return not (pairs.missing or pairs.extra)

    def _rows(
        self, run: StepInputs, inputs: _Records, in_any_order: bool
    ) -> dict[Place, bytes] | None:
        """What each sample holds, position by position."""
        found: dict[Place, bytes] = {}
        shown = ShownTrace(run.trace, run.trace.info)  # it reads shards in any layout
        for number, slots in inputs.items():
            of_slots: list[np.ndarray] = []
            for slot, dim in self.positions.items():
                values = assembled(slots[slot], shown)
                if values is None:
                    return None
                dtypes = self._run.dtypes(slot) | self._other.dtypes(slot)
                dims = (self._samples[slot], dim)
                of_slots.append(np.moveaxis(comparable(values, dtypes), dims, (0, 1)))
            if len({values.shape[:2] for values in of_slots}) > 1:
                return None
            for row in range(len(of_slots[0])):
                held = _by_position([values[row] for values in of_slots])
                place = Place(microbatch=number, row=row)
                found[place] = b"".join(sorted(held) if in_any_order else held)
        return found


def _by_position(inputs: Sequence[np.ndarray]) -> list[bytes]:
    """What each position of a sample holds, of all inputs together."""
    return [
        b"".join(part.tobytes() for part in parts)
        for parts in zip(*inputs, strict=True)
    ]


def _finding(run: StepInputs, cuts: _Cuts, differing: str) -> MovedPositions:
    slots = next(iter(run.inputs.values()))
    slot = differing if differing in cuts.positions else next(iter(cuts.positions))
    dim = cuts.positions[slot]
    record = slots[slot]
    text = record.shards[0].layout.dims
    fitting = ""
    changed = _with_other_cuts(run, cuts.positions)
    if changed is not None and cuts.are_equal(changed, in_any_order=False):
        fitting = next(iter(changed.values()))[slot].shards[0].layout.dims
    written = written_of(run.trace.info.ranks[0].settings, record.id)
    return MovedPositions(
        id=record.id,
        side=run.side,
        dim=parse_dims(text).dims[dim].name,
        text=text,
        fitting=fitting,
        pattern=written[1] if written else "",
    )


def _with_other_cuts(run: StepInputs, positions: Mapping[str, int]) -> _Records | None:
    """The inputs with positions cut zig-zag, or evenly where a text says zig-zag.

    None where a text says something else, or the lengths do not allow it.
    """
    try:
        return {
            number: {
                slot: _recut(record, positions[slot], run.trace.info)
                if slot in positions
                else record
                for slot, record in slots.items()
            }
            for number, slots in run.inputs.items()
        }
    except (LayoutError, KeyError):
        return None


def _recut(record: TensorRecord, dim: int, info: TraceInfo) -> TensorRecord:
    meshes = {rank.rank: rank for rank in info.ranks}
    shards = []
    for shard in record.shards:
        layout = shard.layout
        mesh = meshes[shard.rank].mesh(layout.mesh)
        dims = _other(parse_dims(layout.dims), dim)
        layout = dims.lower(layout.global_shape, mesh)
        shards.append(replace(shard, layout=layout))
    return replace(record, shards=tuple(shards))


def _other(dims: Dims, dim: int) -> Dims:
    """With the first split of a dim done the other way.

    Raises:
        KeyError: There is no other way for it.
    """
    first, *rest = dims.dims[dim].splits
    other = Split(axis=first.axis, modifier=_OTHER_CUT[first.modifier])
    changed = list(dims.dims)
    changed[dim] = replace(dims.dims[dim], splits=(other, *rest))
    return replace(dims, dims=tuple(changed))


def moved_sentence(found: MovedPositions) -> str:
    """What to say of it in place of all else."""
    where = f"@root/input/{found.id.slot}"
    sentence = (
        f"Set-up differs: in step {found.id.step} both runs were given the same "
        f"samples, but put together by its dims text `{found.text}` {where} of the "
        f"{found.side} has the values of each sample at other positions along "
        f"{found.dim}. "
    )
    if found.pattern and found.fitting:
        sentence += (
            f"`{found.fitting}` fits: write that cut for the pattern "
            f'"{found.pattern}" of activations, and for all others that cut '
            f"{found.dim}"
        )
    elif found.pattern:
        sentence += (
            f'Correct the text of the pattern "{found.pattern}" of activations, or '
            "how the script cuts its inputs"
        )
    elif found.fitting:
        sentence += (
            f"The script cuts it as `{found.fitting}` says: cut its inputs as "
            f"`{found.text}` says"
        )
    else:
        sentence += f"Cut the inputs of the script as `{found.text}` says"
    return f"{sentence}; nothing else of this comparison can be told before."
