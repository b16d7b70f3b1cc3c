"""What ``trace`` wraps, in which order it records, and that it puts all back."""

import contextlib
import types
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("megatron.core")

from ttrace.examples.megatron_gpt import warnings_of_megatron  # noqa: E402

warnings_of_megatron.quiet()

from megatron.core.pipeline_parallel import schedules  # noqa: E402

from ttrace.frontends import megatron_adapter  # noqa: E402
from ttrace.frontends.megatron_parts.loss import loss_tensors  # noqa: E402
from ttrace.frontends.torch_parts.description import NamedParameter  # noqa: E402
from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.ir.layout import Mesh  # noqa: E402
from ttrace.recording.request import RecordRequest  # noqa: E402


class Optimizer:
    """As much of Megatron's optimizer as the adapter touches."""

    def __init__(self, *, clip_grad: float = 1.0, rates: tuple[float, ...] = (0.5,)):
        self.config = types.SimpleNamespace(clip_grad=clip_grad)
        self.param_groups = [{"lr": rate} for rate in rates]
        self.parameter = torch.nn.Parameter(torch.zeros(1))
        self.main_grad = torch.ones(1)
        self.parameter.main_grad = self.main_grad

    def step(self):
        self.parameter.data += 1
        self.main_grad.zero_()
        return True, 2.0, None

    def get_loss_scale(self):
        return torch.ones(1)


class Session:
    """Notes what it is told."""

    def __init__(self, optimizer: Optimizer):
        self._optimizer = optimizer
        self.events: list[tuple] = []
        self.settings: dict[str, object] = {}
        self.capture = self.records = self

    def start(self):
        self.events.append(("start",))

    def step(self):
        self.events.append(("step",))

    def close(self):
        self.events.append(("close",))

    def abort(self, reason: str):
        self.events.append(("abort", reason))

    def paused(self):
        return contextlib.nullcontext()

    def expect_microbatches(self, num_local: int):
        self.events.append(("expect", num_local))

    def wants(self, kind: Kind) -> bool:
        return True

    def loss_outputs(self, outputs: tuple):
        mesh = Mesh(name="dense", sizes={"cp": 1}, coords={"cp": 0})
        for loss in loss_tensors(outputs, mesh, is_per_token=False):
            self.events.append((Kind.LOSS, loss.value.item()))

    def optimizer_settings(self, find_settings):
        self.settings |= find_settings()

    def scalar(self, kind: Kind, value: float, *, slot: str | None = None):
        self.events.append((kind, slot, value))

    def parameters(self, kind: Kind, getter):
        self.events.append((kind, getter(self._named()).item()))

    def optimizer_state(self, getter):
        self.events.append((Kind.OPTIMIZER_STATE, getter(self._named())))

    def _named(self) -> NamedParameter:
        return NamedParameter(
            module="m", slot="weight", parameter=self._optimizer.parameter
        )


class Holdings:
    """An optimizer that holds whole parameters."""

    def main_grad(self, named: NamedParameter):
        return getattr(named.parameter, "main_grad")  # noqa: B009, set by Megatron

    def state(self, named: NamedParameter) -> dict[str, float]:
        return {"step": named.parameter.item()}


@pytest.fixture
def optimizer() -> Optimizer:
    return Optimizer()


@pytest.fixture
def session(monkeypatch, tmp_path, optimizer) -> Session:
    """Recording is on, into a session that only notes."""
    session = Session(optimizer)
    request = RecordRequest(out=tmp_path / "trace")
    for name, value in request.to_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(megatron_adapter, "MegatronSession", lambda *a, **k: session)
    monkeypatch.setattr(megatron_adapter, "MegatronDescription", lambda *a, **k: None)
    monkeypatch.setattr(megatron_adapter, "OptimizerShards", lambda *a: Holdings())
    monkeypatch.setattr(megatron_adapter.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(megatron_adapter.dist, "get_world_size", lambda: 1)
    return session


def _calc_loss(output_tensor, loss_func, num_microbatches):
    """Divides in place, as Megatron does."""
    loss, *_ = loss_func(output_tensor)
    loss /= 1000
    return loss


def test_without_a_request_nothing_is_touched(monkeypatch, optimizer):
    monkeypatch.delenv("TTRACE_RECORD", raising=False)
    original = schedules.forward_step_calc_loss
    with megatron_adapter.trace([], optimizer) as trace:
        assert "step" not in vars(optimizer)
        assert schedules.forward_step_calc_loss is original
        with trace.paused():
            trace.step()


def test_a_step_is_recorded_in_the_order_in_which_it_happens(session, optimizer):
    with megatron_adapter.trace([], optimizer) as trace:
        assert optimizer.step() == (True, 2.0, None)
        trace.step()
    assert session.events == [
        ("start",),
        (Kind.MAIN_GRAD, 1.0),
        (Kind.LEARNING_RATE, None, 0.5),
        (Kind.GRAD_NORM, None, 2.0),
        (Kind.UPDATED_PARAM, 1.0),
        (Kind.OPTIMIZER_STATE, {"step": 1.0}),
        ("step",),
        ("close",),
    ]


@pytest.mark.parametrize("fails", [True, False])
def test_everything_is_put_back(session, optimizer, fails):
    original = schedules.forward_step_calc_loss
    with contextlib.suppress(KeyError), megatron_adapter.trace([], optimizer):
        assert schedules.forward_step_calc_loss is not original
        if fails:
            raise KeyError
    assert schedules.forward_step_calc_loss is original
    assert "step" not in vars(optimizer)
    reason = "the training script ended with KeyError"
    assert session.events[-1] == (("abort", reason) if fails else ("close",))


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((torch.tensor(6.0), {}), 6.0),
        ((torch.tensor(6.0), torch.tensor(3), {}), 2.0),
        ((torch.tensor(6.0), torch.tensor(0), {}), 6.0),
    ],
)
def test_the_loss_is_recorded_before_it_is_divided(
    monkeypatch, session, optimizer, outputs, expected
):
    monkeypatch.setattr(schedules, "forward_step_calc_loss", _calc_loss)
    outputs = (outputs[0].clone(), *outputs[1:])
    with megatron_adapter.trace([], optimizer):
        calc_loss: Callable = schedules.forward_step_calc_loss
        calc_loss(torch.zeros(1), lambda output: outputs, num_microbatches=4)
    assert session.events[1:3] == [("expect", 4), (Kind.LOSS, expected)]


def test_a_norm_that_megatron_does_not_compute_is_not_recorded(session, optimizer):
    optimizer.config.clip_grad = 0.0
    with megatron_adapter.trace([], optimizer):
        optimizer.step()
    assert Kind.GRAD_NORM not in [event[0] for event in session.events]


def test_a_wrapper_that_was_there_before_comes_back(session, optimizer):
    optimizer.step = wrapped = lambda: (True, 2.0, None)
    with megatron_adapter.trace([], optimizer):
        assert optimizer.step is not wrapped
    assert optimizer.step is wrapped


def test_groups_of_equal_rate_count_once(session, optimizer):
    optimizer.param_groups = [{"lr": 0.25}, {"lr": 0.5}, {"lr": 0.25}]
    with megatron_adapter.trace([], optimizer):
        optimizer.step()
    assert (Kind.LEARNING_RATE, "rate0", 0.25) in session.events
    assert (Kind.LEARNING_RATE, "rate1", 0.5) in session.events


def test_settings_are_those_of_all_groups_together(session, optimizer):
    """Layouts cut a model into other groups."""
    optimizer.param_groups = [
        {"lr": 0.25, "weight_decay": decay, "is_expert_parallel": False, "max_lr": 1.0}
        for decay in (0.1, 0.0, 0.1)
    ]
    with megatron_adapter.trace([], optimizer):
        optimizer.step()
    assert session.settings == {"optimizer.all.weight_decay": "0 and 0.1"}


class TestLoopOverSteps:
    def test_each_round_is_a_step_and_the_end_closes_the_trace(
        self, session, optimizer
    ):
        assert list(megatron_adapter.trace_steps("ab", [], optimizer)) == ["a", "b"]
        assert session.events == [("start",), ("step",), ("step",), ("close",)]

    def test_a_loop_that_is_left_leaves_the_trace_incomplete(self, session, optimizer):
        for _ in megatron_adapter.trace_steps(range(3), [], optimizer):
            break
        reason = "the loop over the steps was left before its end"
        assert session.events == [("start",), ("abort", reason)]
        assert "step" not in vars(optimizer)

    def test_without_a_request_it_is_the_loop(self, monkeypatch, optimizer):
        monkeypatch.delenv("TTRACE_RECORD", raising=False)
        for _ in megatron_adapter.trace_steps(range(1), [], optimizer):
            assert "step" not in vars(optimizer)
