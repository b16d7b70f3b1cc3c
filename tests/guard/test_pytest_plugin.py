"""The pytest plugin in sessions of its own: what passes, fails, is written and said."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest

import ttrace.backends.live_arrays
import ttrace.frontends.jax_parts.harvest.noise
import ttrace.guard.fixture  # noqa: F401
from tests.factories.traces import write_trace
from tests.house.pages import PAGES

# Here, as a session of its own forgets what it imported, and neither jax nor torch can
# be imported twice.
pytest.importorskip("torch")

pytest_plugins = ["pytester"]

INSTALLED = any(
    e.value == "ttrace.pytest_plugin" for e in entry_points(group="pytest11")
)
"""Whether the environment loads the plugin by itself."""


@pytest.fixture
def session(pytester):
    """Runs a file of tests in a session of its own."""

    def run(source: str, *options: str, caches: bool = False):
        pytester.makepyfile(test_it=f"import numpy as np\n{source}")
        plugin = () if INSTALLED else ("-p", "ttrace.pytest_plugin")
        without = () if caches else ("-p", "no:cacheprovider")
        return pytester.runpytest_inprocess(
            *plugin, *without, "-p", "no:xdist", "-q", *options
        )

    return run


def text_of(result) -> str:
    return result.stdout.str()


COMPARE = """
def test_it(ttrace):
    a = {{"w": np.ones(4), "b": np.zeros(2)}}
    result = ttrace.compare(a, {{**a, "w": np.full(4, {value})}}, tolerance=1e-3)
    assert result["w"].rel_err < 1e-3
"""


def test_trees_that_agree_pass(session):
    session(COMPARE.format(value=1.0001)).assert_outcomes(passed=1)


def test_trees_that_diverge_fail_with_the_figures(session):
    result = session(COMPARE.format(value=1.1))
    result.assert_outcomes(failed=1)
    text = text_of(result)
    assert "1 of 2 arrays diverged" in text
    assert "DIVERGED  w  rel_err 0.1  tolerance 0.001" in text
    assert "Traceback" not in text and "fixture.py" not in text


CHECK = """
import jax.numpy as jnp
rng = np.random.default_rng(0)
x, w = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))

def reference(x, w):
    return {{"y": jnp.asarray(x) @ w}}

def chunked(x, w):
    return {{"y": sum(jnp.asarray(x)[:, i::4] @ w[i::4] for i in range(4)) * {factor}}}

def test_it(ttrace):
    result = ttrace.check(reference, chunked, x, w=w)
    assert 0 < result["y"].rel_err < result["y"].tolerance < 1e-5
"""


def test_functions_are_judged_by_measured_noise(session):
    session(CHECK.format(factor=1)).assert_outcomes(passed=1)
    result = session(CHECK.format(factor=1.0001))
    result.assert_outcomes(failed=1)
    assert "DIVERGED  y  rel_err 0.0001" in text_of(result)


TORCH = """
import torch

torch.manual_seed(0)
linear = torch.nn.Linear(32, 32)
x = torch.randn(8, 32, requires_grad=True)

def in_place(x):
    with torch.no_grad():
        x.mul_(1)
        x.add_({added})
    return linear(x)

def test_it(ttrace):
    before = x.detach().clone()
    ttrace.check(linear, in_place, x)
    assert torch.equal(x, before), "each call has a copy of its own"
    ttrace.check(
        linear, lambda x: linear(x).bfloat16(), x
    )
"""


def test_modules_of_torch(session):
    session(TORCH.format(added=0)).assert_outcomes(passed=1)
    result = session(TORCH.format(added=0.01))
    result.assert_outcomes(failed=1)
    assert "DIVERGED  (the array)" in text_of(result)


RAISES = """
import pytest
from ttrace.errors import TtraceError

draws = np.random.default_rng(0)

def drawn(x):
    return x * draws.random(4)

def test_it(ttrace):
    ones = np.ones(4, np.float32)
    with pytest.raises(TtraceError, match="returns other values every time") as caught:
        ttrace.check(drawn, drawn, ones)
    assert "seed what it draws" in str(caught.value)
    with pytest.raises(TtraceError, match="no argument is a floating-point") as caught:
        ttrace.check(np.sort, np.sort, np.arange(4))
    assert "or give tolerance=" in str(caught.value)
    ttrace.check(np.sort, np.sort, np.arange(4), tolerance=0)
    with pytest.raises(TtraceError, match="do not have the same shape"):
        ttrace.check(np.sort, lambda x: x[:2], ones)
    with pytest.raises(TtraceError, match="golden arrays need a tolerance"):
        ttrace.golden("x", ones)
    for name in ("../x", "", "a/b"):
        with pytest.raises(TtraceError, match="the name of a golden file is malf"):
            ttrace.golden(name, ones, tolerance=0)
"""


def test_what_makes_no_sense(session, pytester):
    golden = GOLDEN.format(name="x", value=1.0, tolerance=0)
    session(golden, "--ttrace-update-golden").assert_outcomes(passed=1)
    session(RAISES).assert_outcomes(passed=1)


GOLDEN = """
import ml_dtypes

def test_it(ttrace):
    value = {{
        "w": np.full(4, {value}, np.float32),
        "inner": [np.arange(3), np.ones(2, ml_dtypes.bfloat16)],
    }}
    ttrace.golden("{name}", value, tolerance={tolerance})
"""


def test_golden_arrays(session, pytester):
    source = GOLDEN.format(name="kernel", value=1.0, tolerance=1e-3)
    path = pytester.path / "golden" / "kernel.safetensors"
    result = session(source)
    result.assert_outcomes(failed=1)
    assert "there is no golden file" in text_of(result)
    assert "run pytest --ttrace-update-golden once" in text_of(result)
    result = session(source, "--ttrace-update-golden")
    result.assert_outcomes(passed=1)
    assert f"{path} written" in text_of(result) and path.is_file()
    result = session(source)
    result.assert_outcomes(passed=1)
    assert "golden" not in text_of(result)
    session(source.replace("1.0,", "1.0005,")).assert_outcomes(passed=1)
    result = session(source.replace("1.0,", "1.1,"))
    result.assert_outcomes(failed=1)
    text = text_of(result)
    assert "DIVERGED  w  rel_err 0.1" in text and f"golden file: {path}" in text
    result = session(source.replace("np.arange(3), ", ""))
    result.assert_outcomes(failed=1)
    assert "the trees do not have the same leaves" in text_of(result)


def test_a_golden_file_is_a_safetensors_file(session, pytester):
    source = GOLDEN.format(name="kernel", value=2.0, tolerance=0)
    session(source, "--ttrace-update-golden").assert_outcomes(passed=1)
    from safetensors.numpy import load_file

    arrays = load_file(pytester.path / "golden" / "kernel.safetensors")
    assert sorted(arrays) == ["inner.0", "inner.1", "w"]
    assert np.array_equal(arrays["w"], np.full(4, 2.0, np.float32))


def change_version(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] |= {"numpy": "1.0.0", "ttrace": "0.0.1"}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_golden_file_of_other_versions_says_so(session, pytester):
    source = GOLDEN.format(name="kernel", value=1.0, tolerance=0)
    session(source, "--ttrace-update-golden")
    path = pytester.path / "golden" / "kernel.safetensors"
    change_version(path)
    for text, outcome in ((source, "passed"), (source.replace("1.0,", "2,"), "failed")):
        result = session(text)
        result.assert_outcomes(**{outcome: 1})
        said = text_of(result)
        assert f"{path} was written with ttrace 0.0.1, and here is" in said
        assert f"numpy 1.0.0, and here is {np.__version__}" in said


def test_a_golden_file_that_was_cut_off(session, pytester):
    source = GOLDEN.format(name="kernel", value=1.0, tolerance=0)
    session(source, "--ttrace-update-golden")
    path = pytester.path / "golden" / "kernel.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    result = session(source)
    result.assert_outcomes(failed=1)
    assert "not a safetensors file, or one that was cut off" in text_of(result)


TRACE = """
def test_it(ttrace):
    ttrace.golden("run", {path!r}, tolerance={tolerance!r})
"""


def test_golden_traces(session, pytester, tmp_path):
    ones = np.ones(64, np.float32)
    ids = ("step0/mb0/a/output/0", "step0/a/main_grad/w")
    good = write_trace(tmp_path / "good", dict.fromkeys(ids, ones)).path
    bad = write_trace(tmp_path / "bad", {ids[0]: ones * 2, ids[1]: ones}).path
    source = TRACE.format(path=str(good), tolerance=None)
    result = session(source)
    result.assert_outcomes(failed=1)
    assert "there is no golden trace" in text_of(result)
    result = session(source, "--ttrace-update-golden")
    result.assert_outcomes(passed=1)
    golden = pytester.path / "golden" / "run"
    assert f"{golden} written" in text_of(result)
    session(source).assert_outcomes(passed=1)
    session(source, "--ttrace-update-golden").assert_outcomes(passed=1)
    result = session(TRACE.format(path=str(bad), tolerance=None))
    result.assert_outcomes(failed=1)
    text = text_of(result)
    assert "verdict: diverged" in text and f"golden trace: {golden}" in text


COMMANDS = """
import sys

def test_it(ttrace, tmp_path):
    script = [sys.executable, "-m", "ttrace.examples.torch_quickstart.train"]
    report = ttrace.check_commands(script, [*script, *{options}], draws=1)
    assert report.verdict == "pass"
    assert (tmp_path / "ttrace-check" / "report.json").is_file()
"""


@pytest.mark.slow
def test_commands(session):
    session(COMMANDS.format(options=[])).assert_outcomes(passed=1)
    result = session(COMMANDS.format(options=["--chunked"]))
    result.assert_outcomes(failed=1)
    text = text_of(result)
    assert "verdict: diverged" in text and "attention" in text
    assert "ttrace-check/report.json" in text


def test_the_snippet_of_the_docs(session):
    (source,) = (
        fence.text
        for fence in PAGES["docs/python-api.md"].fences
        if "def test_without_the_reference(ttrace)" in fence.text
    )
    options = ("-k", "not layout")
    session(source, *options, "--ttrace-update-golden").assert_outcomes(passed=3)
    session(source, *options).assert_outcomes(passed=3)


def test_the_tests_of_the_tutorial(session):
    page = PAGES["docs/tutorials/guard-a-kernel.md"]
    source = "\n".join(f.text for f in page.fences if f.rule == "python")
    session(source, "-k", "as_it_was", "--ttrace-update-golden")
    result = session(source)
    result.assert_outcomes(passed=3, failed=1)
    text = text_of(result)
    assert "FAILED test_it.py::test_several_chunks" in text
    quoted = [line.strip("> ") for line in page.prose.splitlines() if line[:1] == ">"]
    words = [line.split("rel_err")[0].strip() for line in quoted if line]
    assert words == ["1 of 1 arrays diverged", "DIVERGED  (the array)"]
    assert all(word in text for word in words)


def test_two_checks_in_one_test_have_folders_of_their_own(session):
    source = """
from ttrace.report.model import Outcome

def test_it(ttrace, tmp_path, monkeypatch):
    folders = []

    def check(reference, candidate, *, out):
        out.mkdir()
        folders.append(out.name)
        class report:
            verdict = Outcome.PASS
        return report

    monkeypatch.setattr("ttrace.guard.fixture.check", check)
    for _ in range(3):
        ttrace.check_commands("a", "b")
    ttrace.check_commands("a", "b", out=tmp_path / "mine")
    assert folders == ["ttrace-check", "ttrace-check-2", "ttrace-check-3", "mine"]
"""
    session(source).assert_outcomes(passed=1)


KEPT = """
import ttrace.guard.fixture
from ttrace.errors import OtherReferenceError
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.report.model import Outcome

def test_it(ttrace, monkeypatch):
    measured = []

    class report:
        verdict = Outcome.PASS

    def check(reference, candidate, *, out, tolerance=None, **options):
        out.mkdir(exist_ok=options.get("overwrite", False))
        if tolerance is None:
            measured.append(candidate)
            ToleranceTable().save(out / "tolerance.json")
        elif {is_other}:
            raise OtherReferenceError(
                "of another", where="w", expected="2", got="3", remedy="measure"
            )
        return report

    monkeypatch.setattr("ttrace.guard.fixture.check", check)
    for candidate in "ab":
        ttrace.check_commands("r", candidate)
    assert measured == {measured}
"""


def test_noise_is_measured_once_for_all_sessions(session):
    first = KEPT.format(is_other=False, measured=["a"])
    session(first, caches=True).assert_outcomes(passed=1)
    later = KEPT.format(is_other=False, measured=[])
    session(later, caches=True).assert_outcomes(passed=1)
    other = KEPT.format(is_other=True, measured=["a", "b"])
    result = session(other, caches=True)
    result.assert_outcomes(passed=1)
    assert "the noise of 'r' is measured anew; w: now 3, once 2" in text_of(result)
    session(first, "--cache-clear", caches=True).assert_outcomes(passed=1)


def test_loading_the_plugin_loads_nothing():
    probe = (
        "import sys, ttrace.pytest_plugin\n"
        "print(*{'jax', 'torch', 'numpy', 'rich', 'ttrace.guard.fixture'} "
        "& sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
