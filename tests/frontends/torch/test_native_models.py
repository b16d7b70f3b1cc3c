"""README's plain lines on models that torch parallelizes: real processes against one.

Every tensor is compared, no description is written; and bugs are found where they are.
"""

from collections.abc import Iterator

import pytest

from tests.paths import ROOT
from ttrace.examples.worker_pool import WorkerPools
from ttrace.ir.tensor_id import Kind, parse_tensor_id
from ttrace.judge.outcome import Outcome
from ttrace.judge.verdict import Status
from ttrace.pipeline import compare_traces, estimate_tolerance
from ttrace.recording.request import RecordRequest
from ttrace.store.reader import open_trace

pytest.importorskip("torch")

MODULE = "tests.factories.native_job"
