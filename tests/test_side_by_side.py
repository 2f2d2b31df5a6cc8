"""Students that are trained side by side end as one by one; what befalls one does not stop the others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_cases import CPU, good, kdcache

NETS = """
import os, signal
import torch
from torch import nn

class Dies(nn.Sequential):
    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

def dies(classes):
    return Dies(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
"""
RECIPE = """
data = "synthetic:64,4,16"
seeds = 2
[settings]
epochs = 2
batch = 16
[teacher]
model = "tiny-3"
[dump]
views = 2
[[student]]
method = ["none", "st"]
model = "tiny-2"
"""
DIVERGES = """
[[student]]
name = "diverges"
model = "tiny-2"
lr = 1e30
seeds = 1
"""
DIES = """
[[student]]
name = "dies"
model = "dying:dies"
seeds = 1
"""


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(root: str) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in Path(root).rglob("last.safetensors")}


def test_others_go_on_and_end_as_one_by_one():
    Path("dying.py").write_text(NETS)
    Path("alone.toml").write_text(RECIPE)
    good(f"run alone.toml {CPU} --runs one")
    Path("some.toml").write_text(RECIPE + DIES + DIVERGES)
    said = kdcache(f"run some.toml {CPU} -j 2 --code dying:dies --json")
    assert said.code == 1, said.err
    found = json.loads(said.out)
    assert {one["name"]: one["problem"] for one in found["failed"]}.keys() == {"dies", "diverges"}
    assert "its process ended with signal SIGKILL" in said.err
    assert "diverges, seed 0 failed: training: expected a finite loss" in said.err
    assert [len(row.get("top1_all", [])) for row in found["rows"]] == [1, 2, 2, 0, 0]
    assert weights("runs").items() >= weights("one").items()
    assert "the same command tries these again" in said.err


def test_of_those_trained_one_by_one_too():
    Path("r.toml").write_text(RECIPE.replace("[[student]]", DIVERGES + "[[student]]"))
    said = kdcache(f"run r.toml {CPU}")
    assert said.code == 1
    assert "failed: diverges, seed 0: " in said.out
    assert len(weights("runs")) == 1 + 4


def working_here(process: Path) -> bool:
    try:
        return process.joinpath("cwd").resolve() == Path.cwd() and process.name != str(os.getpid())
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_leaves_nobody_behind_and_goes_on_to_the_same_table(number):
    Path("r.toml").write_text(RECIPE.replace("epochs = 2", "epochs = 8"))
    command = [sys.executable, "-m", "kdcache", "run", "r.toml", "--device", "cpu", "-j", "2", "--runs"]
    with subprocess.Popen([*command, "cut"], stderr=subprocess.PIPE, text=True) as process:
        while "training" not in process.stderr.readline() or "none" not in process.stderr.readline():
            pass
        time.sleep(1)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    for _ in range(50):
        time.sleep(0.2)
        if not (left := [path for path in Path("/proc").glob("[0-9]*") if working_here(path)]):
            break
    assert not left
    for root in ("cut", "whole"):
        subprocess.run([*command, root], check=True, capture_output=True)
    assert weights("cut") == weights("whole")
