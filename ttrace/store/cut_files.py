"""What is left to do where a mapped file is cut at the moment that it is read."""

import contextlib
import ctypes
import os
import signal
import sys
from typing import NoReturn

from ttrace.errors import TraceError

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)

_libc = ctypes.CDLL(None)
_libc.signal.restype = ctypes.c_void_p
_libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)

_DEFAULT = 0
"""``SIG_DFL``."""


def exit_where_files_are_cut(exit_code: int) -> None:
    """Lets the program end with a sentence where it would be killed without any.

    Files are looked at before each part of them is read; what is cut between that and
    the read is answered by the system with SIGBUS. Handlers of ``signal.signal`` run
    when the instruction has ended, which this one never does: so C calls Python here,
    at once, wherever the program is, and the program does not go on.

    For programs, not for libraries: their users may have handlers of their own.

    Args:
        exit_code: Of the program.
    """
    global _installed

    def handle(number: int) -> None:
        _libc.signal(number, _DEFAULT)  # for what we cannot tell, and for errors here
        # Looked up: who has mapped a file has imported it, and numpy with it.
        mapped_files = sys.modules.get("ttrace.store.mapped_files")
        for mapping in mapped_files.live_mappings() if mapped_files else ():
            with contextlib.suppress(OSError):
                try:
                    mapping.check_size()
                except TraceError as error:
                    _exit(f"ttrace: {error}\n", exit_code)

    _installed = _Handler(handle)
    _libc.signal(signal.SIGBUS, ctypes.cast(_installed, ctypes.c_void_p))


_installed: object = None
"""What C calls must not be collected."""


def _exit(message: str, exit_code: int) -> NoReturn:
    """Ends the process without any of what it has still to do, which may read."""
    os.write(2, message.encode())
    os._exit(exit_code)
