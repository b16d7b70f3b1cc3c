"""Parameters that are written to after the optimizer's step: clamped, averaged, tied.

What is done to a parameter between ``optimizer.step()`` and ``trace.step()``, and to
one that no optimizer holds, is in no ``updated_param``. It shows in the values alone,
as a script may write by way of ``.data``.
"""

from ttrace.frontends.torch_parts.capture import Capture
from ttrace.frontends.torch_parts.description import ModelDescription, NamedParameter
from ttrace.frontends.torch_parts.fingerprints import Fingerprint, fingerprint_of
from ttrace.frontends.torch_parts.guards import guarded
from ttrace.frontends.torch_parts.local_tensor import (
    Answer,
    LocalTensor,
    NoLayout,
)
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId
from ttrace.recording.faults import reason_of


class WrittenParameters:
    """Records parameters that a step leaves otherwise than they were recorded last.

    Two passes over the parameters in each recorded step, and a copy of what has been
    written to.

    Args:
        description: Of the model.
        capture: Where tensors go now.
    """

    def __init__(self, description: ModelDescription, capture: Capture):
        self._description = description
        self._capture = capture
        self._known: dict[tuple[str, str], Fingerprint | None] = {}
        self._last: dict[tuple[str, str], TensorId] = {}

    @guarded("tell later whether parameters were written to")
    def begin(self) -> None:
        """Notes all parameters as they are now: the first recorded step begins."""
        for named in self._description.parameters():
            if self._capture.filter.wants(self._id(named)):
                self._note(named, self._held(named))

    @guarded("tell later whether a parameter was written to")
    def note(self, id_: TensorId, named: NamedParameter, answer: Answer) -> None:
        """Notes what is recorded of a parameter as it is now.

        Args:
            id_: What it is recorded as; of what comes twice the first one counts.
            named: The parameter.
            answer: What the description said of it.
        """
        if self._last.get(_key(named)) == id_:
            return
        if self._capture.recorder_for(Kind.WRITTEN_PARAM) is not None:
            self._last[_key(named)] = id_
            self._note(named, answer)

    @guarded("record parameters that were written to")
    def end_step(self) -> None:
        """Records those that are not what was noted of them; the step ends."""
        recorder = self._capture.recorder_for(Kind.WRITTEN_PARAM)
        if recorder is None:
            return
        for named in self._description.parameters():
            id_ = self._id(named)
            if not self._capture.filter.wants(id_):
                continue
            before = self._known.get(_key(named))
            answer = self._held(named)
            self._note(named, answer)
            now = self._known.get(_key(named))
            if before is not None and now is not None and now != before:
                recorder.answer(id_, answer)

    def _id(self, named: NamedParameter) -> TensorId:
        return TensorId(
            step=self._capture.step,
            module=named.module,
            kind=Kind.WRITTEN_PARAM,
            slot=named.slot,
        )

    def _held(self, named: NamedParameter) -> Answer:
        try:
            return self._description.parameter(
                named, Kind.WRITTEN_PARAM, named.parameter
            )
        except Exception as error:
            return NoLayout(reason=reason_of(error, "describe it"))

    def _note(self, named: NamedParameter, answer: Answer) -> None:
        is_held = isinstance(answer, LocalTensor)
        self._known[_key(named)] = fingerprint_of(answer.values) if is_held else None


def _key(named: NamedParameter) -> tuple[str, str]:
    return named.module, named.slot
