"""What stands in front of operators: it lets threads run, and sees coalesced calls."""

import threading
import time

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _coalescing_manager
from torch.testing._internal.distributed.fake_pg import FakeStore

from ttrace.frontends.torch_parts import collective_kernels
from ttrace.frontends.torch_parts.collective_kernels import observed_collectives


class Ticks:
    """Counts in a thread of its own, as long as Python lets it."""

    def __enter__(self):
        self.count, self._goes_on = 0, True
        self._thread = threading.Thread(target=self._tick)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._goes_on = False
        self._thread.join()

    def _tick(self):
        while self._goes_on:
            self.count += 1
            time.sleep(0.001)


def test_other_threads_run_while_an_operator_does():
    """A call that held the interpreter's lock would hang: gloo's threads take it."""
    during = []

    def around(rest, schema):
        def kernel(keyset, *args):
            before = ticks.count
            returned = rest(keyset, *args)
            during.append(ticks.count - before)
            return returned

        return kernel

    x = torch.ones(1500, 1500)
    library = torch.library.Library("aten", "IMPL")
    try:
        collective_kernels._put_before(library, "mm", around)
        with Ticks() as ticks:
            for _ in range(5):
                torch.mm(x, x)
    finally:
        library._destroy()
    assert len(during) == 5 and max(during) > 2


class Heard:
    """An observer that keeps what it is told of."""

    def __init__(self):
        self.told = []

    def before(self, call):
        self.told.append(("before", call.op.name))
        return call.op.name

    def after(self, token, work):
        self.told.append(("after", token, work))

    def waited(self, work):
        self.told.append(("waited", work))

    def waited_for_tensor(self, tensor):
        self.told.append(("waited for tensor", tensor))


@pytest.fixture
def group():
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_handle_of_its_own_and_one_of_several():
    heard = Heard()
    x, y = torch.ones(4), torch.ones(4)
    with observed_collectives(heard):
        dist.all_reduce(x)
        alone = list(heard.told)
        heard.told.clear()
        with _coalescing_manager(device=x.device, async_ops=True) as coalesced:
            dist.broadcast(x, src=0, async_op=True)
            dist.broadcast(y, src=0, async_op=True)
            assert heard.told == [("before", "broadcast")] * 2
        coalesced.wait()
    assert [what for what, *_ in alone] == ["before", "after", "waited"]
    assert alone[1][2] is alone[2][1]
    work = heard.told[2][2]
    assert heard.told[2:4] == [("after", "broadcast", work)] * 2
    assert ("waited", work) in heard.told[4:]


@pytest.mark.usefixtures("group")
def test_nothing_is_heard_when_it_has_ended():
    heard = Heard()
    with observed_collectives(heard):
        pass
    dist.all_reduce(torch.ones(4))
    assert heard.told == []
