"""What holds for every test: JAX on eight CPU devices, one flag for golden files."""

import os
from pathlib import Path

import pytest

# Before anything imports jax: it reads these once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # No fused multiply-add: which ones XLA makes depends on what else a program hands
    # out, and programs are compared bit by bit here.
    "--xla_cpu_max_isa=AVX",
)
for _flag in _FLAGS:
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()


def pytest_addoption(parser):
    parser.addoption(
        "--regenerate-golden",
        action="store_true",
        help="write the files under tests/golden anew; read the diff before committing",
    )


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
