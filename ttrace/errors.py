"""The exceptions of ttrace and the form of their messages; nothing else."""


class TtraceError(Exception):
    """Base of every error a user can cause.

    A message always answers the same questions, in the same order: what went
    wrong, where, what was expected and found, and what to do about it.

    Attributes:
        what: One sentence, without a full stop: what is wrong.
        where: The place: a file, a tensor id, a rank, an axis; None if it is global.
        expected: What would have been right, or None.
        got: What was found instead, or None.
        remedy: What the user can do, in the imperative.
    """

    def __init__(
        self,
        what: str,
        *,
        remedy: str,
        where: object = None,
        expected: object = None,
        got: object = None,
    ):
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.remedy = remedy
        lines = [what]
        for label, value in (
            ("where", where),
            ("expected", expected),
            ("got", got),
            ("to do", remedy),
        ):
            if value is not None:
                lines.append(f"  {label + ':':<10}{value}")
        super().__init__("\n".join(lines))


class UsageError(TtraceError, ValueError):
    """The command line, an option or an argument makes no sense."""


class OtherReferenceError(UsageError):
    """Tolerances are of another reference, or of another precision."""


class TensorIdError(TtraceError, ValueError):
    """A tensor id, or its text, is malformed."""


class DtypeError(TtraceError, TypeError):
    """A dtype that ttrace cannot store or compare."""


class LayoutError(TtraceError, ValueError):
    """Shapes, blocks, axes or dims text contradict each other."""


class MapError(TtraceError, ValueError):
    """A map file is malformed, or does not fit the traces that it is to match."""


class TraceError(TtraceError):
    """Base of all that can be wrong with a trace on disk."""


class TraceNotFoundError(TraceError, FileNotFoundError):
    """There is no trace at the given path."""

    # FileNotFoundError formats itself from errno; our message is the whole text.
    def __str__(self) -> str:
        return str(self.args[0])


class TraceExistsError(TraceError, FileExistsError):
    """A trace would overwrite another one."""

    def __str__(self) -> str:
        return str(self.args[0])


class IncompleteTraceError(TraceError):
    """A trace is still being written, was cut off, or lacks a rank."""


class CorruptTraceError(TraceError):
    """The bytes of a trace are not those that were written."""


class CheckpointError(TraceError):
    """A checkpoint that was given in place of a trace cannot be read as one."""


class UnrepeatableError(TraceError):
    """A reference computes other values every time it is run."""


class SchemaVersionError(TraceError):
    """A file was written in a format that this version does not read."""


class StorageFullError(TraceError, OSError):
    """No space, or no permission, where a trace or report should go."""

    def __str__(self) -> str:
        return str(self.args[0])


class CommandError(TtraceError, RuntimeError):
    """A command that ttrace ran failed, hung, or recorded nothing."""


class DivergedError(TtraceError, AssertionError):
    """Arrays differ by more than their tolerances; raised where that was asked for."""


class MissingExtraError(TtraceError, ImportError):
    """An optional dependency is needed and not installed."""

    def __str__(self) -> str:
        return str(self.args[0])
