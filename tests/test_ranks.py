"""Several processes under torchrun: who they are, who speaks, and the file that they make together."""

import os
import shlex
import subprocess
import sys

import click
import pytest
from cli_cases import DUMP, good, kdcache, refused

from kdcache.cli import voice
from kdcache.cli.progress import bar
from kdcache.cli.signals import Stopped
from kdcache.errors import UsageError
from kdcache.jobs import Data, workers_for
from kdcache.ranks import Ranks

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def told(monkeypatch, *values: str) -> Ranks:
    for name, value in zip(NAMES, values, strict=False):
        monkeypatch.setenv(name, value)
    return Ranks.from_environment()


def test_a_process_alone_is_the_first_of_one(monkeypatch):
    assert told(monkeypatch) == Ranks(0, 1, 1)
    assert Ranks().first


def test_a_rank_knows_who_is_beside_it(monkeypatch):
    found = told(monkeypatch, "3", "4", "2")
    assert found == Ranks(3, 4, 2)
    assert not found.first


@pytest.mark.parametrize(
    ("values", "place"),
    [(("4", "4", "2"), "RANK"), (("0", "2", "3"), "LOCAL_WORLD_SIZE"), (("0", "2", "0"), "LOCAL_W")],
)
def test_ranks_that_cannot_be(monkeypatch, values, place):
    with pytest.raises(UsageError, match=f"^{place}.*start it with torchrun, or unset all of them"):
        told(monkeypatch, *values)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["run demo --tiny", "tune --cache a.h5 --trials 1 --space st.T=1..2"])
def test_what_makes_trainings_of_its_own_is_refused_under_torchrun(monkeypatch, command):
    good(f"{DUMP} -o a.h5")
    told(monkeypatch, "0", "2")
    refused(f"{command} --device cpu", 2, "torchrun: expected one process, found 2 processes", "--processes N")


# Who speaks


@pytest.mark.usefixtures("home")
def test_only_the_first_rank_speaks(monkeypatch):
    monkeypatch.setattr(voice, "ALIKE", 0.0)
    first = good(f"{DUMP} -o a.h5")
    told(monkeypatch, "1", "2")
    other, wrong, foreign = (kdcache(line) for line in (f"{DUMP} -o a.h5", f"{DUMP} -o a.h5 --batch 0", "list views"))
    assert first.out
    assert (other.code, other.out, other.err) == (0, "", "")
    assert wrong.err.startswith("kdcache: rank 1: --batch: expected ")  # it may be the only one that has failed
    assert foreign.out  # of a command that ranks do not do together


def test_a_rank_that_is_ended_while_it_waits_with_its_error_is_silent(monkeypatch, capsys):
    def stopped(seconds):
        raise Stopped

    monkeypatch.setattr(voice.time, "sleep", stopped)
    ctx = click.Context(click.Command("x"))
    ctx.meta[voice.RANK] = 1
    voice.complain(ctx, "what the first rank says, too")
    assert capsys.readouterr().err == ""
    with ctx:
        assert list(bar([1, 2], 2, "x")) == [1, 2]


def test_ranks_of_a_machine_share_its_cores(pictures, monkeypatch):
    monkeypatch.setattr("kdcache.jobs.machine.cores", lambda: 8)
    told(monkeypatch, "1", "4", "4")
    data = Data.open(f"folder:{pictures}", None)
    assert [workers_for(data, None, processes) for processes in (1, 2, 4)] == [2, 1, 1]


# Together

MANY = DUMP.replace("--views 2", "--views 24 --batch 16")
DIES = """
import os, signal, time
from kdcache.cache.writer import Writer
from kdcache.cli import main

if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    Writer.finish = lambda self: time.sleep(60)  # or the others might be done before rank 1 has come
    if os.environ["RANK"] == "1":
        Writer.sync = lambda self, always=False: os.kill(os.getpid(), signal.SIGKILL)
main(prog_name="kdcache")
"""


def torchrun(ranks: int, *program: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture
def alone(home, tmp_path) -> bytes:
    """What one process makes."""
    good(f"{MANY} -o {tmp_path}/one.h5")
    return (tmp_path / "one.h5").read_bytes()


@pytest.mark.slow
def test_torchrun(alone, tmp_path):
    done = torchrun(2, "-m", "kdcache", *shlex.split(f"{MANY} -o {tmp_path}/x.h5"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x.h5: 64 rows, 24 views") == 1
    assert "rank" not in done.stderr
    assert (tmp_path / "x.h5").read_bytes() == alone


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_torchrun_begins_again_after_a_death(alone, tmp_path, ranks):
    (tmp_path / "dies.py").write_text(DIES)
    line = shlex.split(f"{MANY} -o {tmp_path}/x.h5")
    dead = torchrun(ranks, str(tmp_path / "dies.py"), *line)
    assert dead.returncode == 1
    assert not (tmp_path / "x.h5").exists()
    done = torchrun(ranks, "--max-restarts", "1", str(tmp_path / "dies.py"), *line)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.h5").read_bytes() == alone
    assert not (tmp_path / "x.h5.part").exists()
