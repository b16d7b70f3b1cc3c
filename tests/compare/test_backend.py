"""The lazy table of backends."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

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


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of jax's plug-ins, empty; nothing else hints at an accelerator."""
    find_spec = importlib.util.find_spec
    spec = ModuleSpec("jax_plugins", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "gone"), str(tmp_path)]
    found = {"libtpu": None, "jax_plugins": spec}

    def find(name: str, package: str | None = None):
        return found[name] if name in found else find_spec(name, package)

    monkeypatch.setattr("importlib.util.find_spec", find)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return tmp_path


def test_auto_on_a_machine_with_nothing_but_processors(plugins: Path) -> None:
    (plugins / "__pycache__").mkdir()
    assert load_backend().name == load_backend("auto").name == "cpu"


def test_auto_where_jax_has_an_accelerator(
    plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plugins / "xla_cuda12").mkdir()
    assert load_backend("auto").name == "jax"
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert load_backend("auto").name == "cpu"


@pytest.mark.usefixtures("without_jax")
def test_auto_without_jax() -> None:
    assert load_backend("auto").name == "cpu"


@pytest.mark.usefixtures("without_jax")
def test_missing_extra_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError) as raised:
        load_backend("jax")
    assert str(raised.value) == (
        "the jax backend needs jax, which is not installed\n"
        "  to do:    pip install jax, or choose --backend numpy (backend=)"
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
