"""Signals that end a program: raised in the main thread, and again where code that catches everything took them."""

from __future__ import annotations

import os
import signal

import pytest

from nas.base.signals import Stopped, insist, stoppable


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_was_swallowed_is_raised_again(number):
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    with pytest.raises(Stopped) as caught, stoppable():
        insist()
        try:
            os.kill(os.getpid(), number)
        except BaseException:
            swallowed = True
        assert swallowed
        insist()
        raise AssertionError("went on")
    assert caught.value.number == number
    insist()  # nothing is left of it
    signal.signal(number, before)
