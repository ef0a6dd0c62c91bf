"""A pause that a thread or a signal handler can end."""

from __future__ import annotations

import signal
import time

from pgpool_cluster.agent.wake import Wake


def test_a_signal_at_any_moment_of_a_pause_ends_it() -> None:
    """threading.Event.set() in a handler deadlocks if it interrupts a thread inside the same event."""
    wake = Wake()

    def ring(*_: object) -> None:
        wake.set()
        signal.setitimer(signal.ITIMER_REAL, 0.00005)  # one at a time: on a busy machine, handlers would pile up

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.0001)
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            wake.wait(0.0001)
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_calls_before_a_pause_end_it_once() -> None:
    wake = Wake()
    wake.set()
    wake.set()
    began = time.monotonic()
    wake.wait(5)
    assert time.monotonic() - began < 1
    wake.wait(0.05)
    assert time.monotonic() - began >= 0.05
