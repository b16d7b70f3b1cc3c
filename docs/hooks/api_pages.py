"""The reference of the API as pages: which names they show, not what is said of these.

What is said is that of the docstrings; mkdocstrings reads them from the sources.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

FIXTURE = "ttrace.guard.fixture.TtraceFixture"
"""What a test is given by the fixture of pytest."""

_DIRECTIVE = """\
::: {path}
    options:
      heading: "{heading}"
      toc_label: "{label}"
"""


def exported(init: Path, lazy: Mapping[str, str]) -> dict[str, str]:
    """What a package offers by its own name.

    Args:
        init: Its ``__init__.py``, in which ``import a as a`` offers a name.
        lazy: Names that are imported when they are asked for, and from where.

    Returns:
        By name, in alphabetical order: the path under which it is defined.
    """
    modules = dict(lazy)
    for node in ast.walk(ast.parse(init.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names if alias.asname == alias.name]
            modules |= dict.fromkeys(names, node.module)
    return {name: f"{modules[name]}.{name}" for name in sorted(modules)}


def frontends(folder: Path) -> list[str]:
    """The modules of frontends that scripts import, by their installed names."""
    names = sorted(path.stem for path in folder.glob("[!_]*.py"))
    return [f"ttrace.frontends.{name}" for name in names]


def package_page(names: Mapping[str, str]) -> str:
    """The page of what ``ttrace`` exports, functions first."""
    functions = {name: path for name, path in names.items() if name[0].islower()}
    values = {name: path for name, path in names.items() if name not in functions}
    lines = [
        "# The package ttrace",
        "",
        "What `import ttrace` offers. [Use from Python](../python-api.md) shows it at "
        "work.",
        "",
        *_directives(functions),
        *_directives(values),
        "## The fixture of pytest",
        "",
        "What a test that takes `ttrace` is given.",
        "",
        *_directives({"TtraceFixture": FIXTURE}, prefix=""),
    ]
    return "\n".join(lines)


def frontends_page(modules: list[str]) -> str:
    """The page of the frontends."""
    lines = [
        "# Frontends",
        "",
        "What training scripts import: [torch](../torch.md), "
        "[Megatron-Core](../megatron.md), [JAX](../jax.md).",
        "",
    ]
    for module in modules:
        lines += _directives({module: module}, prefix="")
    return "\n".join(lines)


def _directives(names: Mapping[str, str], *, prefix: str = "ttrace.") -> Iterator[str]:
    for name, path in names.items():
        heading = f"{prefix}{name}"
        yield _DIRECTIVE.format(path=path, heading=heading, label=name)
