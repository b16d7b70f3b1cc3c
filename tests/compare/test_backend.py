"""The lazy table of backends."""

import importlib.util

import pytest

from ttrace.compare.backend import BACKEND_NAMES, load_backend
from ttrace.errors import MissingExtraError, UsageError


@pytest.fixture
def without_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def find(name: str, package: str | None = None):
        return None if name == "jax" else find_spec(name, package)

    monkeypatch.setattr("importlib.util.find_spec", find)


@pytest.mark.parametrize("name", ["cpu", "numpy", "jax"])
def test_every_backend_has_the_name_it_is_loaded_by(name: str) -> None:
    assert name in BACKEND_NAMES
    assert load_backend(name).name == name


def test_auto_is_jax_where_it_is_installed() -> None:
    assert load_backend().name == load_backend("auto").name == "jax"


@pytest.mark.usefixtures("without_jax")
def test_auto_without_jax() -> None:
    assert load_backend("auto").name == "cpu"


@pytest.mark.usefixtures("without_jax")
def test_missing_extra_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError) as raised:
        load_backend("jax")
    assert str(raised.value) == (
        "the jax backend needs jax, which is not installed\n"
        "  to do:    pip install jax, or choose --backend cpu (backend=)"
    )


def test_unknown_name() -> None:
    with pytest.raises(UsageError) as raised:
        load_backend("cupy")
    assert str(raised.value) == (
        "unknown backend\n"
        "  expected: one of auto, cpu, numpy, jax\n"
        "  got:      'cupy'\n"
        "  to do:    choose one of these with --backend (backend=)"
    )
