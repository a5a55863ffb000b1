"""SIGINT and SIGTERM set the event; a second one interrupts; the previous handlers are restored."""

import signal
import threading

import pytest

from video_llama.training.stopping import stop_requested


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requested() as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_other_threads_install_no_handler() -> None:
    before = signal.getsignal(signal.SIGINT)
    handlers = []

    def target() -> None:
        with stop_requested() as stop:
            handlers.append((signal.getsignal(signal.SIGINT), stop.is_set()))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert handlers == [(before, False)]
