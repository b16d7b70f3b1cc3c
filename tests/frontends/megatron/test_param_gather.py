"""When updated parameters that the next forward gathers are recorded, and as what."""

import types
from typing import Any

import pytest

pytest.importorskip("megatron.core")

import torch  # noqa: E402

from ttrace.examples.megatron_gpt import warnings_of_megatron  # noqa: E402

warnings_of_megatron.quiet()

from ttrace.frontends.megatron_parts.param_gather import (  # noqa: E402
    ParameterGathers,
    gathers_in_forward,
)
from ttrace.frontends.torch_parts.description import FlatPart, NamedParameter  # noqa: E402
from ttrace.ir.kinds import Kind  # noqa: E402


class Group:
    """A group of buckets; the part of it that says when its gather is complete."""

    def __init__(self, *params: torch.nn.Parameter):
        self.params = set(params)
        self.param_gather_dispatched = False
        self.param_gather_handle: object | None = None

    def start_param_sync(self, force_sync: bool = False):
        self.param_gather_dispatched = True
        self.param_gather_handle = None if force_sync else object()

    def finish_param_sync(self):
        if not self.param_gather_dispatched:
            self.start_param_sync()
        self.param_gather_handle = None


class Training:
    """A rank that owns half of each parameter; notes what is written, in order."""

    def __init__(self):
        self.first, self.second = (
            torch.nn.Parameter(torch.full((4,), value)) for value in (1.0, 2.0)
        )
        self.frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.groups = [Group(self.first), Group(self.second)]
        self.written: list[tuple[str, Any]] = []
        self.is_wanted = True
        chunk = types.SimpleNamespace(
            bucket_groups=self.groups[:1], expert_parallel_bucket_groups=self.groups[1:]
        )
        optimizer_shards: Any = self
        records: Any = self
        self.gathers = ParameterGathers([chunk], optimizer_shards, records)

    def updated_part(self, named: NamedParameter) -> FlatPart | None:
        if named.parameter is self.second:
            return None  # another rank owns all of it
        return FlatPart(start=0, values=named.parameter.detach()[:2])

    def named_parameters(self):
        names = ("first", "second", "frozen")
        for name in names:
            yield NamedParameter(module="m", slot=name, parameter=getattr(self, name))

    def parameter_writer(self, kind: Kind):
        assert kind is Kind.UPDATED_PARAM
        return self._write if self.is_wanted else None

    def _write(self, named: NamedParameter, value: torch.Tensor | FlatPart) -> None:
        is_part = isinstance(value, FlatPart)
        values = value.values if isinstance(value, FlatPart) else value
        self.written.append(
            (named.slot, ("part" if is_part else "all", values.numel()))
        )


@pytest.fixture
def training() -> Training:
    return Training()


def test_a_parameter_is_recorded_when_its_gather_is_complete(training):
    first, second = training.groups
    with training.gathers.observed():
        training.gathers.begin()
        assert training.written == [("frozen", ("all", 1))]
        first.start_param_sync()
        assert len(training.written) == 1
        first.finish_param_sync()
        assert training.written[1:] == [("first", ("all", 4))]
        second.finish_param_sync()
        assert training.written[2:] == [("second", ("all", 4))]
        # Every module that uses them asks again.
        first.finish_param_sync()
        second.finish_param_sync()
        training.gathers.flush()
    assert len(training.written) == 3


def test_a_gather_that_the_script_forces_counts(training):
    with training.gathers.observed():
        training.gathers.begin()
        training.groups[0].start_param_sync(force_sync=True)
    assert training.written[1:] == [("first", ("all", 4))]


def test_what_nobody_gathers_is_the_part_that_was_updated(training):
    with training.gathers.observed():
        training.gathers.begin()
        training.gathers.flush()
        training.groups[0].finish_param_sync()
    assert training.written[1:] == [("first", ("part", 2))]


def test_a_step_that_is_not_wanted_is_not_recorded(training):
    training.is_wanted = False
    with training.gathers.observed():
        training.gathers.begin()
        training.groups[0].finish_param_sync()
        training.gathers.flush()
    assert training.written == []


def test_the_methods_are_put_back(training):
    before = [dict(vars(group)) for group in training.groups]
    with training.gathers.observed():
        assert "finish_param_sync" in vars(training.groups[0])
    assert [dict(vars(group)) for group in training.groups] == before


@pytest.mark.parametrize(
    ("zero", "overlap", "expected"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_only_an_overlapped_gather_of_a_distributed_optimizer_is_late(
    zero, overlap, expected
):
    chunk: Any = types.SimpleNamespace(
        ddp_config=types.SimpleNamespace(
            use_distributed_optimizer=zero, overlap_param_gather=overlap
        )
    )
    assert gathers_in_forward([chunk]) is expected
    assert not gathers_in_forward([torch.nn.Module()])
