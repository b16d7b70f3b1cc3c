"""The pool that the multi-process tests stand on."""

import pytest

from ttrace.examples.worker_pool import WorkerPool

pytest.importorskip("torch")

_MODULE = "worker_pool_probe"


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    (folder / f"{_MODULE}.py").write_text(
        "import os, sys, torch, torch.distributed as dist\n"
        "def main(argv):\n"
        "    rank = dist.get_rank()\n"
        "    if argv == ['raise'] and rank == 1:\n"
        "        raise ValueError('on purpose')\n"
        "    if argv == ['die'] and rank == 1:\n"
        "        os._exit(3)\n"
        "    total = torch.ones(1)\n"
        "    dist.all_reduce(total)\n"
        "    print(rank, total.item(), os.environ.get('PROBE'))\n"
        "    return 2 if argv == ['refuse'] else 0\n"
    )
    with WorkerPool(2, environment={"PYTHONPATH": str(folder)}) as pool:
        yield pool


def test_every_rank_runs_and_is_heard(pool):
    outcomes = pool.run(_MODULE, [], environment={"PROBE": "set"})
    assert [o.status for o in outcomes] == [0, 0]
    assert [o.output for o in outcomes] == ["0 2.0 set\n", "1 2.0 set\n"]


def test_a_refusal_leaves_the_pool_in_use(pool):
    assert [o.status for o in pool.run(_MODULE, ["refuse"])] == [2, 2]
    assert "None" in pool.run(_MODULE, [])[0].output


@pytest.mark.parametrize(
    ("what", "reason"), [("raise", "on purpose"), ("die", "the worker died")]
)
def test_a_failing_rank_is_named_and_the_pool_recovers(pool, monkeypatch, what, reason):
    monkeypatch.setattr("ttrace.examples.worker_pool.GRACE_S", 1)
    first, second = pool.run(_MODULE, [what])
    assert first.status is None and second.status is None
    assert reason in second.error
    assert [o.status for o in pool.run(_MODULE, [])] == [0, 0]
