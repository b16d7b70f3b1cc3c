"""What a trace says of a tensor that ttrace failed at: whose fault it is, in words."""

from ttrace.errors import LayoutError, TtraceError


def reason_of(error: Exception, doing: str) -> str:
    """The reason to skip a tensor for, one line.

    Args:
        error: What was raised. One of ttrace's own errors says what is wrong with the
            tensor; any other one is a fault of ttrace, and the reason says so.
        doing: What ttrace was about to do, e.g. ``describe it``.
    """
    if isinstance(error, LayoutError):
        # One rule gives many tensors their layout: which one, and what it met.
        found = (("", error.where), ("expected ", error.expected), ("got ", error.got))
        details = [f"{word}{value}" for word, value in found if value is not None]
        return error.what + (f" ({'; '.join(details)})" if details else "")
    if isinstance(error, TtraceError):
        return error.what
    try:
        lines = str(error).splitlines()
    except Exception:  # an exception of a script's own may not even print
        lines = []
    message = f": {lines[0]}" if lines else ""
    return f"ttrace could not {doing}: {type(error).__name__}{message}"
