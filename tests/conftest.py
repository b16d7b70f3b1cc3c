"""What holds for every test: JAX on CPU devices, markers, a flag for golden files."""

import atexit
import functools
import gc
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.paths import ROOT

# Before anything imports jax: it reads these once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # No fused multiply-add: which ones XLA makes depends on what else a program hands
    # out, and programs are compared bit by bit here.
    "--xla_cpu_max_isa=AVX",
    # Programs run for milliseconds here, and compiling them takes seconds.
    "--xla_backend_optimization_level=0",
)
for _flag in _FLAGS:
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Each program is compiled once for all processes of this session: a training runs
    # as reference, as candidate and with noise, mostly the same program each time.
    _cache = tempfile.mkdtemp(prefix="ttrace-tests-jax-")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": _cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def pytest_addoption(parser):
    parser.addoption(
        "--regenerate-golden",
        action="store_true",
        help="write the files under tests/golden anew; read the diff before committing",
    )


_MARKED_BY_IMPORT = {
    "megatron": re.compile(
        r"importorskip\(.megatron|frontends[. ].*megatron_|examples[. ].*megatron_"
        r"|\bmegatron\.core|layout_matrix|factories\.layout_recordings"
    ),
    "jax": re.compile(
        r"^\s*(import|from) (jax|flax|optax|equinox|orbax)\b|frontends[. ].*jax_"
        r"|backends[. ].*jax_|examples[. ].*jax_|factories\.jax_",
        re.MULTILINE,
    ),
    "slow": re.compile(
        r"\b(pools|WorkerPools?|MainJob|Recordings|run_bug|JaxProcesses|torchrun)\b"
        r"|factories\.(layout_recordings|jax_processes|training_commands)"
    ),
}
"""By marker: what in a test file says that it needs that framework, or that it starts
the processes of a training."""

_MARKED_BY_PLACE = {
    "megatron": ("frontends/megatron/", "examples/test_demo.py"),
    "jax": ("frontends/jax/",),
    "slow": (
        "benchmarks/",
        "examples/test_demo.py",
        "house/test_packaging.py",
        "house/test_readme.py",
    ),
}
"""By marker: folders and files, from tests/, all tests of which bear it."""


@functools.cache
def _markers_of_file(path: Path) -> tuple[str, ...]:
    place = path.relative_to(Path(__file__).parent).as_posix()
    text = path.read_text(encoding="utf-8")
    return tuple(
        marker
        for marker, pattern in _MARKED_BY_IMPORT.items()
        if pattern.search(text) or place.startswith(_MARKED_BY_PLACE[marker])
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Looks for no garbage while it collects, nor in what it collected afterwards.

    A million objects of tests and frameworks are there to stay, and every full search
    for garbage would go through all of them.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Marks tests by where they lie and what their file imports; slow files first.

    Of two processes that take one file after another none is left with a long one then.
    """
    for item in items:
        for marker in _markers_of_file(item.path):
            item.add_marker(marker)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _no_request_is_left_behind():
    """Whatever a test puts into the environment for a frontend, it takes out again."""
    before = os.environ.get("TTRACE_RECORD")
    yield
    after = os.environ.pop("TTRACE_RECORD", None)
    if before is not None:
        os.environ["TTRACE_RECORD"] = before
    assert after == before, "a request to record is left in the environment"


@pytest.fixture(autouse=True)
def _no_diagnosis_fails():
    """Users get a warning and their verdict; a test fails."""

    def fail(find, error):
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttrace.judge.reading.own_faults.warn_of_fault", fail)
        yield


@pytest.fixture(scope="module")
def pools():
    """Processes that train, which the tests of a file share: starting takes seconds.

    They can import tests.factories. Other files have others: what a training changes in
    its process, as Megatron's stand-ins for GPU calls, stays there.
    """
    from ttrace.examples.worker_pool import WorkerPools

    with WorkerPools(environment={"PYTHONPATH": str(ROOT)}) as pools:
        yield pools


@pytest.fixture
def golden(request):
    """A function that compares a text with a file under tests/golden."""

    def check(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--regenerate-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), (
            f"{path} differs; if that is meant, run pytest --regenerate-golden"
        )

    return check


@pytest.fixture
def ttrace(capsys):
    """Runs the command line: ``answer = ttrace("compare", reference, candidate)``."""
    from tests.factories.command_line import CommandLine

    return CommandLine(capsys)
