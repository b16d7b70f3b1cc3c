"""Words of reasons for which tensors are left out, that are looked for again."""

IGNORED = "ignored by the map"
"""Begins the reason of a tensor that a map leaves out; behind it comes the map's."""

SAME_CONTENT = "holds what"
"""Begins the reason of a tensor whose values a compared one has, too."""
