"""Patterns over tensor ids that say the same name on the two sides of a map.

A pattern is the text of a tensor id without step and micro-batch, with placeholders::

    model.layers.{i}.mlp/{kind}/0
    h_{i}.attn.c_attn/{kind}/kernel
    layers.mlp/output/0/call{i}

``{i}`` stands for a part of a name without ``.`` and ``/``, ``{path*}`` for a part that
may hold dots. ``{kind}`` stands for the kind. Step, micro-batch, pass, and the call
where the pattern names none, are carried over.

What an optimizer keeps of a parameter follows it: with kind ``optimizer_state`` the
slot ``weight`` also matches ``weight.exp_avg``, and the name of the state is carried
over.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ttrace.errors import MapError
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import Pass, TensorId

_KIND = "{kind}"
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(\*?)\}")
_PATTERN = re.compile(
    r"(?P<module>[^/\s]+)/(?P<kind>[a-z_]+|\{kind\})"
    r"(?:/(?!call[^/]*$)(?P<slot>[^/\s]+))?"
    r"(?:/call(?P<call>\d+|\{[A-Za-z_]\w*\}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a pattern leaves open, as one id fills it.

    Attributes:
        step: Of the id.
        microbatch: Of the id.
        pass_: Of the id.
        kind: What ``{kind}`` stands for; None where the pattern names the kind.
        call: Of the id; None where the pattern speaks of the call.
        state: Name of an optimizer's state behind the parameter's slot, or None.
        values: What each placeholder stands for, sorted by name.
    """

    step: int
    microbatch: int | None
    pass_: Pass
    kind: Kind | None
    call: int | None
    state: str | None
    values: tuple[tuple[str, str], ...]

    def value(self, name: str) -> str:
        """What a placeholder stands for."""
        return dict(self.values)[name]

    def without(self, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """The values of all placeholders but some."""
        left_out = set(names)
        return tuple(pair for pair in self.values if pair[0] not in left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamePattern:
    """A parsed pattern; ``str()`` of it is its text.

    Attributes:
        module: Template of the module path.
        kind: The kind, or None for ``{kind}``.
        slot: Template of the slot, or None where ids have none.
        call: Template of the call, or None to carry the call over.
    """

    module: str
    kind: Kind | None
    slot: str | None
    call: str | None

    def __str__(self) -> str:
        parts = [self.module, _KIND if self.kind is None else self.kind.value]
        if self.slot is not None:
            parts.append(self.slot)
        if self.call is not None:
            parts.append(f"call{self.call}")
        return "/".join(parts)

    @property
    def placeholders(self) -> frozenset[str]:
        """Names of the placeholders, without ``kind``."""
        templates = (self.module, self.slot or "", self.call or "")
        return frozenset(
            match[1] for text in templates for match in _PLACEHOLDER.finditer(text)
        )

    @property
    def num_literals(self) -> int:
        """How many letters of a name it says itself."""
        templates = (self.module, self.slot or "", self.call or "")
        return sum(len(_PLACEHOLDER.sub("", text)) for text in templates)

    def covers(self, other: "NamePattern") -> bool:
        """Whether it matches what another pattern does, as that is written."""
        return (
            self.kind in (None, other.kind)
            and (self.slot is None) == (other.slot is None)
            and self.call == other.call
            and _regex(f"{self.module}/{self.slot}", with_state=False).fullmatch(
                f"{other.module}/{other.slot}"
            )
            is not None
        )

    def match(self, tensor_id: TensorId) -> Binding | None:
        """What the placeholders stand for in an id, or None if it is another one."""
        if self.kind not in (None, tensor_id.kind) or tensor_id.is_index:
            return None
        template = self.module if self.slot is None else f"{self.module}/{self.slot}"
        call = None
        text = tensor_id.module
        if tensor_id.slot is not None:
            text += f"/{tensor_id.slot}"
        if self.call is not None:
            template += f" {self.call}"
            text += f" {tensor_id.call}"
        else:
            call = tensor_id.call
        state = None
        found = None
        if tensor_id.kind is Kind.OPTIMIZER_STATE and self.slot is not None:
            found = _regex(template, with_state=True).fullmatch(text)
            state = found["_state"] if found else None
        found = found or _regex(template, with_state=False).fullmatch(text)
        if found is None:
            return None
        values = {n: v for n, v in found.groupdict().items() if n != "_state"}
        return Binding(
            step=tensor_id.step,
            microbatch=tensor_id.microbatch,
            pass_=tensor_id.pass_,
            kind=tensor_id.kind if self.kind is None else None,
            call=call,
            state=state,
            values=tuple(sorted(values.items())),
        )

    def fill(self, binding: Binding) -> TensorId:
        """The id that a binding makes of the pattern.

        Raises:
            KeyError: The binding lacks a placeholder.
            TensorIdError: What comes out is no id.
        """
        values = dict(binding.values)

        def filled(template: str) -> str:
            return _PLACEHOLDER.sub(lambda match: values[match[1]], template)

        kind = self.kind if self.kind is not None else binding.kind
        assert kind is not None, "both sides name the kind, or neither"
        slot = None if self.slot is None else filled(self.slot)
        if binding.state is not None:
            slot = f"{slot}.{binding.state}"
        call = binding.call or 0 if self.call is None else int(filled(self.call))
        return TensorId(
            step=binding.step,
            microbatch=binding.microbatch,
            module=filled(self.module),
            kind=kind,
            slot=slot,
            call=call,
            pass_=binding.pass_,
        )


def parse_pattern(text: str, *, where: object = None) -> NamePattern:
    """Reads a pattern.

    Args:
        text: E.g. ``h.{i}.mlp/{kind}/0``.
        where: The place of the text, for errors.

    Raises:
        MapError: The text is no pattern.
    """
    match = _PATTERN.fullmatch(text)
    kinds = [kind.value for kind in Kind]
    if match is None or match["kind"] not in (_KIND, *kinds):
        raise MapError(
            "not a pattern of tensor ids",
            where=where,
            expected="<module>/<kind>[/<slot>][/call<n>] without step and micro-batch, "
            f"with {_KIND} or a kind out of {', '.join(kinds)}",
            got=repr(text),
            remedy="copy an id from 'ttrace show', leave step and mb out, and put "
            "placeholders such as {i} for what changes",
        )
    parts = (match["module"], match["slot"] or "", match["call"] or "")
    for part in parts:
        rest = _PLACEHOLDER.sub("", part)
        if "{" in rest or "}" in rest or "*" in rest or _KIND in part:
            raise MapError(
                "a placeholder of a pattern is malformed",
                where=where,
                expected="{name} for a part of a name, {name*} for one with dots, "
                f"{_KIND} in the place of the kind only",
                got=repr(text),
                remedy="name what changes, so that the other side can repeat it",
            )
    return NamePattern(
        module=match["module"],
        kind=None if match["kind"] == _KIND else Kind(match["kind"]),
        slot=match["slot"],
        call=match["call"],
    )


@functools.cache
def _regex(template: str, *, with_state: bool) -> re.Pattern:
    """A template as a regular expression; a name that comes again must agree."""
    pieces = []
    end = 0
    seen: set[str] = set()
    for match in _PLACEHOLDER.finditer(template):
        pieces.append(re.escape(template[end : match.start()]))
        name, wide = match[1], match[2]
        if name in seen:
            pieces.append(f"(?P={name})")
        else:
            pieces.append(f"(?P<{name}>{'[^/ ]+?' if wide else '[^./ ]+?'})")
        seen.add(name)
        end = match.end()
    pieces.append(re.escape(template[end:]))
    text = "".join(pieces)
    if with_state:
        slot, blank, call = text.partition(re.escape(" "))
        text = f"{slot}\\.(?P<_state>[^/ ]+){blank}{call}"
    return re.compile(text)
