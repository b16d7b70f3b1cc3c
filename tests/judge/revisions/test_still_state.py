"""State that only one run of JAX is given, and that no step changes."""

import numpy as np
import pytest

from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.pipeline import compare_traces

TABLE = np.arange(8, dtype=np.float32)


def run(*tables: np.ndarray, framework: str = "jax"):
    """The buffer as it was given, and as each step left it."""
    tensors = {"step0/mb0/@root/loss": np.ones((), np.float32)}
    for number, table in enumerate(tables):
        name = f"step{number - 1}/@root/updated_buffer/state.table"
        tensors[name if number else "step0/@root/buffer/state.table"] = table
    return memory_trace(tensors, framework=framework)


def unmatched(reference, candidate) -> int:
    report = compare_traces(reference, candidate, load_backend("numpy"))
    return report.counts.unmatched


def test_it_is_skipped_with_the_reason():
    backend = load_backend("numpy")
    for pair in ((run(), run(TABLE, TABLE)), (run(TABLE, TABLE), run())):
        report = compare_traces(*pair, backend)
        assert report.verdict == "pass" and report.counts.unmatched == 0
        (reason,) = report.counts.skipped_reasons
        assert reason.endswith(
            "it alone is given this, and no step changes it: what is computed with it "
            "is compared"
        )


@pytest.mark.parametrize("tables", [(TABLE, TABLE + 1), (TABLE,)])
def test_what_a_step_changes_or_may_change_is_unmatched(tables):
    assert unmatched(run(), run(*tables)) == len(tables)


def test_in_torch_buffers_belong_to_modules():
    runs = [run(*tables, framework="torch") for tables in ((), (TABLE, TABLE))]
    assert unmatched(*runs) == 2
