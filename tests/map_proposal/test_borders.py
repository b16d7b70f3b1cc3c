"""Modules that end elsewhere: left out of a map where what follows agrees."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.borders import MOVED, NAMES, Model
from tests.factories.traces import memory_trace
from ttrace.compare.backend import load_backend
from ttrace.ir.side import Side
from ttrace.map_proposal.proposing import Proposal, propose_map
from ttrace.map_proposal.summary import summary_lines
from ttrace.pipeline import compare_traces
from ttrace.report.model import Outcome, Report


def traces(reference: Model, candidate: Model):
    return (
        memory_trace(reference.tensors(Side.REFERENCE)),
        memory_trace(candidate.tensors(Side.CANDIDATE)),
    )


def proposed(reference, candidate) -> tuple[Proposal, Report]:
    proposal = propose_map(reference, candidate, Path("m.toml"))
    backend = load_backend("numpy")
    return proposal, compare_traces(
        reference, candidate, backend, map_file=proposal.map_file
    )


@pytest.mark.parametrize("at", ["emb", "head"])
@pytest.mark.parametrize("inside", Side)
@pytest.mark.parametrize("what", MOVED)
def test_what_moves_out_of_a_module_is_left_out(what, inside, at):
    pair = traces(
        *(
            Model(MOVED[what], at=at, inside=side is inside, num_steps=2)
            for side in Side
        )
    )
    proposal, report = proposed(*pair)
    assert report.verdict is Outcome.PASS, report.summary
    assert all(rule.verified for rule in proposal.map_file.rules)
    number = ("emb", "body", "head").index(at)
    for side in Side:
        (left,) = (one for one in proposal.left_out if one.side is side)
        assert not left.is_gap
        assert left.num_activations == 2  # in two steps
        assert NAMES[side][number] in left.patterns[0]
        follows = "what follows agrees" if at == "emb" else "losses and gradients agree"
        assert follows in left.reason
    is_factor = {"factor": 4.0, "negative factor": -0.5}.get(what)
    if is_factor is not None:
        factor = is_factor if inside is Side.REFERENCE else 1 / is_factor
        says = f"the reference's output is {factor:.4g} times the candidate's"
        line = next(line for line in summary_lines(proposal) if says in line)
        assert "harmless" in line
        assert "a factor that one side applies inside of the module" in line


@pytest.mark.parametrize("at", ["emb", "head"])
@pytest.mark.parametrize("inside", Side)
@pytest.mark.parametrize("what", MOVED)
def test_what_is_lost_stays_compared(what, inside, at):
    """One run does it inside of the module, the other not at all."""
    done, lost = Model(MOVED[what], at=at), Model(lambda x: x, at=at)
    pair = (done, lost) if inside is Side.REFERENCE else (lost, done)
    _, report = proposed(*traces(*pair))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == f"step0/mb0/{at}/output/0"


def test_another_factor_behind_the_module_stays_compared():
    reference = Model(MOVED["factor"])
    candidate = Model(MOVED["factor"], inside=False, given=lambda x: x * 1.01)
    proposal, report = proposed(*traces(reference, candidate))
    assert report.verdict is Outcome.DIVERGED
    assert any(not rule.verified for rule in proposal.map_file.rules)


def test_a_module_that_gives_what_it_is_given_is_no_proof():
    """Others have what it gives, too: its twin may be wrong all the same."""
    pair = []
    for side, factor in ((Side.REFERENCE, 1), (Side.CANDIDATE, 2)):
        tensors = Model(lambda x: x).tensors(side)
        x = tensors[f"step0/mb0/{NAMES[side][0]}/output/0"]
        drop = "drop" if side is Side.REFERENCE else "dropout"
        tensors[f"step0/{drop}/param/w"] = np.arange(5, dtype=np.float32)
        made = {
            f"step0/mb0/{drop}/input/0": x,
            f"step0/mb0/{drop}/output/0": factor * x,
        }
        tensors["step0/mb0/@root/loss"] *= factor  # something made use of it
        before = list(tensors.items())
        place = [name for name, _ in before].index(
            f"step0/mb0/{NAMES[side][1]}/input/0"
        )
        pair.append(dict([*before[:place], *made.items(), *before[place:]]))
    _, report = proposed(*map(memory_trace, pair))
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    assert report.first_divergence.id == "step0/mb0/drop/output/0"
