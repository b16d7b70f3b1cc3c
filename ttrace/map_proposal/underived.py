"""What a proposal could not derive: said with the tensor's name, never raised."""

import contextlib
from collections.abc import Iterator

from ttrace.errors import TtraceError


class Underived:
    """Keeps faults of the search itself from ending a proposal.

    A map for all other tensors is worth more than none. Errors of ttrace about what it
    was given, such as a corrupt trace, are raised.

    Attributes:
        notes: A line for each tensor whose rule could not be derived, and why.
    """

    def __init__(self):
        self.notes: list[str] = []

    @contextlib.contextmanager
    def guarded(self, what: object) -> Iterator[None]:
        """Notes what goes wrong inside of it.

        Args:
            what: The tensor or module that a rule was searched for.
        """
        try:
            yield
        except TtraceError:
            raise
        except Exception as error:
            text = " ".join(str(error).split()) or "no text"
            self.notes.append(f"{what} ({type(error).__name__}: {text})")
