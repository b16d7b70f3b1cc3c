"""All formats of a report as parameters of tests; skipped where it cannot be."""

import importlib.util

import pytest

from ttrace.report.renderers import RENDERERS


def _is_there(name: str) -> bool:
    needs = RENDERERS[name].needs
    return not needs or any(map(importlib.util.find_spec, needs))


FORMATS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not _is_there(name), reason=f"needs {' or '.join(RENDERERS[name].needs)}"
        ),
    )
    for name in RENDERERS
]
