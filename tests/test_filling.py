"""What is done behind a dump's back: in order, not far behind, and nothing after an error."""

import threading

import pytest

from kdcache.dump.filling import WAITING, WriterThread


def behind(*actions):
    with WriterThread() as thread:
        for action in actions:
            thread.do(action)


def raising(error):
    def fail():
        raise error

    return fail


def test_what_waits_behind_an_error_is_not_done():
    done = []
    with pytest.raises(ValueError, match="first"):
        behind(
            lambda: done.append(1), raising(ValueError("first")), lambda: done.append(2), raising(ValueError("more"))
        )
    assert done == [1]


def test_what_was_given_is_done_when_somebody_interrupts():
    done = []

    def interrupted():
        with WriterThread() as thread:
            for number in range(5):
                thread.do(done.append, number)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0, 1, 2, 3, 4]


def test_nobody_gets_far_ahead():
    begun, go = [], threading.Event()
    with WriterThread() as thread:
        giver = threading.Thread(target=lambda: [thread.do(go.wait) or begun.append(i) for i in range(20)])
        giver.start()
        giver.join(0.2)
        ahead = len(begun)
        go.set()
        giver.join()
    assert ahead == WAITING
    assert len(begun) == 20
