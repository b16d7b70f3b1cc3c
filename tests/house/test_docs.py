"""Every fence of every page is run or compared, and what the pages name is there.

A fence says by its info string which rule it falls under; one without a rule fails.

- ``python``: run, page by page and in order, with the names of ``page_fixtures``;
  conformance suites in it must pass. With ``file=PATH`` it is a part of that file, word
  for word.
- ``console``: run as written, in order; ``# exit code N`` where it is not 0. ``make``
  targets are looked up, not made.
- ``sh``: read by ttrace's own parser, and run by the test named in ``RUN_ELSEWHERE``.
- ``text output``: what the console command or the snippet above it printed; figures
  may differ in their digits, and ``...`` stands for lines that are left out.
- ``text ids`` and ``text dims``: parsed, and written again alike.
- ``yaml``: the jobs of a CI system, whose commands are read as those of ``sh`` are.
- ``toml``: a map file; ``toml allow``: an allow file. ``json file=PATH``: found in that
  file.
- ``diff from=PATH to=PATH``: what differs between these files.
"""

import ast
import contextlib
import difflib
import json
import re
import shlex
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.house.page_fixtures import FOLDERS, NAMES, RECORDED
from tests.house.pages import (
    PAGES,
    Fence,
    Page,
    anchor,
    commands,
    fences,
    parse_page,
    target,
)
from tests.house.run_elsewhere import RUN_ELSEWHERE
from tests.house.shell import run
from tests.paths import ROOT
from ttrace.cli.parser import build_parser
from ttrace.examples.megatron_gpt import warnings_of_megatron
from ttrace.ir.dims_text import parse_dims
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.verdicts.allowances import read_allow_file
from ttrace.mapping.map_file import parse_map
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import open_trace
from ttrace.testing import failed_checks

RULES: dict[str, Callable[[Fence], None]] = {}
"""What is done with a fence by itself, by its rule."""

BY_PAGE = {"python", "console", "text output"}
"""Rules of fences that are taken page by page."""


def rule(name: str) -> Callable[[Callable[[Fence], None]], Callable[[Fence], None]]:
    def register(check: Callable[[Fence], None]) -> Callable[[Fence], None]:
        RULES[name] = check
        return check

    return register


def of_page(page: Page, name: str) -> list[Fence]:
    return [fence for fence in page.fences if fence.rule == name]


def test_output_follows_what_prints_it():
    for page in PAGES.values():
        for before, fence in zip((None, *page.fences), page.fences, strict=False):
            if fence.rule == "text output":
                assert before and before.rule in {"python", "console"}, fence


def test_every_fence_has_a_rule():
    for page in PAGES.values():
        for fence in page.fences:
            assert fence.rule in RULES.keys() | BY_PAGE, f"no rule covers {fence}"


@rule("text ids")
def _check_ids(fence: Fence) -> None:
    for text in fence.lines:
        assert str(parse_tensor_id(text)) == text


@rule("text dims")
def _check_dims(fence: Fence) -> None:
    for text in fence.lines:
        assert str(parse_dims(text)) == text


@rule("toml")
def _check_map(fence: Fence) -> None:
    assert parse_map(fence.text, ROOT / fence.page).rules


@rule("toml allow")
def _check_allow_file(fence: Fence) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "allow.toml"
        path.write_text(fence.text)
        assert read_allow_file(path)


@rule("json")
def _check_json(fence: Fence) -> None:
    whole = json.loads((ROOT / fence.attributes["file"]).read_text())
    shown = json.loads(fence.text)
    assert shown == {key: whole[key] for key in shown}


@rule("diff")
def _check_diff(fence: Fence) -> None:
    sides = [fence.attributes[side] for side in ("from", "to")]
    before, after = ((ROOT / path).read_text().splitlines() for path in sides)
    found = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    assert fence.lines == found, "\n".join(found)


@rule("sh")
def _check_shell(fence: Fence) -> None:
    for command in commands(fence):
        covering = [key for key in RUN_ELSEWHERE if command.startswith(key)]
        assert len(covering) == 1, f"{command!r}: covered by {covering}"
        require_readable(command)


@rule("yaml")
def _check_jobs(fence: Fence) -> None:
    found = list(commands_of_jobs(yaml.safe_load(fence.text)))
    assert any(command.startswith("ttrace ") for command in found)
    for command in found:
        require_readable(command)


def commands_of_jobs(value: object) -> Iterator[str]:
    """What ``run`` of GitHub and ``script`` of GitLab hold, wherever they stand."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("run", "script"):
                yield from [item] if isinstance(item, str) else item
            else:
                yield from commands_of_jobs(item)
    elif isinstance(value, list):
        for item in value:
            yield from commands_of_jobs(item)


def require_readable(command: str) -> None:
    """A command that can be run as it stands, as far as that shows without running it.

    One of ttrace that its parser takes, pytest on files alone, or an installation of
    pytest or of extras of ours.
    """
    words = shlex.split(command, comments=True)
    if words[0] == "ttrace":
        build_parser().parse_args(words[1:])
    elif words[0] == "pytest":
        assert all(word.endswith(".py") for word in words[1:]), command
    elif words != ["pip", "install", "pytest"]:
        assert words[:2] == ["pip", "install"], command
        extras = re.findall(r"\[(.*?)\]", words[2])
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert set(extras) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("beginning", RUN_ELSEWHERE)
def test_commands_run_elsewhere_are(beginning):
    shell = [command for fence in fences("sh") for command in commands(fence)]
    assert any(command.startswith(beginning) for command in shell), "not in any page"
    path, _, name = RUN_ELSEWHERE[beginning].partition("::")
    source = (ROOT / "tests" / path).read_text()
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    assert name in {function.name for function in functions}
    word = beginning.split()[1]
    assert f'"{word}"' in source or f" {word} " in source


ALONE = [f for page in PAGES.values() for f in page.fences if f.rule in RULES]


@pytest.mark.parametrize("fence", ALONE, ids=str)
def test_fence(fence):
    RULES[fence.rule](fence)


# Commands


@pytest.mark.parametrize(
    "page", [name for name, page in PAGES.items() if of_page(page, "console")]
)
@pytest.mark.slow
def test_commands_of_a_page(page, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # as in a clone
    if page in FOLDERS:
        FOLDERS[page](tmp_path)
    printed = None
    for fence in PAGES[page].fences:
        if fence.rule == "python":
            printed = None
        elif fence.rule == "text output" and printed is not None:
            require_like(fence.lines, printed.splitlines())
        elif fence.rule == "console":
            for command in commands(fence):
                printed = run_documented(command, tmp_path)


def run_documented(command: str, folder: Path) -> str:
    """Runs one line of a console fence as it stands there; returns its output."""
    words = shlex.split(command, comments=True)
    assert words[0] in {"make", "ttrace"}, command
    if words[0] == "make":
        done = run(command.replace("make", "make --dry-run", 1), ROOT)
        assert done.returncode == 0, command
        return ""
    said = re.search(r"# exit code (\d)", command)
    done = run(command, folder)
    expected = int(said[1]) if said else 0
    assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def shape_of(line: str) -> str:
    """A line without the digits of its figures, and without padding around them."""
    line = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", line)
    return re.sub(r"[\s━─]+", " ", line).strip()


def require_like(shown: list[str], printed: list[str]) -> None:
    """The lines are those that were printed; ``...`` stands for any number of them."""
    rest = [shape_of(line) for line in printed]
    may_skip = False
    for line in shown:
        if line == "...":
            may_skip = True
            continue
        wanted = shape_of(line)
        assert wanted in (rest if may_skip else rest[:1]), (
            f"not printed: {line}\nbut:\n" + "\n".join(printed)
        )
        rest = rest[rest.index(wanted) + 1 :]
        may_skip = False
    assert may_skip or not rest, "more was printed:\n" + "\n".join(rest)


def test_lines_of_output_are_compared():
    printed = ["a 1.5e-3 b", "──  2", "c", "d"]
    require_like(["a 22 b", "─ 3", "...", "d"], printed)
    for wrong in (["a 22 c", "..."], ["..."] + ["e"], ["a 1 b", "─ 2", "c"], []):
        with pytest.raises(AssertionError):
            require_like(wrong, printed)


# Python


@contextlib.contextmanager
def recording(out: Path) -> Iterator[None]:
    """The environment of a script that ``ttrace record`` started."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RecordRequest(out=out).to_environment().items():
            patch.setenv(name, value)
        yield


def executed(fence: Fence, names: dict) -> None:
    # With its own line numbers, so that a traceback leads to the page.
    text = "\n" * fence.line + fence.text
    exec(compile(text, str(ROOT / fence.page), "exec"), names)


PYTHON = [
    name
    for name, page in PAGES.items()
    if any("file" not in fence.attributes for fence in of_page(page, "python"))
]


@pytest.mark.parametrize("page", PYTHON)
@pytest.mark.filterwarnings("ignore::UserWarning:orbax")
@pytest.mark.slow
def test_snippets_of_a_page(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    warnings_of_megatron.quiet()  # until pytest takes its own filters back
    given = NAMES.get(page, dict)()
    names = {"__name__": "__main__", **given}
    used: set[str] = set()
    printed = None
    if page in FOLDERS:
        FOLDERS[page](tmp_path)
    for fence in PAGES[page].fences:
        if fence.rule == "text output" and printed is not None:
            require_like(fence.lines, printed.splitlines())
        if fence.rule != "python" or "file" in fence.attributes:
            printed = None
            continue
        before = dict(names)
        capsys.readouterr()
        executed(fence, names)
        printed = capsys.readouterr().out
        for call, finish in RECORDED.items():
            if re.search(rf"^\S.*{re.escape(call)}", fence.text, re.MULTILINE):
                out = tmp_path / f"trace-{fence.line}"
                with recording(out):
                    executed(fence, before)
                    finish(before)
                assert open_trace(out).info.tensors
        used |= {n.id for n in ast.walk(ast.parse(fence.text)) if type(n) is ast.Name}
    for name, value in names.items():
        if name.startswith("Test"):
            assert not failed_checks(value), name
    assert given.keys() <= used, "fixtures that the page does not use"


@pytest.mark.parametrize(
    "fence", [f for f in fences("python") if "file" in f.attributes], ids=str
)
def test_snippet_of_a_file(fence):
    assert fence.text in (ROOT / fence.attributes["file"]).read_text()


# Links and names


# The reader of pages


def test_pages_are_read_as_github_reads_them():
    text = "# A `b` c!\n```python file=x.py\na = 1\n```\n[x](y.md#z) `code`\n"
    page = parse_page("docs/p.md", text)
    (fence,) = page.fences
    assert (fence.rule, fence.attributes) == ("python", {"file": "x.py"})
    assert (fence.line, fence.text) == (2, "a = 1\n")
    assert page.links == ["y.md#z"] and page.codes == ["b", "code"]
    assert page.anchors == {"a-b-c"} == {anchor("A `b` c!")}
    assert target(page, "y.md#z") == (ROOT / "docs" / "y.md", "z")
    assert parse_page("p", "```nothing\n```\n").fences[0].rule not in RULES
