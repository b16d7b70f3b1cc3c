"""What importing ttrace loads, found out in a fresh interpreter."""

import importlib
import subprocess
import sys

import pytest

from ttrace.errors import TtraceError
from ttrace.ir.kinds import Kind
from ttrace.ir.tensor_id import TensorId, parse_tensor_id

HEAVY = {"jax", "jaxlib", "torch", "flax", "megatron", "numpy", "rich", "jinja2"}

CORE = (
    "ttrace.pipeline",
    "ttrace.cli.check_command",
    "ttrace.cli.compare_command",
    "ttrace.testing",
    "ttrace.generate",
)


def loaded_by(statement: str) -> set[str]:
    """The heavy packages that are loaded once a statement has run."""
    probe = (
        f"import sys\n{statement}\nprint('loaded:', *({HEAVY} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "statement",
    [
        "import ttrace",
        "import ttrace; ttrace.__version__, ttrace.compare, dir(ttrace)",
        "import ttrace.cli.main",
        "from ttrace.cli.main import main; main(['--help'])",
        "from ttrace.cli.main import main; main(['check', '--help'])",
        "from ttrace.recording.request import request_from_environment",
    ],
)
def test_the_light_parts_load_nothing(statement):
    assert loaded_by(statement) == set()


@pytest.mark.parametrize("module", CORE)
def test_the_core_loads_no_framework(module):
    assert loaded_by(f"import {module}") <= {"numpy", "rich"}


def test_torch_ranks_never_load_jax():
    pytest.importorskip("torch")
    loaded = loaded_by("import torch, ttrace.store.writer, ttrace.recording.request")
    assert "torch" in loaded and "jax" not in loaded


def test_the_probe_can_fail():
    assert loaded_by("import numpy, rich") == {"numpy", "rich"}


def test_what_the_package_offers():
    ttrace = importlib.import_module("ttrace")  # not hidden by .typings, for pyright
    assert ttrace.TtraceError is TtraceError
    assert (ttrace.TensorId, ttrace.Kind) == (TensorId, Kind)
    assert ttrace.parse_tensor_id is parse_tensor_id
