import sys
import threading
import types

import pytest

from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.taps.patching import (
    OneThread,
    everywhere,
    exclusively,
    replaced,
)


class Base:
    """Has an attribute that others inherit."""

    value = 1


class Derived(Base):
    """Has none of its own."""


def test_an_attribute_is_replaced_for_a_while():
    with pytest.raises(RuntimeError, match="stop"), replaced(Base, "value", 2):
        assert Derived.value == 2
        raise RuntimeError("stop")
    assert Base.value == 1


def test_what_a_class_inherits_is_not_replaced():
    with pytest.raises(KeyError), replaced(Derived, "value", 2):
        pass


def test_a_function_is_replaced_wherever_it_was_imported(monkeypatch):
    def original():
        return "original"

    modules = [types.ModuleType(f"imported_{index}") for index in range(2)]
    for index, module in enumerate(modules):
        setattr(module, f"name_{index}", original)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with everywhere(original, len):
        assert vars(modules[0])["name_0"] is len
        assert vars(modules[1])["name_1"] is len
    assert vars(modules[0])["name_0"] is original
    assert vars(modules[1])["name_1"] is original


def test_the_same_is_not_switched_on_twice():
    with exclusively("the lamps"):
        with exclusively("the fans"), pytest.raises(UsageError) as caught:
            with exclusively("the lamps"):
                pass
    assert str(caught.value) == (
        "the lamps are on already: a traced step calls another traced step, or runs "
        "in two threads\n"
        "  to do:    give jax_capture.trace the outermost step only"
    )
    with exclusively("the lamps"):
        pass


def test_an_error_switches_off():
    with pytest.raises(RuntimeError, match="stop"), exclusively("the lamps"):
        raise RuntimeError("stop")
    with exclusively("the lamps"):
        pass


def test_other_threads_are_told_apart():
    one = OneThread()
    answers = [one.is_here()]
    thread = threading.Thread(target=lambda: answers.append(one.is_here()))
    thread.start()
    thread.join()
    assert answers == [True, False]
