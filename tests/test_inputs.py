"""What a user hands over by mistake, or nearly right: folders, names, weights and numbers."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_cases import CPU, DATA, STUDENT, WEIGHTS, good, refused
from PIL import Image
from safetensors.torch import load_file, save_file

from kdcache.errors import SourceError, TeacherError, UsageError
from kdcache.jobs import Data, choose_device, load_teacher, workers_for
from kdcache.jobs.imports import as_logits
from kdcache.sources import open_source
from kdcache.sources.encoded import NAMED

BIRDS = "train-teacher --model tiny-2 --epochs 1 --device cpu --data"


@pytest.fixture
def place(home, tmp_path, monkeypatch) -> Path:
    """A folder of its own, with the run of a teacher."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder_of(root: Path, splits: int = 2, brightness: int = 0) -> Path:
    for number in range(3):
        for split in ("train", "test")[:splits]:
            for label in "ab":
                (root / split / label).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (number, brightness, 0)).save(root / split / label / f"{number}.png")
    return root


# Values that are empty

EMPTY = [
    f"{STUDENT} --method '' --cache a.h5", "train-student --student '' --method none", f"{STUDENT} --cache ''",
    f"dump-logits --teacher '' {DATA}", f"train-teacher --model '' {DATA}", "train-teacher --model tiny --data ''",
    "train-teacher --model tiny --augment ''", "inspect ''", "evaluate x --model ''", "run r.toml --data ''",
]  # fmt: skip


@pytest.mark.parametrize("line", EMPTY)
def test_an_empty_value_is_no_default(line):
    refused(line, 2, "expected a value, found an empty one", "shell")


# Folders


def test_a_folder_without_its_prefix(place):
    folder_of(place / "C10")
    refused(f"{BIRDS} C10", 2, "did you mean folder:C10?")
    refused(f"{BIRDS} C11", 2, "kdcache list sources")


@pytest.mark.parametrize("bad", [1, 2, 15])
def test_all_bad_files_are_named_at_once(bad, tmp_path):
    folder_of(tmp_path)
    names = [f"train/{'ab'[number % 2]}/bad{number:02}.jpg" for number in range(bad)]
    for name in names:
        (tmp_path / name).write_bytes(b"\xff\xd8 none")
    with pytest.raises(SourceError) as caught:
        open_source(f"folder:{tmp_path}")
    if bad == 1:
        assert caught.value.place == str(tmp_path / names[0])
        return
    assert caught.value.found.startswith(f"{bad} that are not: ")
    assert sum(name in caught.value.found for name in names) == min(bad, NAMED)


def test_a_teacher_of_other_images_in_the_same_place(place):
    for number, name in enumerate(("birds/v1", "birds-v1")):
        folder_of(place / name, brightness=100 * number)
    good(f"{BIRDS} folder:birds-v1")
    dump = "dump-logits --teacher tiny-2 --views 1 --device cpu --data"
    refused(f"{dump} folder:birds/v1", 1, "expected a teacher of folder:birds/v1, found one of folder:birds-v1")
    good(f"{dump} folder:birds-v1")


# Checkpoints


def test_the_folder_of_a_run_is_evaluated(place):
    run = Path(WEIGHTS).parent
    found = good(f"evaluate {run} --json {CPU}").json()
    assert found == good(f"evaluate {run}/last.safetensors --json {CPU}").json() | {"checkpoint": found["checkpoint"]}
    (run / "last.safetensors").unlink()
    good(f"evaluate {run} {CPU}")
    (run / "best.safetensors").unlink()
    refused(f"evaluate {run}", 1, "expected a checkpoint, or the folder of a run")


def test_plain_names_beside_a_normalisation(place):
    state = load_file(WEIGHTS)
    plain = {name.removeprefix("body."): tensor for name, tensor in state.items()}
    save_file(plain, "plain.safetensors")
    network = load_teacher("tiny-3", "plain.safetensors", Data.open("synthetic:64,4,16", None))
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert not network.assumed_normalisation


def test_a_name_that_is_missing_and_unexpected_is_told_apart(place):
    state = load_file(WEIGHTS)
    name = next(name for name in state if name.startswith("body.") and name.endswith("weight"))
    save_file({(key if key != name else key[5:]): tensor for key, tensor in state.items()}, "mixed.safetensors")
    with pytest.raises(TeacherError) as caught:
        load_teacher("tiny-3", "mixed.safetensors", Data.open("synthetic:64,4,16", None))
    assert f"1 missing ({name} [3]), 1 unexpected ({name[5:]} [3])" in caught.value.found


# Numbers that are logits or probabilities

SHARES = np.random.default_rng(0).dirichlet(np.ones(100) / 5, 50)


def test_rounded_probabilities_are_asked_about():
    rounded = SHARES.round(2)
    assert np.abs(rounded.sum(1) - 1).max() > 0.02
    with pytest.raises(UsageError, match="its kind, which the numbers do not tell, found numbers from 0 to 1"):
        as_logits("a.npy", rounded)
    logits, kind = as_logits("a.npy", rounded, "probabilities")
    assert kind == "probabilities"
    assert np.abs(torch.from_numpy(logits).softmax(1).numpy() - rounded / rounded.sum(1, keepdims=True)).max() < 1e-5
    assert as_logits("a.npy", rounded, "logits") == (pytest.approx(rounded), "logits")


def test_what_the_numbers_tell():
    assert as_logits("a.npy", SHARES)[1] == "probabilities"
    assert as_logits("a.npy", 3 * SHARES - 1)[1] == "logits"
    assert as_logits("a.npy", SHARES, "logits")[1] == "logits"
    with pytest.raises(UsageError, match="probabilities, from 0 to 1, found -1 to"):
        as_logits("a.npy", 3 * SHARES - 1, "probabilities")


def test_the_command_takes_the_kind(place):
    labels = open_source("synthetic:64,4,16").labels
    shares = np.full((64, 4), 0.05, np.float32)
    shares[np.arange(64), labels] = 0.8
    np.save("p.npy", shares)
    refused(f"import-logits p.npy {DATA}", 2, "kind")
    assert "p.npy: probabilities" in good(f"import-logits p.npy {DATA} --kind probabilities").err


# Devices and machines


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.parametrize("asked", [None, "auto", "cuda"])
def test_every_rank_has_a_gpu_of_its_own(asked, gpus, monkeypatch):
    assert choose_device(asked) == "cuda"
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert choose_device(asked) == f"cuda:{rank}"
    for wrong in ("4", "-1", "x", ""):
        monkeypatch.setenv("LOCAL_RANK", wrong)
        with pytest.raises(UsageError, match="LOCAL_RANK: expected a GPU of this machine for every rank"):
            choose_device(asked)


def test_ranks_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("auto") == "cpu"


def test_a_system_that_does_not_tell_its_cores(pictures, monkeypatch):
    data = Data.open(f"folder:{pictures}", None)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert workers_for(data, None) == 5
