"""``ttrace replicas``: exit codes, and the replicas that are named."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.collective_traces import (
    Collective,
    collective_trace,
    write_collectives,
)
from tests.factories.traces import Tensor, memory_trace, write_trace
from ttrace.ir.layout import ShardLayout, whole
from ttrace.ir.tensor_id import parse_tensor_id
from ttrace.judge.tolerances.tolerance import NoiseEstimate, ToleranceTable

ID = "step0/layer/main_grad/weight"
OTHER = "step0/mb0/layer/output/0"
ONES = np.ones((2, 2), np.float32)


def by_rank(values, exact=True):
    """A tensor of which every rank believes to hold all, with values of its own."""

    class Replicas(Tensor):
        def local(self, mesh):
            return np.full((2, 2), values[mesh.coords["dp"]], np.float32)

    return Replicas(full=ONES, exact_replicas=exact)


def replicas(ttrace, tmp_path, tensors, num_ranks=2, **fields):
    trace = write_trace(tmp_path / "trace", tensors, {"dp": num_ranks}, **fields)
    return ttrace("replicas", trace.path, "--backend", "numpy")


def test_replicas_that_agree(ttrace, tmp_path):
    answer = replicas(ttrace, tmp_path, {ID: by_rank([1, 1]), OTHER: ONES})
    assert answer.code == 0
    assert answer.out == "2 of 2 tensors with replicas agree\n"


def test_replicas_that_differ(ttrace, tmp_path):
    answer = replicas(ttrace, tmp_path, {ID: by_rank([1, 1, 3]), OTHER: ONES}, 3)
    assert answer.code == 1
    assert "1 of 2 tensors with replicas agree" in answer.out
    assert ID in answer.out and OTHER not in answer.out
    (row,) = [line for line in answer.out.splitlines() if ID in line]
    assert row.split("│")[2].strip() == "2"  # the spread
    assert "2 from 0" in row


def test_only_the_replicas_that_differ_are_named(ttrace, tmp_path):
    answer = replicas(ttrace, tmp_path, {ID: by_rank([1, 1, 3])}, 3)
    assert "1 from 0" not in answer.out and "2 from 0" in answer.out


def assumed(values):
    """The same, of which nothing says that its ranks have the same."""

    class Assumed(Tensor):
        def layout(self, mesh):
            return replace(
                whole((2, 2), mesh.name),
                assumed_axes=("dp",),
                unknown_reason="write dims={'a': 'b h[dp]'}",
            )

        def local(self, mesh):
            return np.full((2, 2), values[mesh.coords["dp"]], np.float32)

    return Assumed(full=ONES)


def test_what_was_taken_for_a_replica_alone_is_doubted(ttrace, tmp_path):
    weights = "step0/mb0/layer/output/1"
    tensors = {OTHER: ONES, weights: assumed([1, 3]), ID: by_rank([1, 1])}
    answer = replicas(ttrace, tmp_path, tensors)
    assert answer.code == 0
    assert " ".join(answer.out.split()) == (
        "2 of 2 tensors with replicas agree of 1 more each rank has a value of its "
        f"own, which may be right, first {weights}: write dims={{'a': 'b h[dp]'}}"
    )


def test_it_is_a_fault_where_what_is_known_to_be_one_differs_too(ttrace, tmp_path):
    weights = "step0/mb0/layer/output/1"
    tensors = {OTHER: ONES, weights: assumed([1, 3]), ID: by_rank([1, 2])}
    answer = replicas(ttrace, tmp_path, tensors)
    assert answer.code == 1
    assert "1 of 3 tensors with replicas agree" in answer.out and weights in answer.out


def test_sum_without_a_partial(ttrace, tmp_path):
    def partial(mesh) -> ShardLayout:
        return whole((2, 2), mesh.name, partial_axes=("dp",))

    tensors = {ID: Tensor(full=ONES, dims=partial, holders=(0,)), OTHER: ONES}
    answer = replicas(ttrace, tmp_path, tensors)
    assert answer.code == 1 and "incomplete sum" in answer.out


def test_nothing_has_replicas(ttrace, tmp_path):
    answer = replicas(ttrace, tmp_path, {ID: Tensor(full=ONES, dims="a[dp] b")})
    assert answer.code == 2
    assert "no tensor of this trace has replicas" in answer.err
    assert str(tmp_path / "trace") in answer.err


def test_one_rank_has_no_replicas(ttrace, tmp_path):
    answer = replicas(ttrace, tmp_path, {ID: ONES}, 1)
    assert answer.code == 2 and answer.out == ""
    assert "the trace is of one rank, and there are no replicas to comp" in answer.err


def test_a_tolerance_file(ttrace, tmp_path):
    tensors = {OTHER: by_rank([1, 1.001], exact=False)}
    path = tmp_path / "tolerance.json"
    ToleranceTable(
        noise={parse_tensor_id(OTHER): NoiseEstimate(draws=(0.01,), reference_norm=2.0)}
    ).save(path)
    assert replicas(ttrace, tmp_path, tensors).code == 1
    trace = tmp_path / "trace"
    options = ("--tolerance", path, "--backend", "numpy")
    assert ttrace("replicas", trace, *options).code == 0
    missing = ttrace("replicas", trace, "--tolerance", tmp_path / "none.json")
    assert missing.code == 2 and "no tolerance file here" in missing.err


def test_missing_trace(ttrace, tmp_path):
    answer = ttrace("replicas", tmp_path / "none")
    assert answer.code == 2 and "there is no trace here" in answer.err


@pytest.mark.parametrize("is_right", [True, False])
def test_collectives_are_checked_against_their_definition(ttrace, tmp_path, is_right):
    total = ONES + ONES if is_right else ONES
    reduced = Collective(
        name="all_reduce",
        reduction="sum",
        operands={0: ONES, 1: ONES},
        results={0: total, 1: ONES + ONES},
    )
    others = memory_trace({OTHER: ONES}, {"tp": 2})
    path = tmp_path / "trace"
    write_collectives(path, collective_trace(reduced, others=others))
    for command in ("replicas", "lint"):
        answer = ttrace(command, path, "--backend", "numpy")
        assert answer.code == (0 if is_right else 1)
        said = "collective_result: what all_reduce at train.py:88 gave rank 0 ("
        assert (said in answer.out) is not is_right


def test_the_page(ttrace, tmp_path):
    trace = write_trace(
        tmp_path / "trace", {ID: by_rank([1, 1, 3]), OTHER: ONES}, {"dp": 3}
    )
    page = tmp_path / "page.html"
    options = ("--backend", "numpy", "--html")
    answer = ttrace("replicas", trace.path, *options, page)
    assert answer.code == 1 and answer.out.endswith(f"report: {page}\n")
    assert "1 tensor with replicas that differ" in page.read_text()
    answer = ttrace("replicas", trace.path, *options, "-")
    assert answer.code == 1 and answer.out == page.read_text()
    none = tmp_path / "none" / "page.html"
    answer = ttrace("replicas", tmp_path / "no-trace", *options, none)
    assert answer.code == 2 and "the folder for the file of --html" in answer.err


def test_how_much_is_shown(ttrace, tmp_path):
    ids = [f"step0/layers.{number}/main_grad/weight" for number in range(20)]
    trace = write_trace(
        tmp_path / "trace", {each: by_rank([1, 3]) for each in ids}, {"dp": 2}
    )
    options = ("replicas", trace.path, "--backend", "numpy")
    usual = ttrace(*options)
    assert "replicas that differ (12 of 20)" in usual.out and ids[12] not in usual.out
    full = ttrace(*options, "--verbose")
    assert full.code == 1 and all(each in full.out for each in ids)
    page = tmp_path / "page.html"
    brief = ttrace(*options, "--quiet", "--html", page)
    assert brief.code == 1 and page.exists()
    assert (brief.out, brief.err) == ("0 of 20 tensors with replicas agree\n", "")
