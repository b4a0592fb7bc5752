"""Which signals end a run in order."""

from __future__ import annotations

import os
import signal

import pytest

from orchestrator.scheduler.stopping import STOPPING, StopRequest, signals_stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_for_a_stop_and_a_second_one_insists(number: signal.Signals) -> None:
    assert number in STOPPING
    stop, before = StopRequest(), signal.getsignal(number)
    with signals_stop(stop):
        os.kill(os.getpid(), number)
        assert stop.wanted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with signals_stop(stop):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.wanted
    finally:
        signal.signal(signal.SIGHUP, before)
