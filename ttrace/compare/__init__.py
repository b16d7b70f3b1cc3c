"""Numbers of two runs, tensor by tensor; knows nothing of verdicts.

``ttrace.compare(reference, candidate)`` is ``ttrace.pipeline.compare``. Python sets an
imported package as an attribute of its parent, so the name can only be this package:
called, it calls that function.
"""

import importlib
import sys
import types
from typing import Any


class _CallablePackage(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compares two recorded runs; see ``ttrace.pipeline.compare``."""
        return importlib.import_module("ttrace.pipeline").compare(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
