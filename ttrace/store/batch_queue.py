"""A queue between threads that is bounded in bytes and emptied in batches."""

import collections
import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BatchQueue(Generic[Item]):
    """Holds items of known size for one thread that takes them in batches.

    An item counts against the bound from ``put`` until ``release``, so what the
    taking thread still works on is counted, too.
    """

    def __init__(self, *, batch_bytes: int, max_bytes: int):
        """Makes an empty queue.

        Args:
            batch_bytes: A batch is due once this much is queued, or a ``put`` waits.
            max_bytes: ``put`` waits where this would be exceeded, unless the queue
                holds nothing at all: one larger item passes alone.
        """
        self._batch_bytes = batch_bytes
        self._max_bytes = max_bytes
        self._items: collections.deque[tuple[Item, int]] = collections.deque()
        self._queued_bytes = 0  # of _items
        self._held_bytes = 0  # of _items and of batches taken but not released
        self._num_waiting = 0
        self._closed = False
        self._discarding = False
        self._changed = threading.Condition()

    @property
    def held_bytes(self) -> int:
        """What counts against the bound."""
        return self._held_bytes

    def put(self, item: Item, nbytes: int) -> bool:
        """Adds an item; waits for room.

        Returns:
            Whether the queue took it (or discards everything); False once closed.
        """
        with self._changed:
            if self._closed:
                return False
            if not self._has_room(nbytes):
                self._num_waiting += 1
                self._changed.notify_all()
                try:
                    self._changed.wait_for(lambda: self._has_room(nbytes))
                finally:
                    self._num_waiting -= 1
                    self._changed.notify_all()
            if not self._discarding:
                self._items.append((item, nbytes))
                self._queued_bytes += nbytes
                self._held_bytes += nbytes
                if self._is_due():
                    self._changed.notify_all()
            return True

    def take(self) -> list[Item] | None:
        """Waits for a batch, oldest item first; None once closed and empty."""
        with self._changed:
            self._changed.wait_for(self._is_due)
            batch, batch_bytes = [], 0
            while self._items and batch_bytes < self._batch_bytes:
                item, nbytes = self._items.popleft()
                batch.append(item)
                batch_bytes += nbytes
            self._queued_bytes -= batch_bytes
            return batch or None

    def release(self, nbytes: int) -> None:
        """Gives room back: this much of a batch is done with."""
        with self._changed:
            self._held_bytes -= nbytes
            self._changed.notify_all()

    def close(self) -> None:
        """Refuses new items; those queued or waiting for room can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def discard(self) -> None:
        """Drops all items, now and from now on."""
        with self._changed:
            self._discarding = True
            self._items.clear()
            self._queued_bytes = self._held_bytes = 0
            self._changed.notify_all()

    def _has_room(self, nbytes: int) -> bool:
        return (
            self._discarding
            or self._held_bytes == 0
            or self._held_bytes + nbytes <= self._max_bytes
        )

    def _is_due(self) -> bool:
        if self._items:
            return (
                self._queued_bytes >= self._batch_bytes
                or self._num_waiting > 0
                or self._closed
            )
        return self._closed and self._num_waiting == 0
