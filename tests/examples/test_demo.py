"""The demo where a framework is missing; it runs in tests/house/test_packaging.py."""

import importlib.util

import pytest


@pytest.mark.parametrize("package", ["torch", "megatron"])
def test_demo_without_its_extra_says_what_to_install(ttrace, monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else found(name, *rest),
    )
    answer = ttrace("demo")
    assert answer.code == 2
    assert f"the demo trains with {package}, which is not installed" in answer.err
    assert "pip install ttrace[megatron]" in answer.err
