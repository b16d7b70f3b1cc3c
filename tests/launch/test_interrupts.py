"""Interruptions that wait for a step to end."""

import os
import signal
import threading

import pytest

from ttrace.launch.interrupts import deferred_interrupts


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def sign(request):
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    signal.signal(request.param, before)


def test_an_interruption_waits_for_the_end_of_the_block(sign):
    reached = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        os.kill(os.getpid(), sign)
        os.kill(os.getpid(), sign)
        reached.append("end")
    assert reached
    assert signal.getsignal(sign) is signal.default_int_handler


def test_the_handlers_come_back_after_an_error(sign):
    with pytest.raises(ValueError, match="mine"), deferred_interrupts():
        raise ValueError("mine")
    assert signal.getsignal(sign) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored(sign):
    signal.signal(sign, signal.SIG_IGN)
    with deferred_interrupts():
        os.kill(os.getpid(), sign)
    assert signal.getsignal(sign) is signal.SIG_IGN


def test_another_thread_needs_nothing():
    done = []

    def work():
        with deferred_interrupts():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
