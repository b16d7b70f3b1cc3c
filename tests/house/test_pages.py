"""What the pages name is there: links, options, files, words."""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import re

import pytest

from tests.house.pages import PAGES, target
from tests.house.shell import run
from tests.house.test_layering import MAY_IMPORT
from tests.paths import ROOT
from ttrace.cli.main import main
from ttrace.cli.parser import build_parser
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.kinds import Kind
from ttrace.report.model import Report, TensorReport

README_BYTES = 9 * 1024

FOREIGN_PATHS = {"examples/run_simple_mcore_train_loop.py"}
"""Paths that the pages name in other projects."""

FOREIGN_OPTIONS = {"--backend-store-uri"}
"""Options of other programs that no source of ours gives: of ``mlflow ui``."""


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in PAGES[page].links:
        if "://" in link:
            continue
        path, fragment = target(PAGES[page], link)
        assert path.exists(), f"{page} links to {link}"
        if fragment:
            name = path.relative_to(ROOT).as_posix()
            assert fragment in PAGES[name].anchors, f"{page} links to {link}"


def test_the_index_names_every_page():
    links = {
        target(PAGES["docs/README.md"], x)[0] for x in PAGES["docs/README.md"].links
    }
    pages = {path.resolve() for path in (ROOT / "docs").glob("**/*.md")}
    assert pages - {ROOT / "docs" / "README.md"} <= links


PATH = re.compile(r"(ttrace|frontends|backends|examples|tests|docs)/[\w./-]*")
"""A file or a folder of the checkout, named in full."""

PLACEHOLDER = re.compile(r"(NAME|FOLDER)")
"""What stands for a name, as in ``frontends/NAME.py``."""


@functools.cache
def source_text() -> str:
    """All sources in which an option may be declared."""
    folders = ("ttrace", "examples", "tests")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return "\n".join(path.read_text() for path in paths)


@functools.cache
def own_options() -> frozenset[str]:
    """Those of ttrace's commands, some of which are made from a table."""
    found: set[str] = set()
    pending: list[argparse.ArgumentParser] = [build_parser()]
    while pending:
        for action in pending.pop()._actions:
            found |= {*action.option_strings}
            if isinstance(action, argparse._SubParsersAction):
                pending += action.choices.values()
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES)
def test_inline_code_names_what_there_is(page, capsys):
    for code in PAGES[page].codes:
        for word in re.findall(r"^ttrace ([a-z]+)", code):
            assert main([word, "--help"]) == 0, code
        for word in re.findall(r"(?<!\S)--[a-z][a-z-]+", code):
            options = own_options() | FOREIGN_OPTIONS
            known = word in options or f'"{word}"' in source_text()
            assert known, f"{page}: {code}"
        for word in re.findall(r"^make ([a-z-]+)", code):
            done = run(f"make --dry-run {word}", ROOT)
            assert done.returncode == 0, f"{page}: {code}"
        if PATH.fullmatch(code) and not PLACEHOLDER.search(code):
            exists = (ROOT / code).exists() or (ROOT / f"{code}.py").exists()
            assert exists or code in FOREIGN_PATHS, f"{page}: {code}"
        if re.fullmatch(r"ttrace(\.\w+)+(\(\.*\))?", code):
            require_name(code.partition("(")[0])
    capsys.readouterr()


def require_name(dotted: str) -> None:
    """A module, or an attribute of one."""
    module, _, name = dotted.rpartition(".")
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec(dotted) is not None:  # which imports no framework
            return
    assert hasattr(importlib.import_module(module), name), dotted


# Single pages


def test_the_readme_is_short():
    assert len(PAGES["README.md"].text.encode()) <= README_BYTES


def test_dims_texts_parse():
    rows = PAGES["docs/dims.md"].table("| text | meaning |")
    texts = [text for row in rows for text in re.findall(r"`(.*?)`", row[0])]
    assert len(texts) >= 9
    for text in texts:
        assert str(parse_dims(text)) == text


def test_kinds_are_those_of_the_vocabulary():
    rows = PAGES["docs/report.md"].table("| kind | what |")
    assert {k for row in rows for k in re.findall(r"`(\w+)`", row[0])} == set(Kind)


def test_report_keys_are_documented():
    rows = PAGES["docs/report.md"].table("| key | holds |")
    named = {key for row in rows for key in re.findall(r"`(\w+)`", " ".join(row))}
    for record in (Report, TensorReport):
        assert record.__dataclass_fields__.keys() <= named


def test_each_word_stands_once_in_the_glossary():
    rows = [
        row
        for part in PAGES["docs/glossary.md"].prose.split("| word | meaning |\n")[1:]
        for row in re.findall(r"^\| (?!---)(.*?) \|", part, re.MULTILINE)
    ]
    words = [word for row in rows for word in row.split(", ")]
    assert len(words) > 50
    assert len(words) == len(set(words))


def test_packages_of_the_contributing_page_are_those_of_the_graph():
    rows = PAGES["CONTRIBUTING.md"].table("| package | what lies there | built on |")
    found = {
        re.findall(r"`(?:ttrace/)?(\w+?)(?:\.py)?`", row[0])[0]: set(
            re.findall(r"`(\w+)`", row[2])
        )
        for row in rows
    }
    assert found == MAY_IMPORT
