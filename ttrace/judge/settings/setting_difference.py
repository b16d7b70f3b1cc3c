"""A setting of modules that two runs state and have otherwise."""

from collections.abc import Iterable
from dataclasses import dataclass

from ttrace.ir.tensor_id import ROOT_MODULE


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDifference:
    """Modules whose setting differs alike.

    Attributes:
        modules: Their paths; layers that all do are one path, with ``*``.
        name: Of the setting, e.g. ``momentum`` or ``dropout p``.
        reference: What the reference has, as text.
        candidate: What the candidate has.
    """

    modules: tuple[str, ...]
    name: str
    reference: str
    candidate: str

    @property
    def label(self) -> str:
        """``momentum of blocks.0.bn and 8 more modules``."""
        more = len(self.modules) - 1
        rest = f" and {more} more module{'s' * (more > 1)}" if more else ""
        return f"{self.name} of {self.modules[0]}{rest}"

    @property
    def sentence(self) -> str:
        """``eps of norm: 1e-05 in the reference, 1e-06 in the candidate``."""
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

    def has(self, module: str) -> bool:
        """Whether a module is one of them."""
        return (
            module != ROOT_MODULE
            and self.is_within(module)
            and any(name.count(".") == module.count(".") for name in self.modules)
        )


def grouped(
    found: Iterable[tuple[str, str, str, str]],
) -> tuple[SettingDifference, ...]:
    """One difference for all modules that differ alike.

    Args:
        found: Module, name of the setting, and what either run has, of each.
    """
    groups: dict[tuple[str, str, str], list[str]] = {}
    for module, *rest in found:
        name, reference, candidate = rest
        groups.setdefault((name, reference, candidate), []).append(module)
    return tuple(
        SettingDifference(
            modules=tuple(modules),
            name=name,
            reference=reference,
            candidate=candidate,
        )
        for (name, reference, candidate), modules in groups.items()
    )
