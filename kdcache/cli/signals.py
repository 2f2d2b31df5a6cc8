"""Ctrl-C and SIGTERM unwind a command, wherever they reach it."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

AGAIN = 0.5  # seconds
IMPORTING = "<frozen importlib._bootstrap>"  # the file of the frames that import


class Stopped(KeyboardInterrupt):
    """Not KeyboardInterrupt itself: passing through code that C runs, that would end Python by a SIGINT at its exit."""


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM unwind the command; the list tells whether one of them came."""
    caught: list[int] = []

    def stop(number, frame):
        caught.append(number)
        # a loader that is interrupted while it is made has a __del__ that fails, and Python would print that
        sys.unraisablehook = lambda _: None
        # Ctrl-C ends the workers as well; torch's handler would raise for each of them while the command is unwound
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Python drops what is raised within a __del__ or a callback of os.fork: then the command is still running
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        if len(caught) > 1 or not imports(frame):
            raise Stopped

    def again(number, frame):
        if not isinstance(sys.exception(), Stopped) and not imports(frame):  # the first may be unwinding the command
            raise Stopped

    before = {}
    with contextlib.suppress(ValueError):  # only the main thread of a process may set handlers
        for number, handler in ((signal.SIGALRM, again), (signal.SIGINT, stop), (signal.SIGTERM, stop)):
            before[number] = signal.signal(number, handler)
    try:
        yield caught
    finally:
        if caught:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: C++ code that imports others, as that of torch does, aborts if that fails."""
    while frame is not None and frame.f_code.co_filename != IMPORTING:
        frame = frame.f_back
    return frame is not None
