"""`torchrun` starts a training in several processes: one speaks and writes, one that is killed ends all; they go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from plain_cases import PLAIN
from team_cases import DYING
from train_cases import metrics_of

from kdcache.jobs import Data, train_teacher
from kdcache.models.weights import load
from kdcache.train import Settings

HERE = Path(__file__).parent
SPEC, SETTINGS = "synthetic:32,4,16", {"epochs": 4, "batch": 16, "lr": 0.05, "warmup": 0.0}
OPTIONS = ["--data", SPEC, "--device", "cpu", *(f"--{name}={value}" for name, value in SETTINGS.items())]


def torchrun(size, *arguments, dies=None):
    """A command in so many processes; how it ended, and what they said."""
    place = {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", **({"DIES": str(dies)} if dies is not None else {})}
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    done = subprocess.run(
        [*run, "-m", "kdcache", *arguments], env=os.environ | place, capture_output=True, text=True, timeout=240
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("kdcache: ")]
    return done, said


def test_a_training_whose_process_is_killed_ends_in_one_line_and_goes_on(tmp_path):
    """What it then ends in are the losses of one process alone, to rounding."""
    folder = tmp_path / "run"
    command = ["train-teacher", "--model", DYING, *OPTIONS, "--out", str(folder)]
    killed, said = torchrun(2, *command, dies=1)
    assert killed.returncode != 0
    [line] = said
    assert "expected all" in line or "terminated" in line, line
    assert "resume" in line
    assert "Traceback" not in killed.stdout
    assert [record["epoch"] for record in metrics_of(folder)] == [1, 2]
    resumed, said = torchrun(2, *command, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert not said
    assert json.loads(resumed.stdout)["epochs"] == 4
    data = Data.open(SPEC, None)
    alone = train_teacher(PLAIN, data, Settings(**SETTINGS), out=str(tmp_path / "alone"))
    assert metrics_of(folder)[-1]["total"] == pytest.approx(metrics_of(tmp_path / "alone")[-1]["total"], rel=1e-5)
    mine = load(folder / "last.safetensors", DYING)
    assert mine.facts["epoch"] == alone["epochs"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_a_training_goes_on_to_the_bits_of_one_that_nobody_disturbed(tmp_path, size):
    weights = {}
    for name, dies in (("killed", size - 1), ("undisturbed", None)):
        command = ["train-teacher", "--model", DYING, *OPTIONS, "--out", str(tmp_path / name)]
        done, _ = torchrun(size, *command, dies=dies)
        assert (done.returncode == 0) == (dies is None)
        if dies is not None:
            assert torchrun(size, *command, "--resume")[0].returncode == 0
        weights[name] = (tmp_path / name / "last.safetensors").read_bytes()
    assert weights["killed"] == weights["undisturbed"]
