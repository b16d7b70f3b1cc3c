"""What the conformance suites have in common: tests that a subclass inherits.

Nothing here imports pytest. A suite is a class of plain test methods, so pytest
collects a subclass whose name begins with ``Test``; ``checks`` calls the same methods
without it.
"""

import functools
import itertools
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One test of a suite with one choice of its parameters.

    Attributes:
        name: Name of the method.
        parameters: Ids of the parameters, in brackets as pytest shows them, or empty.
        run: Runs it; raises AssertionError where the thing under test fails.
    """

    name: str
    parameters: str
    run: Callable[[], object]


class Suite:
    """Base of the suites; subclass one of those, not this."""

    @classmethod
    def parameters(cls) -> Mapping[str, Mapping[str, Any]]:
        """By name of a test's argument: its values by their ids."""
        return {}

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Called by pytest: one test for each value of an argument."""
        for name, values in self.parameters().items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, list(values.values()), ids=list(values))

    @classmethod
    def checks(cls) -> Iterator[Check]:
        """Every test with every choice of its parameters, for runs without pytest."""
        parameters = cls.parameters()
        for name in dir(cls):
            method = getattr(cls, name)
            if not name.startswith("test_") or not callable(method):
                continue
            code = method.__code__
            names = code.co_varnames[1 : code.co_argcount]
            for ids in itertools.product(*(parameters[name] for name in names)):
                values = {n: parameters[n][i] for n, i in zip(names, ids, strict=True)}
                yield Check(
                    name=method.__name__,
                    parameters=f"[{'-'.join(ids)}]" if ids else "",
                    run=functools.partial(method, cls(), **values),
                )


def failed_checks(suite: type[Suite], only: Sequence[str] = ()) -> dict[str, str]:
    """Runs a suite without pytest.

    Args:
        suite: A subclass that gives the thing under test.
        only: Names of the tests to run; all if empty.

    Returns:
        What the first failure of each test said, by the name of the test.
    """
    failed: dict[str, str] = {}
    for check in suite.checks():
        if check.name in failed or (only and check.name not in only):
            continue
        try:
            check.run()
        except unittest.SkipTest:
            pass
        except Exception as error:
            failed[check.name] = f"{type(error).__name__}: {error}"
    return failed
