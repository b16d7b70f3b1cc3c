"""Lets a step that must not be cut in two end before an interruption takes effect."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the end of the block.

    Handlers are exchanged and no signal is blocked: a process that is started inside
    would inherit a blocked signal, while exec sets handlers back to the default.
    Outside of the main thread, which alone runs handlers, nothing is to be done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {sign: signal.getsignal(sign) for sign in _SIGNALS}
    ours = {sign: handler for sign, handler in handlers.items() if callable(handler)}
    for sign in ours:
        signal.signal(sign, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for sign, handler in ours.items():
            signal.signal(sign, handler)
        for sign in arrived[:1]:  # the first one raises, as a rule
            signal.raise_signal(sign)
