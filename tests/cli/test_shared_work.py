"""``compare`` and ``tolerance`` by several processes: the same report, or one error."""

import json

import numpy as np
import pytest

from tests.factories.traces import Tensor, write_trace

PARAM = "step0/layer0/param/weight"
NAMES = [
    f"step0/{place}"
    for number in range(5)
    for place in (
        f"mb0/layer{number}/output/0",
        f"layer{number}/main_grad/weight",
        f"layer{number}/updated_param/weight",
    )
]


def values(seed: float = 0.0):
    rng = np.random.default_rng(3)
    made = {
        name: rng.standard_normal((16, 8 * (1 + len(name) % 3))).astype(np.float32)
        for name in (*NAMES, PARAM)
    }
    made["step0/layer3/main_grad/weight"][5, 2] += seed
    return made


@pytest.fixture
def traces(tmp_path):
    """A run of one rank, another of four, which differs in one gradient."""
    one = write_trace(tmp_path / "one", values())
    sharded = {
        name: Tensor(full=full, dims="r[tp] c") for name, full in values(0.5).items()
    }
    four = write_trace(tmp_path / "four", sharded, {"tp": 4})
    return one.path, four.path


def reported(ttrace, *arguments):
    answer = ttrace("compare", *arguments, "--json", "-")
    return answer.code, json.loads(answer.out)


@pytest.mark.parametrize("count", (2, 4))
def test_the_report_is_the_same(ttrace, traces, count):
    alone = reported(ttrace, *traces, "--backend", "numpy")
    shared = reported(ttrace, *traces, "--backend", "numpy", "--processes", count)
    assert alone[0] == shared[0] == 1
    assert shared[1]["first_divergence"] is not None
    assert shared[1] == alone[1]


def test_by_jax_too(ttrace, traces):
    code, report = reported(ttrace, *traces, "--backend", "jax", "--processes", 2)
    assert code == 1 and report["backend"] == "jax"


def test_damage_that_another_process_reads_is_one_error(ttrace, traces):
    segment = max(traces[1].rglob("*"), key=lambda path: path.stat().st_size)
    damaged = bytearray(segment.read_bytes())
    damaged[-1] ^= 1
    segment.write_bytes(damaged)
    answer = ttrace("compare", *traces, "--backend", "numpy", "--processes", 3)
    assert answer.code == 2
    assert answer.err.count("ttrace: ") == 1
    assert "not those that were written" in answer.err or "differ" in answer.err
    assert segment.name in answer.err


def test_tolerances_are_the_same(ttrace, tmp_path):
    one = write_trace(tmp_path / "one", values()).path
    noisy = [
        write_trace(
            tmp_path / f"noise{seed}",
            {n: v if n == PARAM else v + 1e-6 * seed for n, v in values().items()},
            noise_seed=seed,
        ).path
        for seed in (1, 2)
    ]
    texts = []
    for count in (1, 2):
        out = tmp_path / f"tolerance{count}.json"
        answer = ttrace("tolerance", one, *noisy, "--out", out, "--processes", count)
        assert answer.code == 0, answer.err
        texts.append(json.loads(out.read_text()))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("given", ("0", "-1", "x"))
def test_a_number_of_processes_that_makes_no_sense(ttrace, traces, given):
    answer = ttrace("compare", *traces, "--processes", given)
    assert answer.code == 2 and "is not a whole number from 1 on" in answer.err


def test_distributed_without_a_launcher_says_so(ttrace, traces):
    answer = ttrace("compare", *traces, "--distributed")
    assert answer.code == 2
    assert "jax.distributed could not be set up" in answer.err
    assert "--processes N" in answer.err


def test_only_one_way_of_sharing(ttrace, traces):
    answer = ttrace("compare", *traces, "--distributed", "--processes", 2)
    assert answer.code == 2 and "not allowed with" in answer.err
