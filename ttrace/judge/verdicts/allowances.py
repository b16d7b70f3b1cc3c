"""What may be unmatched: patterns, and files of them with reasons and dates.

An allow file is TOML::

    [[allow]]
    pattern = "*.rotary_emb/*"
    reason = "the candidate computes it inside of the attention"
    expires = 2027-03-31
"""

import datetime
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttrace.errors import UsageError
from ttrace.ir.tensor_id import TensorId

_KEYS = ("pattern", "reason", "expires")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """One pattern of tensors that only one run may have.

    Attributes:
        pattern: Of tensor ids.
        reason: Why they may; empty for a pattern of the command line.
        expires: The last day on which it allows; None for always.
        file: The file that it stands in; empty for the command line.
        is_expired: That day is over: it allows nothing any more.
    """

    pattern: str
    reason: str = ""
    expires: datetime.date | None = None
    file: str = ""
    is_expired: bool = False

    @property
    def name(self) -> str:
        """What messages call it: ``--allow *.rotary/*``."""
        if not self.file:
            return f"--allow {self.pattern}"
        return f"{self.pattern} of {self.file}"

    @property
    def grounds(self) -> str:
        """The name, and the reason where there is one."""
        return f"{self.name} ({self.reason})" if self.reason else self.name

    def allows(self, tensor_id: TensorId) -> bool:
        """Whether a tensor may be unmatched by it."""
        return not self.is_expired and tensor_id.matches(self.pattern)


Allowed = Iterable[str | Allowance]
"""Patterns, of the command line or with reasons."""


def allowances_of(allow: Allowed) -> tuple[Allowance, ...]:
    """The same, with plain patterns as such of the command line; each once."""
    found = (
        Allowance(pattern=given) if isinstance(given, str) else given for given in allow
    )
    return tuple(dict.fromkeys(found))


def idle_remark(allowance: Allowance, num_matching: int, num_unmatched: int) -> str:
    """What to say of a pattern that allows nothing; empty where it allows something.

    Args:
        allowance: The pattern.
        num_matching: Tensors of either run that match it.
        num_unmatched: Those among them that only one run has.
    """
    if allowance.is_expired:
        remark = f"{allowance.name} expired on {allowance.expires} and allows nothing"
        if not num_unmatched:
            return f"{remark}; nothing needs it any more: delete it"
        plural = "s" if num_unmatched > 1 else ""
        return (
            f"{remark} any more, though it matches {num_unmatched} tensor{plural} that "
            "only one run has: make the runs alike, or renew it"
        )
    if num_unmatched:
        return ""
    if not num_matching:
        return (
            f"{allowance.name} matches no tensor of either run; patterns are those of "
            "'ttrace show TRACE PATTERN'"
        )
    plural = "s, none" if num_matching > 1 else ", which is not one"
    return (
        f"{allowance.name} allows nothing: it matches {num_matching} tensor{plural} of "
        "those that only one run has"
    )


def read_allow_file(
    path: Path | str | os.PathLike[str], *, today: datetime.date | None = None
) -> tuple[Allowance, ...]:
    """Reads an allow file.

    Args:
        path: The file.
        today: The day by which entries are judged; None for this machine's.

    Returns:
        Its entries in order, also those that are expired.

    Raises:
        UsageError: There is none, it is no TOML, or says what no allow file can say.
    """
    path = Path(path)
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise _refusal(path, "an allow file is not TOML", error) from error
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or error
        raise _refusal(path, "an allow file cannot be read", got) from error
    entries = value.get("allow")
    unknown = value.keys() - {"allow"}
    if unknown or not isinstance(entries, list) or not entries:
        got = f"the keys {', '.join(value) or '(none)'}"
        raise _refusal(path, "an allow file holds [[allow]] entries alone", got)
    return tuple(
        _entry(entry, path, number, today or datetime.date.today())
        for number, entry in enumerate(entries, 1)
    )


def _entry(value: Any, path: Path, number: int, today: datetime.date) -> Allowance:
    where = f"{path}, entry {number}"
    if not isinstance(value, Mapping):
        raise _refusal(where, "an [[allow]] entry is a table", repr(value))
    unknown = [key for key in value if key not in _KEYS]
    if unknown:
        raise _refusal(where, "an [[allow]] entry has an unknown key", unknown[0])
    for key in ("pattern", "reason"):
        text = value.get(key)
        if not isinstance(text, str) or not text.strip():
            got = "nothing" if text is None else repr(text)
            raise _refusal(where, f"an [[allow]] entry lacks its {key}", got)
    expires = value.get("expires")
    # A date with a time of day is a date to Python, too.
    if expires is not None and type(expires) is not datetime.date:
        got = f"{expires!r}"
        raise _refusal(where, "the expires of an [[allow]] entry is no date", got)
    return Allowance(
        pattern=value["pattern"],
        reason=value["reason"],
        expires=expires,
        file=str(path),
        is_expired=expires is not None and expires < today,
    )


def _refusal(where: object, what: str, got: object) -> UsageError:
    return UsageError(
        what,
        where=where,
        expected='[[allow]] with pattern = "...", reason = "..." and, if it is to end, '
        "expires = 2027-03-31",
        got=got,
        remedy="correct the file of --allow-file (allow_file=)",
    )
