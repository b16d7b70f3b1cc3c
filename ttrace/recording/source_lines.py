"""Lines of programs, as they are recorded: short, and alike wherever they run."""

import os
import sys
from collections.abc import Collection

_WRAPPERS = frozenset({"typing_extensions", "wrapt", "decorator"})
"""Packages whose decorators stand around functions of others."""

_EXAMPLES = "ttrace.examples"
"""Scripts, though they lie in our own package."""


def is_of_script(module: str, file: str, libraries: Collection[str]) -> bool:
    """Whether code is somebody's own, and neither a library's nor Python's.

    Args:
        module: Name of the Python module that it is in.
        file: Its file.
        libraries: Packages of the framework and around it.
    """
    if is_of_library(module, libraries):
        return False
    package = module.partition(".")[0]
    return not file.startswith("<") and (
        package not in sys.stdlib_module_names | _WRAPPERS
    )


def is_of_library(
    module: str, libraries: Collection[str], plumbing: Collection[str] = ()
) -> bool:
    """Whether code is a library's that says something of why it runs.

    Args:
        module: Name of the Python module that it is in.
        libraries: As in ``is_of_script``.
        plumbing: Modules of libraries that say nothing.
    """
    package = module.partition(".")[0]
    if package not in libraries or module.startswith(_EXAMPLES):
        return False
    return not any(module == one or module.startswith(f"{one}.") for one in plumbing)


def short_line(module: str, file: str, line: int) -> str:
    """``train.py:88`` or ``flax/linen/linear.py:287``.

    Args:
        module: Name of the Python module that it is in.
        file: Its file.
        line: Its number.
    """
    package = module.partition(".")[0]
    parts = file.replace(os.sep, "/").split("/")
    if package in parts and "." in module:
        last = len(parts) - 1 - parts[::-1].index(package)
        file = "/".join(parts[last:])
    else:
        folder = os.path.join(os.getcwd(), "")
        file = file.removeprefix(folder)
        if os.path.isabs(file):
            file = "/".join(parts[-2:])
    return f"{file}:{line}"
