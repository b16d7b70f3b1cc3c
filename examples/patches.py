"""``--patch FILE.py``: code that changes a run while it is built, e.g. to plant a bug.

Nothing undoes what a patch does: it belongs into a process of its own.
"""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ttrace.errors import UsageError

HOOKS = {
    "before_build": "before_build(args)",
    "after_build": "after_build(args, models)",
    "after_wrap": "after_wrap(args, layout, models, optimizer)",
    "after_training": "after_training(args, models)",
}
"""The functions that a patch may define, and what each is given.

The layout is the place of this rank in the run, Megatron's configuration in its
example; the optimizer a list of them where the example may have several.
"""


class Patch:
    """The functions of patch files; without a file every call does nothing.

    Args:
        paths: The files, in the order in which they are applied.

    Raises:
        UsageError: A file does not exist, or defines none of the functions.
    """

    def __init__(self, paths: Sequence[Path]):
        self._modules = [_load(path) for path in paths]

    def call(self, hook: str, *args: object) -> None:
        """Calls this function of every file that defines it."""
        for module in self._modules:
            function = getattr(module, hook, None)
            if function is not None:
                function(*args)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ttrace_patch_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(
            "there is no such patch",
            where="--patch",
            expected="a Python file",
            got=path,
            remedy="correct the path",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    if not any(callable(getattr(module, hook, None)) for hook in HOOKS):
        raise UsageError(
            "the patch defines no function that would be called",
            where=path,
            expected=f"one or more of {', '.join(HOOKS.values())}",
            remedy="rename its functions",
        )
    return module
