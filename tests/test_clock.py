"""The clocks: this machine's, and one that stands still until it is moved."""

from __future__ import annotations

import threading
import time

import pytest

from hubstate.clock import SystemClock, VirtualClock


def test_the_virtual_clock_stands_still_until_it_is_moved():
    """Time passes on both of its clocks together; only the wall clock jumps."""
    clock = VirtualClock(start=100.0)
    assert (clock.wall(), clock.monotonic()) == (100.0, 0.0)
    clock.advance(2.5)
    assert (clock.wall(), clock.monotonic()) == (102.5, 2.5)
    clock.jump(-50.0)
    assert (clock.wall(), clock.monotonic()) == (52.5, 2.5)


@pytest.mark.parametrize("seconds", [3.0, 0.0, -1.0])
def test_waiting_on_the_virtual_clock_lets_the_time_pass(seconds):
    """A wait costs no real time: it moves the clock, never backwards, and says that nobody set the signal."""
    clock = VirtualClock()
    assert clock.wait(threading.Event(), seconds) is False
    assert clock.monotonic() == max(0.0, seconds)


def test_a_wait_for_a_set_signal_takes_no_time():
    """Either clock returns at once where the signal is set already, and says so."""
    signal = threading.Event()
    signal.set()
    clock = VirtualClock()
    assert clock.wait(signal, 1e6) is True
    assert clock.monotonic() == 0.0
    assert SystemClock().wait(signal, 1e6) is True


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_the_system_clock_takes_a_wait_that_is_over(seconds):
    """A moment that has passed already is no mistake: the wait ends at once, unset."""
    assert SystemClock().wait(threading.Event(), seconds) is False


def test_the_system_clock_is_the_systems():
    """Wall time and monotonic time are those of this machine, and not mixed up."""
    assert SystemClock.wall is time.time
    assert SystemClock.monotonic is time.monotonic
    before = time.monotonic()
    assert before <= SystemClock().monotonic() <= time.monotonic()
