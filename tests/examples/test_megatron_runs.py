"""The main job on real megatron-core processes: correct layouts pass.

Everything but the start of the processes is what ``ttrace check`` does: the reference,
three perturbed runs of it, the candidate, tolerances, verdicts. Workers are kept alive
between runs. That bugs are found is shown by ``test_bug_zoo``.
"""

from collections.abc import Iterator

import pytest

from ttrace.backends.numpy_backend import NumpyBackend
from ttrace.errors import CommandError
from ttrace.examples.bug_zoo.bug import MEGATRON_SCRIPT
from ttrace.examples.bug_zoo.megatron_options import (
    CP2,
    DENSE,
    DP2,
    EP2,
    EXPERTS,
    PP2,
    TP2,
    TP2_SP,
)
from ttrace.examples.main_job import Launch, MainJob
from ttrace.report.model import Outcome

pytest.importorskip("megatron.core")


VPP = (
    *("--num-layers-per-virtual-pipeline-stage", "1"),
    "--overlap-p2p-communication",
)


@pytest.fixture(scope="module")
def job(tmp_path_factory, pools) -> Iterator[MainJob]:
    folder = tmp_path_factory.mktemp("runs")
    with MainJob(NumpyBackend(), folder, pools=pools) as main_job:
        yield main_job


def launch(*options: str, world_size: int = 1) -> Launch:
    one_step = ("--train-iters", "1")
    return Launch(
        script=MEGATRON_SCRIPT, options=(*options, *one_step), world_size=world_size
    )


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        pytest.param(DENSE, TP2, id="tp2"),
        pytest.param(DENSE, TP2_SP, id="tp2-sp"),
        pytest.param(DENSE, DP2, id="dp2"),
        pytest.param(EXPERTS, (*TP2_SP, *EP2), id="moe-tp2-sp-ep2"),
        pytest.param((*DENSE, "--bf16"), TP2_SP, id="tp2-sp-bf16"),
        pytest.param(DENSE, PP2, id="pp2"),
        pytest.param((*DENSE, "--num-layers", "4"), (*PP2, *VPP), id="pp2-vpp2"),
        pytest.param(DENSE, CP2, id="cp2"),
    ],
)
def test_correct_layout_passes(job, model, layout):
    report = job.check(launch(*model), launch(*model, *layout, world_size=2))
    assert report.verdict is Outcome.PASS, report.summary
    assert report.counts.failed == report.counts.unmatched == 0
    kinds = {tensor.kind for tensor in report.tensors if tensor.status == "passed"}
    assert kinds >= {
        *("param", "input", "output", "loss", "grad_output", "grad_input"),
        *("param_grad", "main_grad", "grad_norm", "learning_rate", "updated_param"),
    }


def test_failed_run_is_an_error_that_quotes_it(job):
    with pytest.raises(CommandError) as raised:
        job.check(launch(*DENSE), launch(*DENSE, "--lr", "-1", *TP2_SP, world_size=2))
    text = str(raised.value)
    assert "a training run failed" in text
    assert f"rank 0 of {MEGATRON_SCRIPT} --num-layers 2" in text
    assert "got:      2" in text and "an option is out of range" in text
