"""Settings and versions of two runs, as far as they are not the same."""

from collections.abc import Mapping


def differing_settings(
    reference: Mapping[str, object], candidate: Mapping[str, object]
) -> dict[str, tuple[object, object]]:
    """The settings that are not the same in both runs, with both values."""
    names = dict.fromkeys((*reference, *candidate))
    pairs = {name: (reference.get(name), candidate.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
