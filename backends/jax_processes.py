"""Processes that ``jax.distributed`` connects, as those that share a comparison."""

import time

import jax
from jax._src import distributed

from ttrace.errors import CommandError, UsageError

_SILENCE_S = 90.0
"""Shorter than the 100 s after which jax itself ends all processes, without words."""

_POLL_MS = 500
_BEAT_S = 1.0
_CHUNK_BYTES = 1_000_000
"""The coordinator takes messages of a few megabytes."""


def joined_processes() -> "JaxProcesses":
    """Connects this process with the others that a launcher has started.

    Raises:
        UsageError: jax finds no launcher.
    """
    if distributed.global_state.client is None:
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                "jax.distributed could not be set up",
                where="--distributed",
                expected="a launcher that jax knows (Slurm, Open MPI, Kubernetes, a "
                "cloud's TPU or GPU pods)",
                got=str(error).splitlines()[0],
                remedy="start it by such a launcher, or share the work among "
                "processes of this machine with --processes N",
            ) from error
    return JaxProcesses()


class JaxProcesses:
    """This process, and the others of ``jax.distributed``.

    Messages go through the coordinator, not through devices: they are small, and a
    process that is gone would leave a collective hanging.

    Attributes:
        index: ``jax.process_index()``.
        count: ``jax.process_count()``.

    Raises:
        UsageError: ``jax.distributed`` is not initialized.
    """

    def __init__(self, *, silence_s: float = _SILENCE_S):
        state = distributed.global_state
        if state.client is None:
            raise UsageError(
                "this process is not connected with others",
                expected="jax.distributed.initialize() was called before",
                remedy="call it, or compare in one process",
            )
        self._client = state.client
        self.index, self.count = jax.process_index(), jax.process_count()
        self._silence_s = silence_s
        self._round = 0
        self._last_beat = time.monotonic()

    def exchange(self, message: bytes) -> list[bytes]:
        place = f"ttrace/{self._round}"
        self._round += 1
        chunks = range(0, len(message), _CHUNK_BYTES)
        for number, start in enumerate(chunks):
            part = message[start : start + _CHUNK_BYTES]
            self._client.key_value_set_bytes(f"{place}/{self.index}/{number}", part)
        self._client.key_value_set(f"{place}/{self.index}/count", str(len(chunks)))
        return [
            message if index == self.index else self._received(place, index)
            for index in range(self.count)
        ]

    def report_progress(self, done: int, total: int) -> None:
        """Tells the others, once a second, that this process is alive."""
        if time.monotonic() - self._last_beat > _BEAT_S:
            self._last_beat = time.monotonic()
            self._client.key_value_set(
                _beat_of(self.index), f"{done}/{total}", allow_overwrite=True
            )

    def _received(self, place: str, index: int) -> bytes:
        count = self._waited_for(f"{place}/{index}/count", index)
        return b"".join(
            self._client.blocking_key_value_get_bytes(
                f"{place}/{index}/{number}", int(self._silence_s * 1000)
            )
            for number in range(int(count))
        )

    def _waited_for(self, key: str, index: int) -> str:
        heard, beat = time.monotonic(), None
        while True:
            try:
                return self._client.blocking_key_value_get(key, _POLL_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise self._gone(index, str(error).splitlines()[0]) from error
            if (now := self._beat(index)) != beat:
                heard, beat = time.monotonic(), now
            if time.monotonic() - heard > self._silence_s:
                silence = f"nothing for {self._silence_s:.0f} s"
                raise self._gone(index, f"{silence}; the last progress was {beat}")

    def _beat(self, index: int) -> str | None:
        try:
            return self._client.key_value_try_get(_beat_of(index))
        except jax.errors.JaxRuntimeError:  # there is none yet
            return None

    def _gone(self, index: int, got: str) -> CommandError:
        return CommandError(
            f"process {index} of {self.count} of this comparison does not answer",
            expected="figures of its part of the tensors",
            got=got,
            remedy="see in its log why it ended or what holds it up",
        )


def _beat_of(index: int) -> str:
    return f"ttrace/beat/{index}"
