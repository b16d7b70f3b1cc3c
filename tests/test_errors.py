import inspect

import pytest

from ttrace import errors
from ttrace.errors import TtraceError

ALL = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, TtraceError)
]

BUILTINS = {
    "UsageError": ValueError,
    "TensorIdError": ValueError,
    "DtypeError": TypeError,
    "LayoutError": ValueError,
    "TraceNotFoundError": FileNotFoundError,
    "TraceExistsError": FileExistsError,
    "StorageFullError": OSError,
    "CommandError": RuntimeError,
    "MissingExtraError": ImportError,
}


@pytest.mark.parametrize("cls", ALL)
def test_a_full_message(cls):
    error = cls(
        "two shapes contradict each other",
        where="rank 3",
        expected=[2, 4],
        got=[4, 2],
        remedy="transpose one",
    )
    assert str(error) == (
        "two shapes contradict each other\n"
        "  where:    rank 3\n"
        "  expected: [2, 4]\n"
        "  got:      [4, 2]\n"
        "  to do:    transpose one"
    )
    assert error.what == "two shapes contradict each other"
    assert error.where == "rank 3"
    assert error.expected == [2, 4]
    assert error.got == [4, 2]
    assert error.remedy == "transpose one"


@pytest.mark.parametrize("cls", ALL)
def test_what_is_not_known_is_left_out(cls):
    assert str(cls("no ranks", remedy="record some")) == (
        "no ranks\n  to do:    record some"
    )


def test_falsy_values_are_shown():
    error = TtraceError("odd", where=0, expected=1, got=0, remedy="count again")
    assert str(error) == (
        "odd\n  where:    0\n  expected: 1\n  got:      0\n  to do:    count again"
    )


@pytest.mark.parametrize("cls", ALL)
def test_a_remedy_is_required(cls):
    with pytest.raises(TypeError):
        cls("no ranks")


@pytest.mark.parametrize("cls", ALL)
def test_errors_are_also_the_fitting_builtin(cls):
    assert issubclass(cls, BUILTINS.get(cls.__name__, Exception))
    assert set(BUILTINS) <= {each.__name__ for each in ALL}
