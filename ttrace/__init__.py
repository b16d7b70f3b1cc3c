"""Tells whether two training runs compute the same thing, and where they differ.

Everything that the command line does is a function here: ``compare``, ``check``,
``estimate_tolerance``, ``replicas``, ``lint``, ``open_trace``, ``load_report``,
``diff_reports``, ``judge_again``, ``localize``; see ``ttrace.pipeline``,
``ttrace.reports``, ``ttrace.check_job`` and ``ttrace.localize_job``. Importing ttrace
imports none of it, and no numpy.
"""

import importlib
from typing import TYPE_CHECKING

from ttrace.errors import TtraceError as TtraceError
from ttrace.ir.kinds import Kind as Kind
from ttrace.ir.tensor_id import Pass as Pass
from ttrace.ir.tensor_id import TensorId as TensorId
from ttrace.ir.tensor_id import parse_tensor_id as parse_tensor_id

if TYPE_CHECKING:
    from ttrace.backends.live_arrays import compare_arrays as compare_arrays
    from ttrace.check_job import check as check
    from ttrace.judge.tolerances.tolerance import ToleranceTable as ToleranceTable
    from ttrace.localize_job import localize as localize
    from ttrace.pipeline import compare as compare
    from ttrace.pipeline import estimate_tolerance as estimate_tolerance
    from ttrace.pipeline import lint as lint
    from ttrace.pipeline import load_report as load_report
    from ttrace.pipeline import open_trace as open_trace
    from ttrace.pipeline import replicas as replicas
    from ttrace.report.model import Report as Report
    from ttrace.reports import diff_reports as diff_reports
    from ttrace.reports import judge_again as judge_again

    __version__: str

_LAZY = {
    "Report": "ttrace.report.model",
    "ToleranceTable": "ttrace.judge.tolerances.tolerance",
    "check": "ttrace.check_job",
    "compare_arrays": "ttrace.backends.live_arrays",
    "diff_reports": "ttrace.reports",
    "estimate_tolerance": "ttrace.pipeline",
    "lint": "ttrace.pipeline",
    "judge_again": "ttrace.reports",
    "load_report": "ttrace.pipeline",
    "localize": "ttrace.localize_job",
    "open_trace": "ttrace.pipeline",
    "replicas": "ttrace.pipeline",
    "tap": "ttrace.frontends.jax_capture",
}
"""Name -> the module that it is imported from when it is asked for.

``tap`` and ``compare_arrays`` are for programs of JAX. ``compare`` is not here: the
package of that name is itself what is called, see ``ttrace/compare/__init__.py``.
"""


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "compare":
        return importlib.import_module("ttrace.compare")
    if name == "__version__":
        from importlib.metadata import version  # 10 ms that only this needs

        return version("ttrace")
    raise AttributeError(f"module 'ttrace' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "compare", "__version__"})
