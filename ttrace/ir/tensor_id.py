"""Identity of one logical tensor, its text form, and patterns over that text."""

import fnmatch
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from ttrace.errors import TensorIdError
from ttrace.ir.kinds import Kind

ROOT_MODULE = "@root"
"""Stands for the model itself, whose module path is empty."""

INDEX_SLOT = "@index"
"""Slot of a tensor that numbers the rows of others (see ``ttrace.ir.row_index``)."""


class Pass(StrEnum):
    """Whether a forward ran for the first time or was recomputed for backward."""

    FORWARD = "forward"
    RECOMPUTE = "recompute"


_NAME = re.compile(r"[^/\s]+")
_TEXT = re.compile(
    r"step(?P<step>\d+)"
    r"(?:/mb(?P<microbatch>\d+))?"
    r"/(?P<module>[^/\s]+)"
    r"/(?P<kind>[a-z_]+)"
    r"(?:/(?!call\d+$|call\d+/recompute$|recompute$)(?P<slot>[^/\s]+))?"
    r"(?:/call(?P<call>\d+))?"
    r"(?P<recompute>/recompute)?"
)
_RESERVED = {
    "module": re.compile(r"mb\d+"),
    "slot": re.compile(r"call\d+|recompute"),
}
"""Words that would be read back as another part of the text."""

_KINDS = {kind.value: kind for kind in Kind}

_KEPT_IDS = 1 << 18
"""Ids that were read last: every rank of either run names the same ones again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorId:
    """Canonical identity of a logical tensor, equal in reference and candidate.

    The text form ``step0/mb1/decoder.layers.3.mlp/output/0`` round-trips; parts
    that hold their default are left out. Patterns (``fnmatch``, where ``*`` also
    matches ``/``) run over it.

    Attributes:
        step: Training step, counted from 0 where tracing began.
        microbatch: Global micro-batch index (equal to what one device would
            count), or None for tensors of the whole step.
        module: Module path with global layer numbers, e.g.
            ``decoder.layers.3.mlp``; ``@root`` for the model itself.
        kind: What the tensor is.
        slot: Position or name of an argument or output (``0``, ``1.mask``), or the
            parameter's own name (``weight``); None for scalars of the step.
        call: Nth call of the module within this micro-batch and pass; of a tensor of
            the whole step, the nth update of the step, or call of its closure.
        pass_: First forward, or its recomputation.
    """

    step: int
    module: str
    kind: Kind
    microbatch: int | None = None
    slot: str | None = None
    call: int = 0
    pass_: Pass = Pass.FORWARD
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for name in ("module", "slot"):
            value = getattr(self, name)
            if value is not None and not _NAME.fullmatch(value):
                raise TensorIdError(
                    f"the {name} of a tensor id is malformed",
                    expected="one or more characters, no '/' and no white space",
                    got=repr(value),
                    remedy=f"give the {name} another name in the frontend",
                )
            if value is not None and _RESERVED[name].fullmatch(value):
                raise TensorIdError(
                    f"the {name} of a tensor id is a reserved word",
                    where=self.module,
                    expected="not 'mb<n>' as module, not 'call<n>' or 'recompute' "
                    "as slot",
                    got=repr(value),
                    remedy=f"give the {name} another name in the frontend",
                )
        if self.step < 0 or self.call < 0 or (self.microbatch or 0) < 0:
            raise TensorIdError(
                "a tensor id counts below zero",
                where=self.module,
                got=f"step {self.step}, micro-batch {self.microbatch}, "
                f"call {self.call}",
                remedy="count steps, micro-batches and calls from 0",
            )
        # An id is the key of many tables, and its hash is asked for again and again.
        parts = (self.step, self.module, self.kind, self.microbatch, self.slot)
        object.__setattr__(self, "_hash", hash((*parts, self.call, self.pass_)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Callable[[str], "TensorId"], tuple[str]]:
        # As text: hashes of another process are other ones.
        return parse_tensor_id, (str(self),)

    @property
    def is_index(self) -> bool:
        """Part of the layout of other tensors, and not compared itself."""
        return self.slot == INDEX_SLOT

    def __str__(self) -> str:
        parts = [f"step{self.step}"]
        if self.microbatch is not None:
            parts.append(f"mb{self.microbatch}")
        parts += [self.module, self.kind.value]
        if self.slot is not None:
            parts.append(self.slot)
        if self.call:
            parts.append(f"call{self.call}")
        if self.pass_ is Pass.RECOMPUTE:
            parts.append("recompute")
        return "/".join(parts)

    def matches(self, pattern: str) -> bool:
        """Says whether the text form matches a shell pattern (``*`` spans ``/``)."""
        return fnmatch.fnmatchcase(str(self), pattern)


@functools.lru_cache(_KEPT_IDS)
def parse_tensor_id(text: str) -> TensorId:
    """Reads the text form of a tensor id back; equal texts give one and the same id.

    Raises:
        TensorIdError: The text is not of that form, or names no known kind.
    """
    match = _TEXT.fullmatch(text)
    if match is None or match["kind"] not in _KINDS:
        raise TensorIdError(
            "not a tensor id",
            expected="step<n>[/mb<n>]/<module>/<kind>[/<slot>][/call<n>][/recompute], "
            f"with a kind out of {', '.join(_KINDS)}",
            got=repr(text),
            remedy="copy an id from 'ttrace show' or from a report",
        )
    return TensorId(
        step=int(match["step"]),
        microbatch=None if match["microbatch"] is None else int(match["microbatch"]),
        module=match["module"],
        kind=_KINDS[match["kind"]],
        slot=match["slot"],
        call=int(match["call"] or 0),
        pass_=Pass.RECOMPUTE if match["recompute"] else Pass.FORWARD,
    )
