"""Processes beside this one: each with a GPU of its own where the machine has several, and with its share of the cores.

A fresh Python each, since threads of torch do not survive a fork. It ends with this process, however this one ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence

from kdcache import lazy_torch as torch

PATIENCE = 5.0  # seconds that a process is given to end


class Beside:
    """A process that runs some code, with so many threads; it inherits the file descriptors that are handed."""

    def __init__(self, code: str, gpu: str | None, threads: int, handed: Sequence[int] = ()):
        alive, self.alive = os.pipe()  # which the process sees closed when this one ends
        self.gpu = gpu
        own = f"import torch; torch.set_num_threads({threads})"
        code = f"from kdcache.jobs.beside import end_with; end_with({alive}); {own}; {code}"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, pass_fds=(*handed, alive),
            process_group=0,  # Ctrl-C reaches this one alone, which ends them
            env=os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
        )  # fmt: skip
        os.close(alive)
        threading.Thread(target=self.process.wait, daemon=True).start()  # until somebody asks, the dead pass for alive

    @property
    def works(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def ended(self) -> str:
        """Waits for its end, and says how it ended; nothing where all went well."""
        return how(self.process.wait())

    def dismiss(self, working: bool = True) -> None:
        """Ends it, wherever it is: a run goes on from its last epoch. One that does not work ends by itself."""
        if working:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.alive)


@contextlib.contextmanager
def helpers(code: str, count: int, device: str) -> Iterator[list[Beside]]:
    """So many processes that run some code beside this one, which is on the first GPU and has the threads of each."""
    names, threads = gpus(device), torch.get_num_threads()
    started: list[Beside] = []
    try:
        for _ in range(count):
            gpu = least_taken(names, [*names[:1], *(one.gpu for one in started)])
            started.append(Beside(code, gpu, share(count + 1)))
        torch.set_num_threads(share(count + 1))
        yield started
    finally:
        torch.set_num_threads(threads)
        for one in started:
            one.dismiss()


def how(code: int) -> str:
    """How a process ended, of which that is an exit code; nothing where all went well."""
    if code == 0:
        return ""
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"its process ended with {ended}; if memory ran out, run fewer side by side"


def share(processes: int) -> int:
    """The threads of each."""
    return max(1, torch.get_num_threads() // processes)


def gpus(device: str) -> list[str]:
    """Those among which processes can be shared out, as CUDA_VISIBLE_DEVICES has them; none where one was asked for."""
    if device != "cuda":
        return []
    count, shown = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in shown.split(",")] if shown else [str(number) for number in range(count)]
    return names[:count]


def least_taken(names: Sequence[str], taken: Iterable[str | None]) -> str | None:
    """The GPU on which the fewest processes are; the first of several."""
    taken = list(taken)
    return min(names, key=taken.count, default=None)


def end_with(alive: int) -> None:
    """Has this process end with the one that holds the other end of a pipe."""

    def follow() -> None:
        with contextlib.suppress(OSError):
            os.read(alive, 1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
