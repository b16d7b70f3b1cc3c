"""The values that take the place of a run's own, as a frontend asks for them.

They are prepared as a trace in the run's own names and layouts
(``ttrace.isolation.rewrites``), so that a frontend only looks them up: an input of a
module gets the value that is held under its tensor id, and so does the gradient of an
output. Whatever has none, or does not fit it, is left as it is, and the run says which.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId, parse_tensor_id
from ttrace.ir.trace import RankInfo, ShardRecord
from ttrace.store.reader import Trace, open_rank

REWRITTEN_KINDS = frozenset({Kind.INPUT, Kind.GRAD_OUTPUT})
"""What is overwritten: what comes to a module in its forward, and in its backward."""

REWRITING_FRAMEWORKS = frozenset({"jax", "megatron", "torch"})
"""Frontends that overwrite values, by the name under which they record."""

NO_MODULE_BEHIND = "the module returns a parameter or an input of the model itself"
"""Why the gradient of an output is not recorded, and leads into no module."""

_NUM_REWRITTEN = "num_rewritten"
_NOT_REWRITTEN = "not_rewritten"

_NEVER_CAME = "the run did not come to it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """What a rank says of what it overwrote.

    Attributes:
        count: Number of values that it did overwrite.
        left: Why others were left as they were, by id.
    """

    count: int
    left: Mapping[TensorId, str]


def rewritten_by(info: RankInfo) -> Rewritten | None:
    """What a rank of a rewriting run overwrote; None where it does not say.

    Raises:
        ValueError: What it says is malformed.
    """
    count = info.settings.get(_NUM_REWRITTEN)
    if count is None:
        return None
    left = json.loads(str(info.settings.get(_NOT_REWRITTEN) or "{}"))
    return Rewritten(
        count=int(count),
        left={parse_tensor_id(text): reason for text, reason in left.items()},
    )


class RankRewrites:
    """The values that one rank overwrites its own with, and what became of each.

    May be asked from any thread: the backward of each device runs hooks in its own.

    Args:
        trace: What was prepared for the rank.
        rank: Global rank.

    Raises:
        TraceError: There is nothing for this rank, or it cannot be read.
    """

    def __init__(self, trace: Path, rank: int):
        self._trace: Trace = open_rank(trace, rank)
        self._shards: dict[TensorId, ShardRecord] = {
            record.id: shard
            for record in self._trace.info.tensors.values()
            for shard in record.shards
        }
        self._left: dict[TensorId, str] = {}
        self._done: set[TensorId] = set()
        self._lock = threading.Lock()

    def values_of(self, id_: TensorId) -> np.ndarray | None:
        """What takes the place of a tensor; None where it is left alone.

        A recomputed forward gets what the first one got.

        Returns:
            A read-only array of the run's own dtype and local shape.
        """
        shard = self._shard_of(id_)
        return None if shard is None else self._trace.load(shard)

    def has_value(self, id_: TensorId) -> bool:
        """Whether there is anything that takes the place of a tensor."""
        return self._shard_of(id_) is not None

    def recorded(self) -> Mapping[TensorId, bool]:
        """What the rank had recorded of the inputs and output gradients of the step.

        Returns:
            For each whether there is a value that takes its place.
        """
        without = dict.fromkeys(self._trace.info.skipped, False)
        return without | dict.fromkeys(self._shards, True)

    def note_done(self, id_: TensorId) -> None:
        """Notes that a tensor was overwritten."""
        with self._lock:
            self._done.add(id_)

    def _shard_of(self, id_: TensorId) -> ShardRecord | None:
        shard = self._shards.get(id_)
        if shard is None and id_.pass_ is Pass.RECOMPUTE:
            shard = self._shards.get(replace(id_, pass_=Pass.FORWARD))
        return shard

    def note_left(self, id_: TensorId, reason: str) -> None:
        """Notes why a tensor for which there is a value was left as it is."""
        with self._lock:
            self._left.setdefault(id_, reason)

    def statement(self, steps: int) -> dict[str, str]:
        """What became of the values, as settings of the run.

        Args:
            steps: How many steps have ended: what was to come in them and was not
                asked for is left, too.
        """
        with self._lock:
            left = dict(self._left)
            for id_ in self._shards:
                if id_.step < steps and id_ not in self._done:
                    left.setdefault(id_, _NEVER_CAME)
            return {
                _NUM_REWRITTEN: str(len(self._done)),
                _NOT_REWRITTEN: json.dumps({str(k): v for k, v in left.items()}),
            }


def misfit(shape: tuple[int, ...], dtype: str, values: np.ndarray) -> str | None:
    """Why an array cannot take the place of a value; None where it can.

    Args:
        shape: Of the value.
        dtype: Of the value; its name.
        values: The array. It may have a dim per mesh axis in front, each of length 1.
    """
    more = len(values.shape) - len(shape)
    if more < 0 or values.shape != (1,) * more + shape:
        was = list(values.shape)
        return f"its shape is {list(shape)}, and was {was} in the run before"
    if dtype != values.dtype.name:
        return f"its dtype is {dtype}, and was {values.dtype.name} in the run before"
    return None
