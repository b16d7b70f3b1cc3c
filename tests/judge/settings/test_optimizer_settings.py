"""Settings of optimizers that differ, and what is no difference."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories.traces import Tensor, memory_trace
from tests.judge import test_evidence
from tests.judge.optimizers import test_adam_fit
from ttrace.compare.backend import load_backend
from ttrace.ir.optimizer_settings import setting_key, setting_text
from ttrace.judge.settings.optimizer_settings import optimizer_differences
from ttrace.judge.tolerances.setup import compare_settings
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome

VALUES = {"step0/a/param/w": np.ones(3, np.float32)}


def settings(*groups, **common):
    """Of numbered groups, and of all."""
    return {
        setting_key(index, name): setting_text(value)
        for index, group in enumerate(groups)
        for name, value in group.items()
    } | {setting_key(None, name): setting_text(v) for name, v in common.items()}


def differences(reference, candidate):
    sides = [memory_trace(VALUES, settings=s).info for s in (reference, candidate)]
    found = optimizer_differences(*sides)
    compared = compare_settings(*sides)
    assert compared.all == {d.label: (d.reference, d.candidate) for d in found}
    assert not compared.model
    return [each.sentence for each in found]


ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}


def test_a_setting_of_a_group_that_differs():
    assert differences(settings(ADAM), settings({**ADAM, "betas": (0.9, 0.95)})) == [
        "optimizer setting betas of group 0: reference (0.9, 0.999), "
        "candidate (0.9, 0.95)"
    ]
    many = [{"eps": 1e-8}] * 3
    assert differences(settings(*many), settings(*[{"eps": 1e-6}] * 3)) == [
        "optimizer setting eps of groups 0, 1, 2: reference 1e-08, candidate 1e-06"
    ]


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (settings(ADAM), settings(ADAM)),
        (settings({**ADAM, "amsgrad": False}), settings(ADAM)),  # one knows it
        (settings(ADAM), {}),
        (settings(ADAM), settings(**ADAM)),  # torch, and a chain of optax
        # In another order, and cut into other groups.
        (
            settings({"weight_decay": 0.1}, {"weight_decay": 0}),
            settings({"weight_decay": 0}, {"weight_decay": 0.1}),
        ),
        (
            settings({"weight_decay": 0.1}, {"weight_decay": 0}),
            settings(weight_decay=0.1),  # and a mask, as far as is known
        ),
    ],
)
def test_what_is_no_difference(reference, candidate):
    assert differences(reference, candidate) == []
    assert differences(candidate, reference) == []


def test_groups_that_are_all_set_alike_are_one():
    assert differences(settings(ADAM, ADAM), settings(betas=(0.9, 0.95))) == [
        "optimizer setting betas: reference (0.9, 0.999), candidate (0.9, 0.95)"
    ]


def with_settings(trace, *groups):
    stated = trace.info.ranks[0].settings
    assert isinstance(stated, dict)
    stated |= settings(*groups)
    return trace


def test_betas_that_explain_the_moments_are_named_with_the_setting():
    found = test_adam_fit.sentence(
        with_settings(test_adam_fit.run(betas=(0.9, 0.95)), {"betas": (0.9, 0.95)}),
        with_settings(test_adam_fit.run(), {"betas": (0.9, 0.999)}),
    )
    assert found is not None and found.endswith(
        "; the gradients agree; optimizer setting betas of group 0: reference "
        "(0.9, 0.999), candidate (0.9, 0.95)"
    )


def sgd(decay, *, says, rate=0.1):
    return with_settings(
        test_evidence.run(decay=decay, rate=rate), {"weight_decay": says}
    )


def test_a_weight_decay_that_explains_the_update_is_named_with_the_setting():
    found = test_evidence.diagnoses(sgd(1e-3, says=0.01), sgd(0.0, says=0.0))
    assert found["weight_decay"].sentence.endswith(
        "learning rate x weight decay (optimizer setting weight_decay of group 0: "
        "reference 0, candidate 0.01) is another on a/w, b/w, c/w"
    )
    assert "optimizer_settings" not in found


def test_a_weight_decay_that_does_not_explain_the_update_is_no_cause():
    found = test_evidence.diagnoses(sgd(1e-3, says=0.5), sgd(0.0, says=0.0))
    assert "optimizer setting" not in found["weight_decay"].sentence
    assert found["optimizer_settings"].sentence == (
        "3 tensors (updated_param) differ while what the optimizer was given agrees, "
        "and it is set otherwise: optimizer setting weight_decay of group 0: reference "
        "0, candidate 0.5"
    )


def test_other_settings_are_named_where_the_update_is_wrong_alone():
    candidate = with_settings(test_evidence.run(), {"momentum": 0.9})
    for name in test_evidence.NAMES:
        candidate.arrays[0, f"step1/{name}/updated_param/w"][0] += np.float32(1)
    reference = with_settings(test_evidence.run(), {"momentum": 0.0})
    found = test_evidence.diagnoses(candidate, reference)["optimizer_settings"]
    assert found.sentence.endswith(
        "optimizer setting momentum of group 0: reference 0, candidate 0.9"
    )
    assert found.tensor_ids == tuple(
        f"step1/{name}/updated_param/w" for name in test_evidence.NAMES
    )


def test_a_state_of_the_whole_optimizer_has_no_gradient():
    name = "step0/@root/optimizer_state/count"
    runs = [memory_trace({name: np.full((), n, np.float32), **VALUES}) for n in (1, 2)]
    found = test_evidence.diagnoses(
        with_settings(runs[0], {"eps": 1e-8}), with_settings(runs[1], {"eps": 1e-6})
    )
    assert "optimizer_settings" not in found


def test_settings_explain_no_gradient():
    candidate = with_settings(test_evidence.run(), {"momentum": 0.9})
    for name in test_evidence.NAMES:
        candidate.arrays[0, f"step1/{name}/main_grad/w"] += np.float32(1)
        candidate.arrays[0, f"step1/{name}/updated_param/w"] += np.float32(1)
    reference = with_settings(test_evidence.run(), {"momentum": 0.0})
    assert "optimizer_settings" not in test_evidence.diagnoses(candidate, reference)


def test_settings_that_change_nothing_recorded_fail_nothing():
    reference, candidate = (
        with_settings(test_evidence.run(), {"eps": eps}) for eps in (1e-8, 1e-6)
    )
    report = compare_traces(reference, candidate, load_backend("numpy"))
    assert report.verdict is Outcome.PASS
    label = "optimizer setting eps of group 0"
    assert report.setup.differences == {label: ("1e-08", "1e-06")}


def labelled(**values):
    return {setting_key(label, "nesterov"): str(v) for label, v in values.items()}


def test_settings_of_labels_are_told_by_them():
    assert differences(
        labelled(slow=True, fast=False), labelled(slow=False, fast=False)
    ) == ["optimizer setting nesterov of label slow: reference True, candidate False"]
    # Labels have names: the other way round is no order of groups.
    assert differences(
        labelled(slow=True, fast=False), labelled(slow=False, fast=True)
    ) == [
        "optimizer setting nesterov of label slow: reference True, candidate False",
        "optimizer setting nesterov of label fast: reference False, candidate True",
    ]
    assert differences(
        labelled(slow=True, fast=True), labelled(slow=False, fast=False)
    ) == [
        "optimizer setting nesterov of labels slow, fast: reference True, candidate "
        "False"
    ]


def test_a_setting_that_differs_is_named_before_an_unknown_learning_rate():
    """One that the update may be multiplied by, too."""
    plain = test_evidence.diagnoses(test_evidence.run(more=2.0), test_evidence.run())
    assert "scaled_update" in plain
    found = test_evidence.diagnoses(
        with_settings(test_evidence.run(more=2.0), {"nesterov": False}),
        with_settings(test_evidence.run(), {"nesterov": True}),
    )
    assert "scaled_update" not in found
    assert found["optimizer_settings"].sentence.endswith(
        "optimizer setting nesterov of group 0: reference True, candidate False"
    )


def on_ranks(*ways):
    """A run of as many ranks, each with settings of its own."""
    info = memory_trace(VALUES, {"dp": len(ways)}).info
    return replace(
        info,
        ranks=tuple(
            replace(rank, settings=way)
            for rank, way in zip(info.ranks, ways, strict=True)
        ),
    )


def test_the_ranks_that_are_set_otherwise_are_named():
    decays, plain = settings({"weight_decay": 0.1}), settings({"weight_decay": 0.0})
    reference = on_ranks(plain)
    (found,) = optimizer_differences(reference, on_ranks(plain, decays, decays))
    assert found.sentence == (
        "optimizer setting weight_decay of group 0 on ranks 1, 2: reference 0, "
        "candidate 0.1"
    )
    (found,) = optimizer_differences(reference, on_ranks(decays, decays))
    assert found.sentence == (
        "optimizer setting weight_decay of group 0: reference 0, candidate 0.1"
    )
    # A rank that says nothing is none that differs.
    (found,) = optimizer_differences(reference, on_ranks(decays, {}))
    assert not found.ranks


def test_ranks_are_compared_with_those_that_are_set_like_them():
    decays, plain = settings({"weight_decay": 0.1}), settings({"weight_decay": 0.0})
    assert not optimizer_differences(on_ranks(plain, decays), on_ranks(plain, decays))
    swapped = optimizer_differences(on_ranks(plain, decays), on_ranks(decays, plain))
    assert [each.ranks for each in swapped] == [(0,), (1,)]
    cut = on_ranks(plain, plain, decays, decays)
    assert not optimizer_differences(on_ranks(plain, decays), cut)


def of_two_ranks(*, changes, says=(0.0, 0.0)):
    """An update that a rank makes otherwise, of gradients that are the same."""
    gradient = np.arange(4, dtype=np.float32) + 1
    name = "updated_param/w"

    def holding(values, rank=None):
        holders = None if rank is None else (rank,)
        return Tensor(full=values, exact_replicas=True, holders=holders)

    trace = memory_trace(
        {
            "step0/a/param/w": holding(10 * gradient),
            "step0/a/main_grad/w": holding(gradient),
            f"step0/a/{name}": holding(9 * gradient),
        },
        {"dp": 2},
    )
    if changes:
        trace.arrays[1, f"step0/a/{name}"] += np.float32(1)
    for rank, decay in zip(trace.info.ranks, says, strict=True):
        assert isinstance(rank.settings, dict)
        rank.settings.update(settings({"weight_decay": decay}))
    return trace


def test_a_setting_of_one_rank_is_no_reduction_that_is_missing():
    found = test_evidence.diagnoses(
        of_two_ranks(changes=True, says=(0.0, 0.5)), of_two_ranks(changes=False)
    )
    assert "replicas_differ" not in found
    assert found["optimizer_settings"].sentence == (
        "1 tensor (updated_param) differs while what the optimizer was given agrees, "
        "and it is set otherwise: optimizer setting weight_decay of group 0 on rank 1: "
        "reference 0, candidate 0.5"
    )


def test_replicas_of_updates_behind_gradients_that_agree_miss_no_reduction():
    found = test_evidence.diagnoses(
        of_two_ranks(changes=True), of_two_ranks(changes=False)
    )
    assert "optimizer_settings" not in found
    assert found["replicas_differ"].sentence == (
        "replicas of 1 tensor that must agree over dp do not: what the optimizers are "
        "given agrees on all ranks, so that they make something else of it over dp: "
        "look at their settings and their state, and at what hands parameters from "
        "rank to rank"
    )
