"""Compiled kernels are kept by the program, and by nothing else.

jax is set up once a process, so that each of these is one of its own.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.factories.traces import write_trace
from tests.paths import ROOT

pytest.importorskip("jax")

_COUNT = """
import json, sys, warnings
import jax
hits = []
jax.monitoring.register_event_listener(
    lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None
)
from ttrace.backends.compilation_cache import keep_compiled
"""

_COMPARE = (
    _COUNT
    + """
from ttrace.cli.main import main
import ttrace
before = jax.config.jax_compilation_cache_dir
ttrace.compare(sys.argv[1], sys.argv[2], backend="jax", multiplier=1.0)
in_library = jax.config.jax_compilation_cache_dir
code = main(["compare", sys.argv[1], sys.argv[2], "--backend", "jax"])
print(json.dumps([before, in_library, jax.config.jax_compilation_cache_dir, code]))
"""
)

_PROGRAM = (
    _COUNT
    + """
from ttrace.cli.main import main
code = main(["compare", sys.argv[1], sys.argv[2], "--backend", "jax"])
print(json.dumps([len(hits), code]))
"""
)

_KEEP = (
    _COUNT
    + """
folder = keep_compiled()
print(json.dumps([folder and str(folder), jax.config.jax_compilation_cache_dir]))
"""
)


def run(code, *arguments, **environment):
    """The last line that a script prints, as JSON; nothing may be warned of."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT", "XDG_CACHE"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**clean, **{name: str(value) for name, value in environment.items()}},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "cache" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def pair(tmp_path):
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    for name, factor in (("reference", 1.0), ("candidate", 1.5)):
        write_trace(
            tmp_path / name,
            {"step0/mb0/a/output/0": values * np.float32(factor)},
        )
    return tmp_path / "reference", tmp_path / "candidate"


def test_the_second_run_of_the_program_compiles_nothing_anew(tmp_path, pair):
    cache = tmp_path / "cache"
    first = run(_PROGRAM, *pair, XDG_CACHE_HOME=cache)
    assert first == [0, 1]
    (folder,) = (cache / "ttrace" / "jax").iterdir()
    kept = sorted(folder.iterdir())
    assert kept
    num_hits, code = run(_PROGRAM, *pair, XDG_CACHE_HOME=cache)
    assert code == 1 and num_hits >= 1
    assert sorted(folder.iterdir()) == kept


def test_a_damaged_entry_costs_a_compilation_and_no_word(tmp_path, pair):
    cache = tmp_path / "cache"
    run(_PROGRAM, *pair, XDG_CACHE_HOME=cache)
    for path in (cache / "ttrace" / "jax").rglob("*-cache"):
        path.write_bytes(path.read_bytes()[:50])
    assert run(_PROGRAM, *pair, XDG_CACHE_HOME=cache) == [0, 1]


def test_the_library_leaves_the_cache_of_its_process_alone(tmp_path, pair):
    cache = tmp_path / "cache"
    before, in_library, in_program, code = run(_COMPARE, *pair, XDG_CACHE_HOME=cache)
    assert before is None and in_library is None
    assert in_program.startswith(str(cache / "ttrace" / "jax")) and code == 1


def test_a_cache_that_the_user_has_set_up_stays(tmp_path):
    own = str(tmp_path / "own")
    found = run(_KEEP, JAX_COMPILATION_CACHE_DIR=own, XDG_CACHE_HOME=tmp_path / "x")
    assert found == [None, own]
    found = run(
        _KEEP, JAX_ENABLE_COMPILATION_CACHE="false", XDG_CACHE_HOME=tmp_path / "x"
    )
    assert found == [None, None]
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path, pair):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    assert run(_KEEP, XDG_CACHE_HOME=blocked) == [None, None]
    assert run(_PROGRAM, *pair, XDG_CACHE_HOME=blocked) == [0, 1]


def test_a_relative_cache_folder_is_ignored_as_xdg_says(tmp_path):
    folder, told = run(_KEEP, XDG_CACHE_HOME="relative", HOME=tmp_path)
    assert folder == told
    assert folder.startswith(str(tmp_path / ".cache" / "ttrace" / "jax"))
    assert not (ROOT / "relative").exists()
