"""The reference of the API as pages: which names they show, not what is said of these.

What is said is that of the docstrings; mkdocstrings reads them from the sources.
"""

import ast
from collections.abc import Mapping
from pathlib import Path

FIXTURE = "ttrace.guard.fixture.TtraceFixture"
"""What a test is given by the fixture of pytest."""

_DIRECTIVE = """\
::: {path}
    options:
      heading: "{heading}"
      toc_label: "{label}"
      heading_level: {level}
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


def frontends(folder: Path) -> dict[str, dict[str, str]]:
    """The modules of frontends that scripts import, and what each passes on.

    Args:
        folder: Of the frontends, in the checkout.

    Returns:
        By installed name of the module: what it offers and does not define itself, as
        ``exported`` says it.
    """
    paths = sorted(folder.glob("[!_]*.py"))
    return {f"ttrace.frontends.{path.stem}": exported(path, {}) for path in paths}


def package_page(names: Mapping[str, str]) -> str:
    """The page of what ``ttrace`` exports, functions first."""
    in_order = sorted(names, key=lambda name: (name[0].isupper(), name))
    lines = [
        "# The package ttrace",
        "",
        "What `import ttrace` offers. [Use from Python](../python-api.md) shows it at "
        "work.",
        "",
        *(_directive(names[x], heading=f"ttrace.{x}", label=x) for x in in_order),
        "## The fixture of pytest",
        "",
        "What a test that takes `ttrace` is given.",
        "",
        _directive(FIXTURE, heading="TtraceFixture", label="TtraceFixture", level=3),
    ]
    return "\n".join(lines)


def frontends_page(modules: Mapping[str, Mapping[str, str]]) -> str:
    """The page of the frontends."""
    lines = [
        "# Frontends",
        "",
        "What training scripts import: [torch](../torch.md), "
        "[Megatron-Core](../megatron.md), [JAX](../jax.md).",
        "",
    ]
    for module, passed_on in modules.items():
        lines.append(
            _directive(module, heading=module, label=module.rpartition(".")[2])
        )
        for name, path in passed_on.items():
            lines.append(_directive(path, heading=name, label=name, level=3))
    return "\n".join(lines)


def _directive(path: str, *, heading: str, label: str, level: int = 2) -> str:
    """What mkdocstrings puts a docstring in place of."""
    return _DIRECTIVE.format(path=path, heading=heading, label=label, level=level)
