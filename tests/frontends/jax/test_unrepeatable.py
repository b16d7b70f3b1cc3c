"""A real JAX run whose dropout has another key in every run."""

import sys

import pytest

from tests.paths import ROOT
from ttrace.check_job import run_check
from ttrace.check_request import CheckRequest
from ttrace.compare.backend import load_backend
from ttrace.errors import UnrepeatableError

JOB = ROOT / "tests" / "factories" / "verdict_jax_job.py"

pytestmark = pytest.mark.slow


def test_a_dropout_with_a_key_of_the_clock(tmp_path):
    command = [sys.executable, str(JOB)]
    request = CheckRequest(
        reference=command, candidate=command, out=tmp_path, num_noise_runs=1
    )
    with pytest.raises(UnrepeatableError, match="mb0/drop/output/0, the first"):
        run_check(request, load_backend("numpy"), on_stage=lambda stage: None)
