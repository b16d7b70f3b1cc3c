"""Who may import whom: read from the sources, not from what happens to be loaded."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = (
    "errors",
    "ir",
    "generate",
    "testing",
    "store",
    "run",
    "checkpoints",
    "compare",
    "mapping",
    "judge",
    "report",
    "stages",
    "cli",
)
"""The rooms of the core, lowest first; a room imports from itself and from below."""

ALLOWED = {
    "frontends": {
        "errors",
        "ir",
        "generate",
        "store",
        "run",
        "checkpoints",
        "mapping",
        "frontends",
    },
    "backends": {"errors", "ir", "compare", "backends"},
}
"""What the rooms beside the core may import at module level."""

CORE_PACKAGES = {"absl", "ml_dtypes", "numpy", "rich", "safetensors", "xxhash"}
"""Third-party packages that the core may import at module level."""


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


def room_of(module: str) -> str:
    """``ttrace.ir.layout`` -> ``ir``; the package itself has none."""
    return module.split(".")[1] if "." in module else ""


def own_imports(module: str) -> set[str]:
    return IMPORTS[module] & MODULES.keys()


def in_rooms(*rooms: str) -> list[str]:
    return sorted(module for module in MODULES if room_of(module) in rooms)


def test_every_room_has_its_floor():
    beside = {"", "frontends", "backends", "examples"}
    assert {room_of(module) for module in MODULES} == beside | set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_imports_from_itself_and_from_below(room):
    allowed = set(FLOORS[: FLOORS.index(room) + 1])
    for module in in_rooms(room):
        rooms = {room_of(imported) for imported in own_imports(module)}
        assert rooms <= allowed, f"{module} imports {rooms - allowed}"


@pytest.mark.parametrize("room", ALLOWED)
def test_frontends_and_backends_stand_beside_each_other(room):
    for module in in_rooms(room):
        rooms = {room_of(imported) for imported in own_imports(module)}
        assert rooms <= ALLOWED[room], f"{module} imports {rooms - ALLOWED[room]}"


@pytest.mark.parametrize("module", in_rooms("", *FLOORS))
def test_the_core_needs_no_framework(module):
    packages = {imported.split(".")[0] for imported in IMPORTS[module]}
    foreign = packages - set(sys.stdlib_module_names) - {"ttrace"}
    assert foreign <= CORE_PACKAGES


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
    assert "ttrace.ir.layout" in IMPORTS["ttrace.compare.plan"]
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
