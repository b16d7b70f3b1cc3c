"""The documentation as a site: built once, with one page more whose links are broken.

All that the build complains of must be that page's: a link, an anchor or a page that is
broken elsewhere shows among the complaints.
"""

import argparse
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import ttrace
from tests.house.pages import PAGES
from tests.paths import ROOT
from ttrace.cli.parser import build_parser

MISSING = [
    name
    for name in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")
    if importlib.util.find_spec(name) is None
]

needs_mkdocs = pytest.mark.skipif(
    bool(MISSING),
    reason=f"no {', '.join(MISSING)}: pip install 'ttrace[docs]', a part of [dev]",
)

BROKEN = """\
# A broken page

[a page](nothing.md), [a heading](dims.md#nothing), [a script](../examples/nothing.py),
[what lies there](../examples/torch_quickstart/train.py)
"""

COMPLAINTS = {
    "broken.md, which is not in nav": r'not included in the "nav".*\n.*broken\.md',
    "a page": r"'broken\.md' contains a link 'nothing\.md'",
    "a heading": r"'broken\.md' contains a link 'dims\.md#nothing'",
    "a script": r"docs/broken\.md links to \.\./examples/nothing\.py",
}

OURS = {ROOT / name for name in ("docs", "site", "out", ".git", ".venv")}
"""What the copy of the checkout has of its own, or does not need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A built site, and what the build said."""

    folder: Path
    status: int
    said: str

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def pages(self) -> list[Path]:
        return sorted(self.folder.rglob("*.html"))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / "docs").mkdir()
    for path in {*ROOT.iterdir()} - OURS:
        (checkout / path.name).symlink_to(path)
    for path in (ROOT / "docs").iterdir():
        (checkout / "docs" / path.name).symlink_to(path)
    (checkout / "docs" / "broken.md").write_text(BROKEN)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", "built"],
        cwd=checkout,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    return Built(folder=checkout / "built", status=done.returncode, said=said)


@needs_mkdocs
@pytest.mark.slow
@pytest.mark.parametrize("what", COMPLAINTS)
def test_what_is_broken_is_found(built, what):
    assert re.search(COMPLAINTS[what], built.said), built.said


@needs_mkdocs
@pytest.mark.slow
def test_nothing_else_is_broken(built):
    number = len(COMPLAINTS)
    assert f"Aborted with {number} warnings in strict mode" in built.said, built.said
    assert built.status == 1


@needs_mkdocs
@pytest.mark.slow
def test_no_page_asks_anybody_for_anything(built):
    asked = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?(\S+)")
    for page in built.pages():
        text = page.read_text(encoding="utf-8")
        found = [url for url in asked.findall(text) if re.match(r"https?:|//", url)]
        assert not found, f"{page.name}: {found}"
        assert "@import" not in text and "unpkg.com" not in text


@needs_mkdocs
@pytest.mark.slow
def test_headings_have_the_anchors_of_a_code_host(built):
    for name, page in PAGES.items():
        if name.startswith("docs/"):
            file = name.removeprefix("docs/").replace("README.md", "index.md")
            text = built.text(file.removesuffix(".md") + ".html")
            ids = set(re.findall(r'<h\d id="([^"]+)"', text))
            assert page.anchors <= ids, (name, page.anchors - ids)


@needs_mkdocs
@pytest.mark.slow
def test_every_option_of_every_command_has_a_line(built):
    text = built.text("reference/options.html")
    commands = list(commands_of(build_parser()))
    assert len(commands) > 15
    for command in commands:
        assert f'id="{command.prog.replace(" ", "-")}"' in text, command.prog
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction):
                for option in action.option_strings:
                    assert f"<code>{option}" in text or f", {option}" in text, option


def commands_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """All commands below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from commands_of(command)


@needs_mkdocs
@pytest.mark.slow
def test_what_ttrace_exports_is_described(built):
    text = built.text("reference/package.html")
    names = {*vars(ttrace)["_LAZY"], "compare", "Kind", "TensorId", "TtraceError"}
    for name in names:
        assert f"ttrace.{name}" in text, name
    frontends = built.text("reference/frontends.html")
    assert "ttrace.frontends.torch_capture" in frontends
    assert "megatron_parts.rules.Rule" in frontends  # which a module passes on
    # With what its docstring says, whose blocks are code and not text behind colons.
    assert "How many noise runs" in text or "Number of noise runs" in text
    assert "::</p>" not in text + frontends


@needs_mkdocs
@pytest.mark.slow
def test_fences_are_coloured_by_their_language(built):
    text = built.text("tutorials/first-bug.html")
    assert 'class="filename">examples/torch_quickstart/train.py' in text
    assert "file=examples" not in text and "text output" not in text
    assert '<span class="go">' not in text  # what a prompt would have printed


# The parts, without mkdocs


@pytest.fixture
def page_text(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "hooks"))
    return importlib.import_module("page_text")


@pytest.fixture
def option_page(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "hooks"))
    return importlib.import_module("option_page")


def shown(page_text: ModuleType, text: str, source: str, source_url: str = "") -> str:
    checkout = page_text.Checkout(
        exists=lambda path: path == "examples/train.py",
        source_url=source_url,
    )
    result, broken = page_text.shown_on_site(text, source, checkout)
    return result + "".join(f" BROKEN {link}" for link in broken)


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("docs/ci.md", "[a](dims.md#b)", "[a](dims.md#b)"),
        ("docs/ci.md", "[a](../README.md#b)", "[a](about.md#b)"),
        ("docs/ci.md", "[a](https://b.c) [d](#e)", "[a](https://b.c) [d](#e)"),
        ("docs/ci.md", "[`a`](../examples/train.py)", "`a`"),
        ("docs/ci.md", "[a](../examples/b.py)", "a BROKEN ../examples/b.py"),
        ("docs/tutorials/first-bug.md", "[a](../dims.md)", "[a](../dims.md)"),
        ("docs/tutorials/first-bug.md", "[a](../../README.md)", "[a](../about.md)"),
        ("README.md", "![a](docs/figures/report.png)", "![a](figures/report.png)"),
        ("README.md", "[a](CONTRIBUTING.md)", "[a](contributing.md)"),
        ("docs/ci.md", "```console\n[a](b.md)\n```\n", "```sh\n[a](b.md)\n```\n"),
        (
            "docs/ci.md",
            "```text output\n│ a │\n```\n",
            "```{.text .wide}\n│ a │\n```\n",
        ),
        (
            "docs/ci.md",
            "1. x\n   ```python file=a.py\n   b\n   ```\n",
            '1. x\n   ```python title="a.py"\n   b\n   ```\n',
        ),
    ],
)
def test_a_page_is_rewritten(page_text, source, text, expected):
    assert shown(page_text, text, source) == expected


def test_what_the_site_has_not_is_linked_to_where_the_code_is_hosted(page_text):
    text = "[a](../examples/train.py)"
    found = shown(page_text, text, "docs/ci.md", "https://host/blob/main")
    assert found == "[a](https://host/blob/main/examples/train.py)"


def test_help_is_shown_as_it_stands(option_page):
    assert option_page.escaped("a|b '*/main_grad/*'") == "a\\|b '\\*/main\\_grad/\\*'"
    text = option_page.option_page(build_parser())
    assert "| `--draws N` | noise runs of the reference (default: 3; 0:" in text
    assert "| `--candidate CMD` | command of the run under test (required) |" in text
    assert "## ttrace check" in text and "### ttrace zoo run" in text
    assert "%(" not in text
    assert "\nttrace check [-h] [--reference CMD]" in text
    assert "\n             [--" in text and "usage:" not in text


def test_dev_has_what_the_extra_docs_has():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(extras["docs"]) <= set(extras["dev"])
