"""A float32 reference judges a bfloat16 candidate through the kinks of ReLU.

Where an activation is close to a kink, rounding to bfloat16 puts it on the other side,
and rounding to float32 does not: noise of the latter, however much it is multiplied,
knows nothing of it.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ttrace.compare.backend import load_backend
from ttrace.errors import UsageError
from ttrace.frontends import torch_capture
from ttrace.judge.tolerances.estimate import estimate_tolerance
from ttrace.pipeline import compare_traces
from ttrace.recording.request import RECORD_VARIABLE, RecordRequest
from ttrace.report.model import Outcome
from ttrace.store.reader import Trace, open_trace

BACKEND = load_backend("numpy")
BF16 = "bfloat16"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(32), nn.Linear(32, 128)
        self.act, self.pool, self.down = nn.ReLU(), nn.MaxPool1d(2), nn.Linear(64, 32)

    def forward(self, x):
        return x + self.down(self.pool(self.act(self.up(self.norm(x)))))


@pytest.fixture
def train(tmp_path, monkeypatch):
    numbers = iter(range(100))

    def train(seed, *, autocast=False, loss_scale=1.0, adam=False, **noise) -> Trace:
        out = Path(tmp_path / str(next(numbers)))
        request = RecordRequest(out=out, **noise)
        monkeypatch.setenv(RECORD_VARIABLE, request.to_environment()[RECORD_VARIABLE])
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(20, 32), *(Block() for _ in range(3)), nn.Linear(32, 10)
        )
        x, y = torch.randn(16, 20), torch.randint(10, (16,))
        make = torch.optim.AdamW if adam else torch.optim.SGD
        optimizer = make(model.parameters(), lr=1e-3 if adam else 0.1)
        with torch_capture.trace(model, optimizer) as trace:
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = F.cross_entropy(model(x).float(), y) * loss_scale
                trace.loss(loss)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                trace.step()
        monkeypatch.delenv(RECORD_VARIABLE)
        return open_trace(out)

    return train


def measured(train, reference, seed, **options):
    runs = [train(seed, noise_seed=number, **options) for number in (1, 2, 3)]
    return estimate_tolerance(reference, runs, BACKEND)


SLOW_SEEDS = [pytest.param(s, marks=pytest.mark.slow) for s in (0, 1, *range(4, 12))]


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
@pytest.mark.parametrize("seed", [2, 3, *SLOW_SEEDS])
def test_a_correct_run_passes_and_a_scale_of_three_percent_does_not(train, seed, adam):
    reference = train(seed, adam=adam)
    tolerances = measured(train, reference, seed, noise_dtype=BF16, adam=adam)
    assert tolerances.noise_dtype == BF16

    def compare(**options):
        candidate = train(seed, autocast=True, adam=adam, **options)
        return compare_traces(reference, candidate, BACKEND, tolerances=tolerances)

    report = compare()
    assert report.verdict is Outcome.PASS, report.summary
    assert report.largest_margin is not None and report.largest_margin < 0.9
    report = compare(loss_scale=1.03)
    assert report.verdict is Outcome.DIVERGED
    assert report.first_divergence is not None
    found = report.first_divergence  # where the scale is: behind the forward
    assert found.phase == "backward" or found.kind == "loss"


def test_coarse_noise_judges_no_fine_candidate(train):
    reference = train(0)
    tolerances = measured(train, reference, 0, noise_dtype=BF16)
    with pytest.raises(UsageError) as caught:
        compare_traces(reference, train(0), BACKEND, tolerances=tolerances)
    assert caught.value.what == (
        "the noise stands for coarser roundings than the candidate has"
    )
    assert caught.value.expected == "a candidate that computes in bfloat16"
    assert caught.value.got == "one that computes in the dtype of the reference"


def test_noise_runs_are_of_one_kind(train):
    reference = train(0)
    runs = [train(0, noise_seed=1), train(0, noise_seed=2, noise_dtype=BF16)]
    with pytest.raises(UsageError, match="stands for different roundings"):
        estimate_tolerance(reference, runs, BACKEND)


def test_it_is_half_a_step_of_the_coarser_dtype(train):
    plain, noisy = train(0), train(0, noise_seed=1, noise_dtype=BF16)
    (id_,) = (i for i in plain.info.tensors if str(i) == "step0/mb0/0/output/0")
    x, y = (t.load(t.info.tensors[id_].shards[0]) for t in (plain, noisy))
    steps = np.abs(x - y) / np.spacing(np.abs(x)) / 2**16
    assert 0.3 < np.median(steps) < 3  # of a linear layer whose input has noise, too


def test_autocast_is_a_setting_and_a_remark(train):
    plain, candidate = train(0), train(0, autocast=True)
    assert plain.info.ranks[0].settings["autocast"] == "off"
    assert candidate.info.ranks[0].settings["autocast"] == "bfloat16 on cpu"
    report = compare_traces(plain, candidate, BACKEND)
    assert report.setup.differences["autocast"] == ("off", "bfloat16 on cpu")
    assert not report.setup.binding
    assert report.remarks == (
        "the runs differ in precision, which is no other set-up: autocast off in the "
        "reference, bfloat16 on cpu in the candidate",
    )


def test_autocast_inside_of_the_model_is_seen(tmp_path, monkeypatch):
    """As Accelerate does, which wraps the forward: the model itself begins outside."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.layer(x)

    request = RecordRequest(out=tmp_path / "trace")
    monkeypatch.setenv(RECORD_VARIABLE, request.to_environment()[RECORD_VARIABLE])
    model = Model()
    with torch_capture.trace(model) as trace:
        for _ in range(2):
            model(torch.ones(2, 4)).sum().backward()
            trace.step()
    settings = open_trace(tmp_path / "trace").info.ranks[0].settings
    assert settings["autocast"] == "bfloat16 on cpu"
