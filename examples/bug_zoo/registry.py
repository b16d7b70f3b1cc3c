"""Finds the bugs of the zoo: every module of these packages is one."""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ttrace.errors import UsageError
from ttrace.examples.bug_zoo.bug import Bug
from ttrace.examples.patches import HOOKS

PACKAGES = (
    "ttrace.examples.bug_zoo.huggingface_bugs",
    "ttrace.examples.bug_zoo.jax_bugs",
    "ttrace.examples.bug_zoo.megatron_bugs",
    "ttrace.examples.bug_zoo.plain_torch",
    "ttrace.examples.bug_zoo.torch_bugs",
)
"""Each module directly in them defines ``BUG``, and the functions of a patch.

They import frameworks in their functions only, so that listing needs none. What several
bugs share lies elsewhere: beside these packages, or in packages within them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """A bug and its file.

    Attributes:
        bug: What is known of it.
        path: The file that describes it, which is its patch as well.
        is_patch: Whether the file defines a function of a patch.
    """

    bug: Bug
    path: Path
    is_patch: bool


def load_zoo() -> tuple[Exhibit, ...]:
    """All bugs, by name."""
    exhibits = [
        _load(f"{package}.{info.name}")
        for package in PACKAGES
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__)
        if not info.ispkg
    ]
    exhibits.sort(key=lambda exhibit: exhibit.bug.name)
    names = [exhibit.bug.name for exhibit in exhibits]
    if len(set(names)) < len(names):
        raise ValueError(f"two bugs of one name: {names}")
    return tuple(exhibits)


def select_bugs(names: Sequence[str]) -> tuple[Exhibit, ...]:
    """The bugs of these names; all, if there are none.

    Raises:
        UsageError: There is no bug of that name.
    """
    zoo = {exhibit.bug.name: exhibit for exhibit in load_zoo()}
    for name in names:
        if name not in zoo:
            raise UsageError(
                "there is no such bug in the zoo",
                where=name,
                expected=f"one of {', '.join(zoo)}",
                remedy="see 'ttrace zoo list'",
            )
    return tuple(zoo[name] for name in dict.fromkeys(names or zoo))


def _load(module_name: str) -> Exhibit:
    module = importlib.import_module(module_name)
    bug = getattr(module, "BUG", None)
    stem = module_name.rpartition(".")[2]
    if not isinstance(bug, Bug) or bug.name != stem or module.__file__ is None:
        raise ValueError(f"{module_name} does not define a BUG named {stem}")
    return Exhibit(
        bug=bug,
        path=Path(module.__file__),
        is_patch=any(callable(getattr(module, hook, None)) for hook in HOOKS),
    )
