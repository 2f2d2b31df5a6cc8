"""Several processes that train together, without the time that each of them would need to import torch."""

import os
import pickle
import signal
import socket
import traceback

from plain_cases import Plain

from kdcache.train import joined

DYING = f"{__name__}:Dying"


def in_processes(work, size, folder, times=1, port=None):
    """work() of each of so many processes, forked here; what it returned at last, or the error that it ended with."""
    port, pids = port or free_port(), []
    for rank in range(size):
        if not (pid := os.fork()):
            alone(work, rank, size, port, folder / f"{rank}.pickle", times)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    paths = [folder / f"{rank}.pickle" for rank in range(size)]
    return [pickle.loads(path.read_bytes()) if path.exists() else code for path, code in zip(paths, codes, strict=True)]


def alone(work, rank, size, port, path, times):
    """In the new process, which ends here."""
    try:
        where = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in where.items()} | {"MASTER_ADDR": "127.0.0.1"})
        signal.alarm(300)  # whatever hangs
        try:
            for _ in range(times):
                with joined("cpu"):
                    found = work()
        except Exception as error:
            traceback.print_exc()
            found = error
        path.write_bytes(pickle.dumps(found))
    finally:
        os._exit(0)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Dying(Plain):
    """The process whose rank is in the environment's DIES ends by a kill, in the middle of its third epoch."""

    calls = 0

    def forward(self, x):
        if self.training:
            self.calls += 1
        if self.calls == 6 and os.environ.get("DIES") == os.environ.get("RANK"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)
