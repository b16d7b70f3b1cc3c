"""The pytest plugin: the fixture ``ttrace``, and the option that writes golden files.

Loaded in every session of whoever has ttrace installed: it imports nothing but pytest
until a test asks for the fixture.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ttrace.guard.fixture import TtraceFixture

_PROPERTY = "ttrace"
"""Name under which a test's report carries what is to be said at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option that writes golden files."""
    parser.getgroup("ttrace").addoption(
        "--ttrace-update-golden",
        action="store_true",
        help="write the files that ttrace.golden compares with anew",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Ends a test that ttrace refuses with the text of the error, without its code."""
    try:
        return (yield)
    except Exception as error:
        if "ttrace" not in getattr(item, "fixturenames", ()) or not _is_ours(error):
            raise
        _fail(f"{type(error).__name__}: {error}")


def _is_ours(error: Exception) -> bool:
    from ttrace.errors import TtraceError

    return isinstance(error, TtraceError)


@pytest.fixture
def ttrace(request: pytest.FixtureRequest) -> "TtraceFixture":
    """Compares commands, callables and arrays, and fails the test where they part."""
    from ttrace.guard.fixture import TtraceFixture

    def note(text: str) -> None:
        request.node.user_properties.append((_PROPERTY, text))

    return TtraceFixture(
        make_folder=lambda: request.getfixturevalue("tmp_path"),
        golden_folder=request.path.parent / "golden",
        is_updating=bool(request.config.getoption("--ttrace-update-golden")),
        note=note,
        fail=_fail,
        kept_folder=_kept_folder(request.config),
    )


def _kept_folder(config: pytest.Config) -> Path | None:
    """In pytest's own cache; None in a session without one."""
    cache = getattr(config, "cache", None)
    return None if cache is None else Path(cache.mkdir("ttrace"))


def _fail(text: str) -> None:
    __tracebackhide__ = True
    pytest.fail(text, pytrace=False)


def pytest_terminal_summary(terminalreporter) -> None:
    """Says which golden files were written, or are of other versions."""
    notes = dict.fromkeys(_notes(terminalreporter.stats))
    if notes:
        terminalreporter.section("ttrace")
        for note in notes:
            terminalreporter.line(note)


def _notes(stats: dict[str, list]) -> Iterator[str]:
    for reports in stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()):
                if name == _PROPERTY:
                    yield text
