"""Unverified pairs that are unlike, while what follows agrees: no divergence."""

import pytest

from tests.factories.borders import MOVED, Model
from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.side import Side
from ttrace.judge.verdicts.structure import StructureDifference
from ttrace.mapping.map_file import read_map
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report


@pytest.fixture
def map_file(tmp_path):
    def make(unverified=("emb", "head"), kinds=("output", "grad_output")):
        text = "version = 1\n"
        for own, other in (("emb", "tok"), ("body", "core"), ("head", "out")):
            text += (
                f'[[tensor]]\nreference = "{own}/{{kind}}/weight"\n'
                f'candidate = "{other}/{{kind}}/kernel"\n'
                f'[[tensor]]\nreference = "{own}/{{kind}}/0"\n'
                f'candidate = "{other}/{{kind}}/0"\nkinds = ["input"]\n'
                f'[[tensor]]\nreference = "{own}/{{kind}}/0"\n'
                f'candidate = "{other}/{{kind}}/0"\nkinds = {list(kinds)}\n'
            )
            text += "verified = false\n" if own in unverified else ""
        (tmp_path / "map.toml").write_text(text)
        return read_map(tmp_path / "map.toml")

    return make


def compare(reference, candidate, *, map_file, **options) -> Report:
    own, other = [
        memory_trace(run.tensors(side) if isinstance(run, Model) else run)
        for side, run in zip(Side, (reference, candidate), strict=True)
    ]
    backend = load_backend("numpy")
    return compare_traces(own, other, backend, map_file=map_file, **options)


def pair(what, inside, at="emb", **options):
    return [
        Model(MOVED[what], at=at, inside=side is inside, num_steps=2, **options)
        for side in Side
    ]


@pytest.mark.parametrize("at", ["emb", "head"])
@pytest.mark.parametrize("inside", Side)
@pytest.mark.parametrize("what", MOVED)
def test_a_module_that_ends_elsewhere(what, inside, at, map_file):
    report = compare(*pair(what, inside, at), map_file=map_file())
    assert report.verdict is Outcome.PASS, report.summary
    behind = "body" if at == "emb" else "@root"
    assert report.structure == (
        StructureDifference(
            modules=f"{at}/output/0", present="both", around=behind, num_tensors=2
        ),
    )
    said = "the model" if at == "head" else "body"
    assert report.summary.endswith(
        f"Structure differs: {at}/output/0 is not the same in both runs, while {said}, "
        "behind it, agrees."
    )
    (reason,) = report.counts.skipped_reasons
    where = "at body" if at == "emb" else "in all of the model"
    assert f"what follows agrees, {where}: " in reason
    if what == "factor":
        factor = 0.25 if inside is Side.REFERENCE else 4
        assert f"it is {factor:g} times the reference's" in reason
        assert "a factor that one run has inside of the module" in reason
    elif what == "bias":
        assert "its values differ" in reason


@pytest.mark.parametrize("at", ["emb", "head"])
def test_a_verified_pair_stays_a_divergence(at, map_file):
    report = compare(
        *pair("factor", Side.REFERENCE, at), map_file=map_file(unverified=())
    )
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"step0/mb0/{at}/output/0"


def test_strict_structure_counts_it(map_file):
    models = pair("factor", Side.REFERENCE)
    report = compare(*models, map_file=map_file(), strict_structure=True)
    assert report.verdict is Outcome.DIVERGED


@pytest.mark.parametrize("at", ["emb", "head"])
@pytest.mark.parametrize("what", MOVED)
def test_what_the_candidate_lacks_is_a_divergence(what, at, map_file):
    lost = Model(lambda x: x, at=at, num_steps=2)
    report = compare(Model(MOVED[what], at=at, num_steps=2), lost, map_file=map_file())
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"step0/mb0/{at}/output/0"
    assert not report.structure


def test_a_real_divergence_is_the_headline(map_file):
    """The module ends elsewhere, and another one further on is wrong."""
    reference, candidate = pair("factor", Side.REFERENCE)
    tensors = candidate.tensors(Side.CANDIDATE)
    for name in tensors:
        if name.startswith("step0/mb0/") and ("core/output" in name or "out/" in name):
            tensors[name] = tensors[name] * 1.1
    report = compare(reference, tensors, map_file=map_file())
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/body/output/0"
    assert [d.modules for d in report.structure] == ["emb/output/0"]


@pytest.mark.parametrize("is_right", [True, False])
def test_its_gradient_goes_with_it_where_those_of_parameters_agree(is_right, map_file):
    reference, candidate = pair("factor", Side.REFERENCE)
    own, other = reference.tensors(Side.REFERENCE), candidate.tensors(Side.CANDIDATE)
    gradient = own["step0/mb0/emb/output/0"] / 7
    own["step0/mb0/emb/grad_output/0"] = gradient
    other["step0/mb0/tok/grad_output/0"] = 4 * gradient
    if not is_right:
        other["step0/tok/main_grad/kernel"] = 2 * other["step0/tok/main_grad/kernel"]
    report = compare(own, other, map_file=map_file())
    failed = sorted(tensor.id for tensor in report.failed())
    assert failed == (
        []
        if is_right
        else ["step0/emb/main_grad/weight", "step0/mb0/emb/grad_output/0"]
    )
