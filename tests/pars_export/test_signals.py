"""Signals that wait for a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from pars_export.signals import HUNG_UP, TERMINATED, exit_on_sigterm, signals_at_checks


@pytest.fixture(autouse=True)
def _ctrl_c_as_in_a_shell() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_raises_at_the_next_check_only() -> None:
    reached = []

    def block() -> None:
        with signals_at_checks() as check:
            check()
            signal.raise_signal(signal.SIGINT)
            reached.append("after the signal")
            check()
            reached.append("after the check")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached == ["after the signal"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_after_the_last_check_is_not_lost() -> None:
    def block() -> None:
        with signals_at_checks() as check:
            check()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_goes_on_is_called_once() -> None:
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, _: calls.append(number))
    try:
        with signals_at_checks() as check:
            signal.raise_signal(signal.SIGTERM)
            assert not calls
            check()
            check()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert calls == [signal.SIGTERM]


def test_a_second_ctrl_c_does_not_wait() -> None:
    reached = []

    def block() -> None:
        with signals_at_checks():
            signal.raise_signal(signal.SIGINT)
            reached.append("after the first")
            signal.raise_signal(signal.SIGINT)
            reached.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert reached == ["after the first"]


def test_sigterm_ends_as_its_own_handler_says() -> None:
    reached = []

    def block() -> None:
        with exit_on_sigterm(), signals_at_checks() as check:
            signal.raise_signal(signal.SIGTERM)
            reached.append("after the signal")
            check()
            reached.append("after the check")

    with pytest.raises(SystemExit) as ended:
        block()
    assert ended.value.code == TERMINATED
    assert reached == ["after the signal"]


def test_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals_at_checks() as check:
        signal.raise_signal(signal.SIGINT)
        check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_change_nothing() -> None:
    handlers = []

    def work() -> None:
        with signals_at_checks() as check:
            check()
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_a_terminal_s_end_is_an_orderly_one_unless_it_is_ignored() -> None:
    hangup = signal.SIGHUP

    def block() -> None:
        with exit_on_sigterm():
            signal.raise_signal(hangup)

    before = signal.signal(hangup, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            block()
        assert ended.value.code == HUNG_UP
        assert signal.getsignal(hangup) is signal.SIG_DFL
        signal.signal(hangup, signal.SIG_IGN)
        block()
        assert signal.getsignal(hangup) is signal.SIG_IGN
    finally:
        signal.signal(hangup, before)
