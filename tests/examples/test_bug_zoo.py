"""The bug zoo: what is registered, what a bug is, and a few bugs run for real."""

import dataclasses
import fnmatch
from pathlib import Path

import pytest

from tests.factories.reports import some_report
from tests.paths import ROOT
from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import UsageError
from ttrace.examples.bug_zoo import registry
from ttrace.examples.bug_zoo.bug import Bug, Place, Precision, place
from ttrace.examples.bug_zoo.jax_options import SCRIPT as JAX_SCRIPT
from ttrace.examples.bug_zoo.native_options import SCRIPT as NATIVE_SCRIPT
from ttrace.examples.bug_zoo.registry import load_zoo, select_bugs
from ttrace.examples.bug_zoo.result import judge_bug
from ttrace.examples.bug_zoo.runner import (
    buggy_launch,
    clean_launch,
    reference_launch,
    run_bug,
)
from ttrace.examples.main_job import MainJob
from ttrace.ir.kinds import Kind
from ttrace.report.model import FirstDivergence, Outcome

ZOO = {exhibit.bug.name: exhibit for exhibit in load_zoo()}

EXAMPLE = Bug(
    name="example",
    title="Something is wrong",
    source="Somewhere #1",
    breaks="something",
    model=("--a",),
    layout=("--b", "2"),
    first_seen=(place("x.*", Kind.OUTPUT),),
)


class TestRegistry:
    def test_every_file_of_the_packages_is_a_bug(self):
        folder = Path(registry.__file__).parent
        packages = [folder / name.rpartition(".")[2] for name in registry.PACKAGES]
        files = {
            path.stem
            for package in packages
            for path in package.glob("*.py")
            if path.stem != "__init__"
        }
        assert files == set(ZOO)

    def test_the_table_of_the_paper_is_covered_once(self):
        rows = [e.bug.paper_row for e in ZOO.values() if e.bug.paper_row is not None]
        assert sorted(rows) == list(range(1, 15))

    def test_there_are_at_least_thirty_five(self):
        assert len(ZOO) >= 35

    @pytest.mark.parametrize("name", ZOO)
    def test_bug_is_complete(self, name):
        exhibit = ZOO[name]
        bug = exhibit.bug
        assert exhibit.path.stem == name
        # Without a patch the layouts must differ: one of them is wrong by itself.
        assert exhibit.is_patch or bug.twin_layout != bug.layout
        # A process of JAX has several devices; checkpointing needs no second process.
        alone = (JAX_SCRIPT, NATIVE_SCRIPT)
        assert (0 if bug.script in alone else 1) < bug.world_size <= 8
        assert "--train-iters" not in (*bug.model, *bug.layout)
        for place_ in bug.first_seen:
            assert place_.kinds <= set(Kind)
            # A pattern that matches itself with its wildcards filled in is well formed.
            assert fnmatch.fnmatchcase(place_.module.replace("*", "x"), place_.module)

    def test_selection_keeps_the_order_and_names_each_once(self):
        names = ["router_weight", "embedding_mask", "router_weight"]
        selected = [exhibit.bug.name for exhibit in select_bugs(names)]
        assert selected == ["router_weight", "embedding_mask"]
        assert [e.bug.name for e in select_bugs([])] == sorted(ZOO)

    def test_unknown_name_is_refused(self):
        with pytest.raises(
            UsageError, match="there is no such bug in the zoo"
        ) as error:
            select_bugs(["no_such_bug"])
        assert error.value.where == "no_such_bug"
        assert "embedding_mask" in str(error.value.expected)


class TestBug:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"name": "Not a file"}, "the name of a bug is that of a file"),
            ({"title": ""}, "has no title"),
            ({"source": ""}, "has no source"),
            ({"breaks": ""}, "has no breaks"),
            ({"first_seen": ()}, "has no first_seen"),
            ({"title": "A sentence."}, "not one phrase"),
            ({"world_size": 0}, "needs a process and a step"),
            ({"num_steps": 0}, "needs a process and a step"),
        ],
    )
    def test_incomplete_bug_is_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(EXAMPLE, **change)

    def test_place_without_kinds_is_refused(self):
        with pytest.raises(ValueError, match="without modules or kinds"):
            Place(module="x", kinds=frozenset())

    def test_right_place_is_module_and_kind(self):
        assert EXAMPLE.is_seen_at("x.y", "output")
        assert not EXAMPLE.is_seen_at("x.y", "input")
        assert not EXAMPLE.is_seen_at("y", "output")

    def test_reference_gets_precision_and_steps(self):
        bug = dataclasses.replace(EXAMPLE, precision=Precision.BF16, num_steps=3)
        assert bug.common_options == ("--a", "--bf16", "--train-iters", "3")


class TestJudgement:
    @pytest.mark.parametrize(
        ("is_setup", "verdict", "phase", "found"),
        [
            (True, Outcome.ERROR, "set-up", True),
            (True, Outcome.ERROR, "forward", False),
            (True, Outcome.DIVERGED, "forward", False),
            (False, Outcome.ERROR, "set-up", False),
            (False, Outcome.DIVERGED, "forward", True),
        ],
    )
    def test_other_data_are_found_as_a_setup_difference(
        self, is_setup, verdict, phase, found
    ):
        bug = dataclasses.replace(EXAMPLE, is_setup=is_setup)
        first = FirstDivergence(
            id="step0/x.y/output/0",
            module="x.y",
            kind="output",
            phase=phase,
            sentence="",
        )
        clean = some_report(verdict=Outcome.PASS)
        buggy = some_report(verdict=verdict, first_divergence=first)
        result = judge_bug(bug, clean, buggy, seconds=1.0)
        assert result.found is found
        assert result.module_right

    @pytest.mark.parametrize(
        "stated, right", [("replicas_differ", True), ("scaled", False), (None, None)]
    )
    def test_the_first_diagnosis_must_be_the_one_that_was_stated(self, stated, right):
        bug = dataclasses.replace(EXAMPLE, expected_code=stated)
        clean = some_report(verdict=Outcome.PASS)
        first = some_report().diagnosis[0]
        more = dataclasses.replace(first, code="scaled")
        buggy = some_report(diagnosis=(first, more))
        result = judge_bug(bug, clean, buggy, seconds=1.0)
        assert (result.expected_code, result.code_right) == (stated, right)
        silent = judge_bug(bug, clean, some_report(diagnosis=()), seconds=1.0)
        assert silent.code_right is (None if stated is None else False)

    def test_stated_codes_are_codes_of_rules(self):
        """Read from the sources: a rule states its code where it makes a diagnosis."""
        rules = "".join(
            path.read_text(encoding="utf-8")
            for path in (ROOT / "ttrace" / "judge" / "rules").glob("*.py")
        )
        stated = {e.bug.expected_code for e in ZOO.values()} - {None}
        assert stated and all(f'"{code}"' in rules for code in stated)
        own = ("plain_torch", "torch_bugs", "jax_bugs")
        bugs = [e.bug for e in ZOO.values() if e.path.parent.name in own]
        assert all(bug.expected_code or bug.diagnosis is None for bug in bugs)


class TestLaunches:
    def test_only_the_bug_is_patched(self):
        exhibit = ZOO["final_layernorm"]
        assert reference_launch(exhibit.bug).patches == ()
        assert clean_launch(exhibit.bug).patches == ()
        assert buggy_launch(exhibit).patches == (exhibit.path,)

    def test_a_common_patch_is_applied_to_all(self):
        exhibit = ZOO["fp8_amax_group"]
        (common,) = reference_launch(exhibit.bug).patches
        assert common.name == "fp8_linears.py"
        assert clean_launch(exhibit.bug).patches == (common,)
        assert buggy_launch(exhibit).patches == (common, exhibit.path)

    def test_a_live_bug_is_another_layout(self):
        exhibit = ZOO["live_expert_gradients"]
        clean, buggy = clean_launch(exhibit.bug), buggy_launch(exhibit)
        assert buggy.patches == ()
        assert clean.options != buggy.options


@pytest.fixture(scope="module")
def job(pools):
    pytest.importorskip("megatron.core")
    with MainJob(NumpyBackend(), pools=pools) as main_job:
        yield main_job


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("embedding_mask", "output"),
        ("final_layernorm", "main_grad"),
        ("live_expert_gradients", "main_grad"),
        ("gdn_output_norm", "main_grad"),
        ("mla_query_norm_twice", "main_grad"),
    ],
)
def test_bug_is_found_in_the_right_place(name, kind, job):
    result = run_bug(ZOO[name], job)
    assert result.as_expected, result.reason
    assert result.kind == kind
    assert result.diagnosis_right is not False
    assert result.margin is not None and result.margin > 100


def test_failed_run_is_a_row_that_says_so(job):
    exhibit = ZOO["final_layernorm"]
    bug = dataclasses.replace(exhibit.bug, layout=("--lr", "-1"))
    result = run_bug(dataclasses.replace(exhibit, bug=bug), job)
    assert result.clean == "error" and not result.found
    assert "a training run failed" in result.reason
    assert not result.as_expected
