"""Words of reasons for which tensors are left out, that are looked for again."""

SAME_CONTENT = "holds what"
"""Begins the reason of a tensor whose values a compared one has, too."""
