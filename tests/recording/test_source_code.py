"""Where the code of a class is said to be."""

import functools
import importlib
import sys

import pytest

from ttrace.recording.source_code import code_text

MODEL = """import functools

class Base:
    def forward(self):
        pass

class Block(Base):
    @functools.wraps(Base.forward)
    def other(self):
        pass
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "a_model_of_ours.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path / "nets"))
    code_text.cache_clear()
    yield importlib.import_module("a_model_of_ours")
    code_text.cache_clear()
    del sys.modules["a_model_of_ours"]


def test_named_from_the_working_folder_and_else_from_the_search_path(
    model, tmp_path, monkeypatch
):
    assert code_text(model.Block, "forward") == "a_model_of_ours.py:4 Base.forward"
    code_text.cache_clear()
    monkeypatch.chdir(tmp_path)
    assert code_text(model.Block, "forward") == "nets/a_model_of_ours.py:4 Base.forward"


def test_what_wraps_a_method_is_not_its_code(model):
    assert code_text(model.Block, "other") == "a_model_of_ours.py:4 Block.other"


def test_libraries_of_layers_and_what_has_no_file_are_not_named():
    torch = pytest.importorskip("torch")
    made = type("Made", (), {"forward": functools.partial(print)})
    text = "class C:\n    def forward(self): pass"
    namespace: dict = {}
    exec(text, namespace)
    for class_ in (torch.nn.Linear, made, namespace["C"], int):
        assert code_text(class_, "forward") is None
