"""Parts with noise of their own: measured, kept, and judged by it."""

import json

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.judge.tolerances.tolerance import ToleranceTable
from ttrace.mapping.map_file import read_map
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report
from ttrace.report.text import render_text

BIAS = "step1/attn/updated_param/bias"
GRADIENT, TABLE = "step0/table/main_grad/weight", "step0/table/updated_param/weight"
RNG = np.random.default_rng(0)
QKV = RNG.normal(scale=0.02, size=96).astype(np.float32)
ROWS = RNG.normal(size=(64, 8)).astype(np.float32)
TOUCHED = np.zeros((64, 1), np.float32)
TOUCHED[::3] = 1


def updated(seed, *, decay=0.0, part=slice(0, 32)):
    """A fused bias after Adam: its key part is noise, query and value round."""
    rng = np.random.default_rng(seed)
    values = QKV.copy()
    values[32:64] += rng.choice([-1e-3, 1e-3], 32).astype(np.float32)
    values *= 1 + 3e-8 * rng.normal(size=96).astype(np.float32)
    values[part] *= np.float32(1 - decay)
    return values


def rows(seed, *, decay=0.0):
    """A table after Adam: rows that no token touched only decay."""
    rng = np.random.default_rng(seed)
    noise = rng.choice([-1e-3, 0, 1e-3], ROWS.shape).astype(np.float32) * TOUCHED
    return (ROWS + noise) * np.float32(1 - decay)


def run(values, seed=None, gradient=None, text=BIAS, dims=None, sizes=None):
    tensors: dict = {} if gradient is None else {GRADIENT: gradient}
    tensors[text] = Tensor(full=values, dims=dims)
    return memory_trace(tensors, sizes, noise_seed=seed)


def measured(make, **options) -> tuple:
    reference = run(make(0), **options)
    noise_runs = [run(make(seed), seed, **options) for seed in (1, 2, 3)]
    return reference, estimate_tolerance(reference, noise_runs, load_backend("numpy"))


def compare(reference, candidate, table, **options) -> Report:
    return compare_traces(
        reference, candidate, load_backend("numpy"), tolerances=table, **options
    )


@pytest.mark.parametrize("dims", [None, "f[tp]"])
def test_a_wrong_decay_shows_behind_the_noise_of_the_key(dims):
    reference, table = measured(updated)
    options = {"dims": dims, "sizes": {"tp": 2} if dims else None}
    for seed in range(10, 20):
        report = compare(reference, run(updated(seed), **options), table)
        assert report.verdict is Outcome.PASS, report.tensors[0].reason
    report = compare(reference, run(updated(10, decay=1e-4), **options), table)
    assert report.verdict is Outcome.DIVERGED
    (tensor,) = report.tensors
    assert tensor.failed_part is not None
    assert tensor.margin is not None and tensor.margin > 10
    assert tensor.rel_err is not None and tensor.tolerance is not None
    assert tensor.failed_part.name == "0:32, 64:96 of dim 0"
    assert tensor.rel_err < tensor.tolerance  # as a whole it passes
    assert tensor.reason.startswith(
        "rel_err 6.11e-05 of its part 0:32, 64:96 of dim 0 exceeds that part's "
        "tolerance 5.99e-07"
    )
    assert "its part 0:32, 64:96 of dim 0" in render_text(report)
    assert Report.from_json(report.to_json()) == report


def a_step(seed, *, is_turned=False, decay=0.0):
    """The bias, its gradient and its start; one element of the query has hardly any."""
    rng = np.random.default_rng(seed)
    gradient = np.ones(96, np.float32)
    gradient[32:64] = rng.normal(scale=1e-6, size=96)[32:64]
    gradient[5] = -1e-7 if is_turned else 1e-7
    after = updated(seed, decay=decay)
    after[5] = QKV[5] - 1e-3 * np.sign(gradient[5])
    return memory_trace(
        {
            "step0/attn/param/bias": QKV,
            "step0/attn/main_grad/bias": gradient,
            "step0/attn/updated_param/bias": after,
        },
        noise_seed=seed if seed in (1, 2, 3) else None,
    )


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"is_turned": True}, Outcome.PASS),
        ({"is_turned": True, "decay": 1e-1}, Outcome.DIVERGED),
    ],
)
def test_an_update_that_turns_in_a_quiet_part_is_noise(options, verdict):
    """Noise runs turned none there: one element of many thousands does."""
    reference = a_step(0)
    table = estimate_tolerance(
        reference, [a_step(seed) for seed in (1, 2, 3)], load_backend("numpy")
    )
    assert len(table.noise[parse_tensor_id("step0/attn/updated_param/bias")].parts) == 2
    report = compare(reference, a_step(10, **options), table)
    assert report.verdict is verdict, report.summary


def test_the_parts_of_a_map_have_names(tmp_path):
    (tmp_path / "map.toml").write_text(
        "version = 1\n[[tensor]]\n"
        'reference = "attn/updated_param/bias"\n'
        'candidate = ["q/updated_param/b", "k/updated_param/b", "v/updated_param/b"]\n'
        'transform = "h -> (qkv h)"\njoin = "qkv"\n'
    )
    reference, table = measured(updated)
    q, k, v = np.split(updated(10, decay=1e-4, part=slice(64, 96)), 3)
    candidate = memory_trace(
        {f"step1/{n}/updated_param/b": x for n, x in zip("qkv", (q, k, v), strict=True)}
    )
    report = compare(
        reference, candidate, table, map_file=read_map(tmp_path / "map.toml")
    )
    (tensor,) = report.tensors
    assert tensor.failed_part is not None
    assert tensor.failed_part.name == "64:96 of dim 0 (v/b)"


def test_rows_that_no_token_touched():
    options = {"gradient": ROWS * TOUCHED, "text": TABLE}
    reference, table = measured(rows, **options)
    quiet, loud = table.noise[parse_tensor_id(TABLE)].parts
    assert quiet.is_untouched and not loud.is_untouched
    assert loud.part.ranges[:2] == ((0, 1), (3, 4))
    report = compare(reference, run(rows(10), **options), table)
    assert report.verdict is Outcome.PASS
    report = compare(reference, run(rows(10, decay=1e-5), **options), table)
    (tensor,) = report.failed()
    assert tensor.failed_part is not None
    assert tensor.failed_part.name == (
        "1:3, 4:6, 7:9, 10:12 and 17 more ranges of dim 0, rows that no gradient "
        "reached"
    )


def test_a_table_without_gradients_has_no_parts():
    """Which rows no token touched is told by their gradient alone."""
    _, table = measured(rows, text=TABLE)
    assert not table.noise[parse_tensor_id(TABLE)].parts


def test_a_file_keeps_them_and_an_older_one_lacks_them(tmp_path):
    reference, table = measured(updated)
    path = tmp_path / "tolerance.json"
    table.save(path)
    assert ToleranceTable.load(path) == table
    value = json.loads(path.read_text())
    del value["noise"][BIAS]["parts"]
    path.write_text(json.dumps(value))
    report = compare(reference, run(updated(10, decay=1e-4)), ToleranceTable.load(path))
    assert report.verdict is Outcome.PASS
