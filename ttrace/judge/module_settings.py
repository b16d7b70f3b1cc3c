"""What modules of two runs are configured with, as far as it is not the same."""

from dataclasses import dataclass

from ttrace.ir.module_settings import parse_module_key, stated_of_modules, text_of
from ttrace.ir.trace import TraceInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleDifference:
    """Modules whose setting differs alike.

    Attributes:
        modules: Their paths; where all layers are alike, one path with ``*``.
        attribute: Name of the setting.
        reference: What the reference has, as text.
        candidate: What the candidate has.
    """

    modules: tuple[str, ...]
    attribute: str
    reference: str
    candidate: str

    @property
    def label(self) -> str:
        """``momentum of blocks.0.bn and 8 more modules``."""
        more = len(self.modules) - 1
        rest = f" and {more} more module{'s' * (more > 1)}" if more else ""
        return f"{self.attribute} of {self.modules[0]}{rest}"

    @property
    def sentence(self) -> str:
        """``eps of norm: 1e-05 in the reference, 1e-06 in the candidate``."""
        return (
            f"{self.label}: {self.reference} in the reference, {self.candidate} in the "
            "candidate"
        )

    def is_within(self, module: str) -> bool:
        """Whether one of them is a module, or lies within it."""
        parts = module.split(".")
        return any(
            len(path) >= len(parts)
            and all(a in (b, "*") for a, b in zip(path, parts, strict=False))
            for path in (name.split(".") for name in self.modules)
        )

    def has(self, module: str) -> bool:
        """Whether a module is one of them."""
        return self.is_within(module) and any(
            name.count(".") == module.count(".") for name in self.modules
        )


def module_differences(
    reference: TraceInfo, candidate: TraceInfo
) -> tuple[ModuleDifference, ...]:
    """What both state of a module, and have otherwise.

    Args:
        reference: The trusted run.
        candidate: The run under test.
    """
    theirs = stated_of_modules(rank.settings for rank in reference.ranks)
    ours = stated_of_modules(rank.settings for rank in candidate.ranks)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for key in dict.fromkeys((*theirs, *ours)):
        pair = text_of(key, theirs), text_of(key, ours)
        parsed = parse_module_key(key)
        if None in pair or parsed is None or pair[0] == pair[1]:
            continue
        module, attribute = parsed
        groups.setdefault((attribute, str(pair[0]), str(pair[1])), []).append(module)
    return tuple(
        ModuleDifference(
            modules=tuple(modules),
            attribute=attribute,
            reference=of_reference,
            candidate=of_candidate,
        )
        for (attribute, of_reference, of_candidate), modules in groups.items()
    )
