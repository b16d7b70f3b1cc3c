"""A right frontend passes the suite; each fault fails the test that is there for it."""

import pytest

from tests.testing.numpy_frontend import NumpyFrontend
from ttrace.errors import TensorIdError
from ttrace.testing import failed_checks

FAULTS = {
    "silent kind": (
        "test_every_kind_is_recorded_or_skipped_with_a_reason",
        "nothing of kind learning_rate is recorded or skipped",
    ),
    "no reason": (
        "test_every_kind_is_recorded_or_skipped_with_a_reason",
        "step0/@root/learning_rate/group0 is skipped without a reason",
    ),
    "stale excuse": (
        "test_what_is_said_not_to_be_recorded_is_not",
        "not_recorded names optimizer_state, and there is",
    ),
    "unasked": (
        "test_kinds_on_request_are_not_recorded_without_one",
        "step0/mb0/a/op/add was recorded unasked",
    ),
    "no operations": (
        "test_operations_take_what_is_recorded",
        "operations were asked for, and none is recorded",
    ),
    "operand is lost": (
        "test_operations_take_what_is_recorded",
        "takes 7.operand.0, which is not there",
    ),
    "operand comes later": (
        "test_operations_take_what_is_recorded",
        "takes 1.operand.0, which comes behind it",
    ),
    "no second step": ("test_every_step_is_recorded", "steps [0] were recorded of 2"),
    "unknown mesh": ("test_the_trace_is_a_conforming_source", "knows no mesh 'ranks'"),
    "no version": ("test_the_trace_names_its_origin", "names no version of it"),
    "counts runs": (
        "test_two_runs_record_the_same",
        "has other values in a second run",
    ),
    "not neutral": ("test_recording_changes_no_bit", "without recording and with it"),
    "wrong rows": (
        "test_layouts_put_the_whole_tensor_together",
        "put together from halves it differs from one",
    ),
    "lacks a half": (
        "test_layouts_put_the_whole_tensor_together",
        "no rank of halves holds some elements",
    ),
    "unfiltered": ("test_filters_are_honoured", "too many"),
    "filter loses": ("test_filters_are_honoured", "lost"),
    "all ranks": ("test_filters_are_honoured", "ranks [0, 1] recorded; {1} should"),
    "raises": (
        "test_a_full_disk_does_not_reach_the_training",
        "a full disk raised OSError into the training",
    ),
    "no noise": ("test_noise_changes_values_and_no_ids", "noise changes no value"),
    "ids of noise": ("test_noise_changes_values_and_no_ids", "has other ids"),
    "noise unsaid": ("test_noise_changes_values_and_no_ids", "is said to be None"),
    "loud noise": ("test_noise_is_small", "noise changes step0/mb0/a/output/0 by"),
    "noise without seed": (
        "test_the_noise_seed_decides_the_noise",
        "two noise seeds give the same outputs",
    ),
    "noise by counter": (
        "test_the_noise_seed_decides_the_noise",
        "differs in two runs of one noise seed",
    ),
    "noise by layout": (
        "test_noise_is_the_same_in_every_layout",
        "the noise in halves is not that in one",
    ),
}


class TestNumpyFrontend(NumpyFrontend):
    """Without a fault, through pytest as an outsider would run it."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_its_test(name):
    class Faulty(NumpyFrontend):
        fault = name

    test, sentence = FAULTS[name]
    failed = failed_checks(Faulty, [test])
    assert sentence in failed.get(test, ""), failed


def test_a_filter_that_changes_the_training():
    class Faulty(NumpyFrontend):
        fault = "not neutral"

    (failed,) = failed_checks(Faulty, ["test_filters_change_no_bit_of_the_training"])
    assert failed == "test_filters_change_no_bit_of_the_training"


def test_a_training_that_records_too_little_shows_nothing_of_full_disks():
    class Small(NumpyFrontend):
        max_file_bytes = 10**9

    failed = failed_checks(Small, ["test_a_full_disk_does_not_reach_the_training"])
    (sentence,) = failed.values()
    assert "counts as complete although the disk was full" in sentence


def test_ids_that_are_not_read_back(monkeypatch):
    def refuse(text: str):
        raise TensorIdError("not a tensor id", got=text, remedy="none")

    class Right(NumpyFrontend):
        pass

    monkeypatch.setattr("ttrace.testing.frontend_suite.parse_tensor_id", refuse)
    failed = failed_checks(Right, ["test_ids_round_trip"])
    assert "not a tensor id" in failed["test_ids_round_trip"]


def test_every_test_of_the_suite_has_its_fault():
    elsewhere = {"test_filters_change_no_bit_of_the_training", "test_ids_round_trip"}
    tests = {check.name for check in NumpyFrontend.checks()}
    assert tests == {test for test, _ in FAULTS.values()} | elsewhere
