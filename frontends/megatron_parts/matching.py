"""Which classes a module is of, by name, so that optional packages need not exist."""

import fnmatch


def is_a(module: object, *patterns: str) -> bool:
    """Whether the class of a module, or a base of it, has a name out of these patterns.

    Args:
        module: The module, or a part of it that is none itself.
        patterns: Shell patterns over class names, without package; one text may hold
            several, separated by ``|``.
    """
    return any(
        matches(class_.__name__, pattern)
        for class_ in type(module).__mro__
        for pattern in patterns
    )


def matches(text: str, alternatives: str) -> bool:
    """Whether a text matches one of several shell patterns, separated by ``|``."""
    return any(
        fnmatch.fnmatchcase(text, pattern) for pattern in alternatives.split("|")
    )
