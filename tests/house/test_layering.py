"""Who may import whom: read from the sources, not from what happens to be loaded."""

import ast
import graphlib
import sys
from collections.abc import Iterator

import pytest

from tests.paths import ROOT

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "ir": {"errors"},
    "generate": {"ir"},
    "testing": {"report"},
    "store": {"ir"},
    "recording": {"store"},
    "compare": {"recording"},
    "checkpoints": {"recording"},
    "launch": {"recording"},
    "mapping": {"compare"},
    "judge": {"compare"},
    "map_proposal": {"mapping"},
    "report": {"judge", "mapping"},
    "lining_up": {"mapping"},
    "comparison": {"report", "lining_up"},
    "isolation": {"comparison", "launch"},
    "pipeline": {"comparison", "launch", "checkpoints", "map_proposal"},
    "reports": {"pipeline"},
    "check_request": {"pipeline"},
    "localize_job": {"pipeline", "isolation"},
    "check_job": {"check_request", "localize_job"},
    "guard": {"check_job", "generate"},
    "pytest_plugin": {"guard"},
    "check_plan": {"check_job"},
    "cli": {"check_plan", "reports"},
    "__main__": {"cli"},
    "frontends": {"recording", "generate", "mapping", "checkpoints"},
    "backends": {"compare"},
}
"""The packages and what each is built on: it may import that, and all that is below."""

CORE = MAY_IMPORT.keys() - {"frontends", "backends"}
"""Packages that know no framework."""

CORE_PACKAGES = {
    "absl",
    "cachetools",
    "jinja2",
    "markupsafe",
    "psutil",
    "ml_dtypes",
    "numpy",
    "rich",
    "safetensors",
    "xxhash",
}
"""Third-party packages that the core may import at module level."""

ALSO = {
    "ttrace.pytest_plugin": {"pytest"},
    "ttrace.report.trackers.tensorboard_log": {"tensorboard"},
    "ttrace.report.trackers.wandb_log": {"wandb"},
    "ttrace.report.trackers.mlflow_log": {"mlflow"},
}
"""What a module may import beside them: pytest has loaded its plugins' own imports.
Trackers are extras, imported where an option asks for them.
"""


def module_level_imports(source: str) -> Iterator[str]:
    """Names of the modules that importing this source imports, as far as it tells.

    Of ``from a import b`` both ``a`` and ``a.b``, as the latter may be a module.
    """
    pending: list[ast.AST] = list(ast.parse(source).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, "no relative imports"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)


def read_modules() -> dict[str, str]:
    """Sources by the name under which they are installed."""
    folders = {"ttrace": "ttrace"} | {
        name: f"ttrace.{name}" for name in ("frontends", "backends", "examples")
    }
    modules = {}
    for folder, package in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *(p for p in parts if p != "__init__")))
            modules[name] = path.read_text(encoding="utf-8")
    return modules


MODULES = read_modules()

IMPORTS = {
    name: set(module_level_imports(source)) - {name} for name, source in MODULES.items()
}


def package_of(module: str) -> str:
    """``ttrace.ir.layout`` -> ``ir``; the package itself has none."""
    return module.split(".")[1] if "." in module else ""


def own_imports(module: str) -> set[str]:
    return IMPORTS[module] & MODULES.keys()


def in_packages(*packages: str) -> list[str]:
    return sorted(module for module in MODULES if package_of(module) in packages)


def below(package: str) -> set[str]:
    """A package and everything that it is built on."""
    return {package}.union(*map(below, MAY_IMPORT[package]))


def folder_of(module: str) -> str:
    """The folder that a module lies in; files on top of ttrace stand for themselves."""
    is_folder = any(name.startswith(f"{module}.") for name in MODULES)
    return module if is_folder or module.count(".") == 1 else module.rpartition(".")[0]


def test_every_package_has_its_place():
    found = {package_of(module) for module in MODULES}
    assert found == {"", "examples"} | MAY_IMPORT.keys()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_is_built_on(package):
    for module in in_packages(package):
        packages = {package_of(imported) for imported in own_imports(module)}
        assert packages - {""} <= below(package), f"{module} imports {packages}"


def test_no_circle_of_folders():
    """Two folders that import each other are one folder; those on top see below."""
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        here = folder_of(module)
        for imported in own_imports(module):
            there = folder_of(imported)
            if here != there:
                graph.setdefault(here, set()).add(there)
    list(graphlib.TopologicalSorter(graph).static_order())


TOP = "ttrace.frontends"


def test_parts_of_a_frontend_never_import_the_top():
    for module in in_packages("frontends"):
        if module.count(".") == 2:
            continue  # what users import
        tops = {name for name in own_imports(module) if folder_of(name) == TOP} - {TOP}
        assert not tops, f"{module} imports {tops}"


@pytest.mark.parametrize("module", in_packages("", *sorted(CORE)))
def test_the_core_needs_no_framework(module):
    allowed = CORE_PACKAGES | ALSO.get(module, set())
    packages = {imported.split(".")[0] for imported in IMPORTS[module]}
    foreign = packages - set(sys.stdlib_module_names) - {"ttrace"}
    assert foreign <= allowed


def test_no_circles():
    graph = {module: own_imports(module) for module in MODULES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


def test_the_reader_of_imports_sees_what_it_should():
    source = """
import a.b
from c import d as e
if True:
    import f
class X:
    import g
def later():
    import h
async def much_later():
    from i import j
"""
    assert set(module_level_imports(source)) == {"a.b", "c", "c.d", "f", "g"}
    with pytest.raises(AssertionError, match="no relative imports"):
        list(module_level_imports("from . import x"))
    assert "ttrace.ir.layout" in IMPORTS["ttrace.compare.covers"]
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
