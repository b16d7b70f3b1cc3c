"""Workers that are forks: what they share with others, and where none are made."""

import os
import resource

import pytest

from ttrace.examples import worker_nursery
from ttrace.examples.worker_nursery import nursery_for
from ttrace.examples.worker_pool import WorkerPool

pytest.importorskip("torch")

_PROBE = """
import os, resource, sys
STATE = []
def prepare():
    STATE.append("prepared")
    os.environ["SET_BY_PREPARE"] = "yes"
def main(argv):
    STATE.append("run")
    print(STATE, os.environ["SET_BY_PREPARE"], os.environ.get("TTRACE_PROBE"))
    print(os.getcwd(), resource.getrlimit(resource.RLIMIT_CORE)[0], os.getppid())
    return 0
"""

_THREADED = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
def main(argv):
    print(threading.active_count())
    return 0
"""

_ON_A_GPU = """
import torch
torch.cuda.is_available = lambda: True
def main(argv):
    print("alone")
    return 0
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("modules")
    for name, text in {
        "nursery_probe": _PROBE,
        "nursery_threaded": _THREADED,
        "nursery_on_a_gpu": _ON_A_GPU,
        "nursery_broken": "raise ImportError('on purpose')",
    }.items():
        (folder / f"{name}.py").write_text(text)
    # With more, numpy's own threads begin as it is imported: no process to fork.
    return {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def output(environment, module="nursery_probe") -> str:
    with WorkerPool(1, environment=environment) as pool:
        (outcome,) = pool.run(module, [], timeout_s=120)
    assert outcome.status == 0, outcome.error
    return outcome.output


def test_what_a_run_changes_stays_in_its_worker(environment):
    first, second = output(environment), output(environment)
    assert first.startswith("['prepared', 'run'] yes None\n")
    # Both are forks of one process, which has prepared once and has not run.
    assert first == second and int(first.split()[-1]) != os.getpid()


def test_a_worker_has_what_the_process_has_that_asks_for_it(
    environment, monkeypatch, tmp_path
):
    before = output(environment)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTRACE_PROBE", "set")
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, hard))
    try:
        after = output(environment)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert after.splitlines()[0].endswith("yes set")
    assert after.splitlines()[1].split()[:2] == [str(tmp_path), str(limit)]
    assert after.split()[-1] == before.split()[-1], "of the same nursery"


def test_other_variables_are_read_by_other_imports(environment, monkeypatch):
    kept: dict = {}  # those of other tests would leave no room
    monkeypatch.setattr(worker_nursery, "_nurseries", kept)
    nursery = nursery_for("nursery_probe", {**os.environ, **environment})
    other = nursery_for("nursery_probe", {**os.environ, **environment, "X": "1"})
    assert nursery is not None and other is not None and nursery is not other
    again = nursery_for("nursery_probe", {**os.environ, **environment, "RANK": "1"})
    assert again is nursery
    for each in kept.values():
        each.close()


@pytest.mark.parametrize("module", ["nursery_threaded", "nursery_on_a_gpu"])
def test_where_forks_are_not_safe_processes_are_started(environment, module):
    assert nursery_for(module, {**os.environ, **environment}) is None
    assert output(environment, module)


def test_a_module_that_cannot_be_imported_fails_in_the_worker(environment):
    with WorkerPool(1, environment=environment) as pool:
        (outcome,) = pool.run("nursery_broken", [], timeout_s=120)
    assert outcome.status is None and "on purpose" in outcome.error


def test_nurseries_without_workers_are_ended(environment, monkeypatch):
    monkeypatch.setattr(worker_nursery, "MAX_NURSERIES", 1)
    variables = {**os.environ, **environment, "X": "2"}
    with WorkerPool(1, environment={**environment, "X": "2"}) as pool:
        pool.run("nursery_probe", [], timeout_s=120)
        used = nursery_for("nursery_probe", variables)
        assert used is not None and used.has_workers
        nursery_for("nursery_probe", {**variables, "X": "3"})
        assert used.is_alive
    nursery_for("nursery_probe", {**variables, "X": "4"})
    assert not used.is_alive
