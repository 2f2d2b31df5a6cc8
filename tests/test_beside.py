"""Processes side by side: a GPU for each, a share of the threads, and an end with the one that began them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdcache.jobs.beside import gpus, helpers, least_taken

TELLS = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], torch.get_num_threads(), file=open('found', 'w'))"
DIES = "os.kill(os.getpid(), 9)"
WAITS = "import time; time.sleep(600)"


def gone(number: int) -> bool:
    """Whether there is no such process, after a while."""
    until = time.monotonic() + 60
    while Path(f"/proc/{number}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return not Path(f"/proc/{number}").exists()


@pytest.fixture(autouse=True)
def _four_gpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.parametrize(
    ("device", "shown", "found"),
    [
        ("cuda", None, ["0", "1", "2", "3"]),
        ("cuda", "5, 6,7,GPU-1,9", ["5", "6", "7", "GPU-1"]),  # of which four work
        ("cuda:2", None, []),
        ("cpu", None, []),
    ],
)
def test_gpus_that_can_be_shared_out(device, shown, found, monkeypatch):
    if shown:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert gpus(device) == found


def test_each_process_has_the_gpu_that_is_least_taken():
    taken = []
    for _ in range(6):
        taken.append(least_taken(["0", "1", "2"], taken))
    assert taken == ["0", "1", "2", "0", "1", "2"]
    assert least_taken([], taken) is None


def test_a_process_has_its_gpu_and_its_threads_and_it_is_said_how_it_ended(monkeypatch):
    monkeypatch.setattr("kdcache.jobs.beside.share", lambda processes: 2)
    with helpers(f"{TELLS}; {DIES}", 1, "cuda") as (one,):
        assert gone(one.process.pid)  # nobody has waited for it
        how = one.ended()
    assert Path("found").read_text() == "1 2\n"
    assert how == "its process ended with signal SIGKILL; if memory ran out, run fewer side by side"


def test_they_end_with_the_one_that_began_them():
    call = f"from kdcache.jobs.beside import Beside; print(Beside({WAITS!r}, None, 1).process.pid, flush=True); {WAITS}"
    with subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True) as process:
        number = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    assert gone(number)
