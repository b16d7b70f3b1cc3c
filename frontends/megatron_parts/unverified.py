"""Modules whose layout rules have not been verified on a run."""

from collections.abc import Iterable

import torch
from absl import logging

_PACKAGES = ("transformer_engine", "megatron.core.extensions.transformer_engine")
"""They need a GPU; so do the grouped matrix products."""

_GROUPED = ("GroupedMLP", "TEGroupedMLP")


def unverified_classes(modules: Iterable[torch.nn.Module]) -> list[str]:
    """Names of the classes among some modules of which this is so."""
    classes = {type(module) for module in modules}
    return sorted(class_.__name__ for class_ in classes if _is_unverified(class_))


def warn_of_unverified(modules: Iterable[torch.nn.Module]) -> None:
    """Says so once, in the log of the run."""
    names = unverified_classes(modules)
    if names:
        logging.warning(
            "ttrace: the layouts of %s follow from what Megatron documents; they have "
            "not been verified on a run. What they do not fit is skipped with the "
            "reason; if a correct run diverges there first, give trace() rules of your "
            "own.",
            ", ".join(names),
        )


def _is_unverified(class_: type) -> bool:
    return any(
        base.__name__ in _GROUPED
        or base.__module__ in _PACKAGES
        or base.__module__.startswith(tuple(f"{package}." for package in _PACKAGES))
        for base in class_.__mro__
    )
