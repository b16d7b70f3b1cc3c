"""Rates of dropout that two runs state and have otherwise."""

from dataclasses import dataclass

from ttrace.ir.dropout import (
    dropout_key,
    effective,
    of_all_layers,
    parse_dropout_key,
    rate_of,
    stated_rates,
)
from ttrace.ir.tensor_id import ROOT_MODULE
from ttrace.ir.trace import TraceInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutDifference:
    """Modules whose rates differ alike.

    Attributes:
        modules: Their paths; layers that all do are one path, with ``*``.
        attribute: Of the modules, that holds the rate; None for those that only drop.
        reference: The rate of the reference, as text.
        candidate: That of the candidate.
    """

    modules: tuple[str, ...]
    attribute: str | None
    reference: str
    candidate: str

    @property
    def label(self) -> str:
        """``dropout p of attn.drop and 2 more modules``."""
        more = len(self.modules) - 1
        rest = f" and {more} more module{'s' * (more > 1)}" if more else ""
        return f"dropout {self.attribute or 'p'} of {self.modules[0]}{rest}"

    @property
    def sentence(self) -> str:
        """``dropout p of attn.drop: 0.1 in the reference, 0.2 in the candidate``."""
        return (
            f"{self.label}: {self.reference} in the reference, {self.candidate} in the "
            "candidate"
        )

    def is_within(self, module: str) -> bool:
        """Whether one of them is, or lies within, a module."""
        if module == ROOT_MODULE:
            return True
        parts = module.split(".")
        return any(
            len(path) >= len(parts)
            and all(a in (b, "*") for a, b in zip(path, parts, strict=False))
            for path in (name.split(".") for name in self.modules)
        )


def rates_inside(
    module: str, reference: TraceInfo, candidate: TraceInfo
) -> tuple[str, ...]:
    """``attention_dropout 0.1``: at what a module drops in both runs, inside of it.

    Only rates that are not zero, and the same.

    Args:
        module: Its path.
        reference: The trusted run.
        candidate: The run under test.
    """
    theirs = stated_rates(rank.settings for rank in reference.ranks)
    ours = stated_rates(rank.settings for rank in candidate.ranks)
    found = []
    for key in dict.fromkeys((*theirs, *ours)):
        parsed = parse_dropout_key(key)
        if parsed is None or parsed[1] is None:
            continue
        own = dropout_key(module, parsed[1])
        rates = {rate_of(own, theirs), rate_of(own, ours)}
        if key in (own, of_all_layers(own)) and len(rates) == 1:
            (rate,) = rates
            if rate is not None and effective(rate) != "0":
                found.append(f"{parsed[1]} {rate}")
    return tuple(dict.fromkeys(found))


def dropout_differences(
    reference: TraceInfo, candidate: TraceInfo
) -> tuple[DropoutDifference, ...]:
    """What both state, and have otherwise; zero is zero, whatever makes it so.

    Args:
        reference: The trusted run.
        candidate: The run under test.
    """
    theirs = stated_rates(rank.settings for rank in reference.ranks)
    ours = stated_rates(rank.settings for rank in candidate.ranks)
    groups: dict[tuple[str | None, str, str], list[str]] = {}
    for key in dict.fromkeys((*theirs, *ours)):
        pair = rate_of(key, theirs), rate_of(key, ours)
        parsed = parse_dropout_key(key)
        if pair[0] is None or pair[1] is None or parsed is None:
            continue
        if effective(pair[0]) != effective(pair[1]):
            module, attribute = parsed
            groups.setdefault((attribute, pair[0], pair[1]), []).append(module)
    return tuple(
        DropoutDifference(
            modules=tuple(modules),
            attribute=attribute,
            reference=of_reference,
            candidate=of_candidate,
        )
        for (attribute, of_reference, of_candidate), modules in groups.items()
    )
