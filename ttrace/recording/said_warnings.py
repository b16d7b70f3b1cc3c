"""Warnings that a frontend gives while it records: in the log, and in the trace."""

from absl import logging

from ttrace.ir.trace_warnings import warnings_setting

_MAX_KEPT = 32

_kept: list[str] = []


def warn(sentence: str) -> None:
    """Logs a warning, and keeps it for the trace that the process records.

    Args:
        sentence: With a full stop or without; each is kept once.
    """
    logging.warning("ttrace: %s", sentence)
    if sentence not in _kept and len(_kept) < _MAX_KEPT:
        _kept.append(sentence)


def take_warnings() -> dict[str, str]:
    """The setting that holds those kept so far, which are then forgotten."""
    kept = [*_kept]
    _kept.clear()
    return warnings_setting(kept)
