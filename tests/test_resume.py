"""A run that was stopped, killed or damaged: it ends as if nothing had happened, or says what is wrong."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from train_cases import SPEC, Fixture, assert_same_weights, dumped, metrics_of

from kdcache import jobs, runs
from kdcache.batches import Loader
from kdcache.errors import KdcacheError, UsageError
from kdcache.jobs import Data, Student, taught_by
from kdcache.methods import build
from kdcache.models import build as build_network
from kdcache.models.weights import load
from kdcache.runs import Run
from kdcache.teachers import no_teacher
from kdcache.train import Settings, fit
from kdcache.train.trainer import Trainer


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    return Fixture(tmp_path_factory.mktemp("wider"), "wrn-16-2", ["st", "at", "vid", "ab", "fitnet/paper", "queue"])


class Stopped(Exception):
    pass


def until(epoch, step):
    """A progress bar that stops the run in the middle of an epoch."""

    def progress(items, total, desc):
        for number, item in enumerate(items):
            if desc.startswith(f"epoch {epoch}/") and number == step:
                raise Stopped
            yield item

    return progress


def trained(fixture, folder, stops, text, **settings):
    """Trains in several sittings."""
    for stop in stops:
        with pytest.raises(Stopped):
            fixture.student(text, **settings).train(Run(folder, {}, resume=True), until(*stop))
    return fixture.student(text, **settings).train(Run(folder, {}, resume=True))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


CASES = {
    "sgd, cosine": ("st", {}),
    "adam, step": ("st+at", {"optimizer": "adam", "schedule": "step", "lr": 1e-3}),
    "adamw, onecycle, clipped": ("at", {"optimizer": "adamw", "schedule": "onecycle", "lr": 1e-3, "clip": 0.1}),
    "channels last": ("st", {"channels_last": True}),
    "connectors": ("vid+st", {"optimizer": "adam", "lr": 1e-3}),
    "dot, connectors, in parts": ("vid+st", {"optimizer": "dot", "accumulate": 2}),
    "two stages, dot": ("fitnet/paper:init_share=0.5", {"optimizer": "dot"}),
    "two stages": ("fitnet/paper:init_share=0.5", {}),
    "two stages, adamw": ("ab:init_share=0.5", {"optimizer": "adamw", "lr": 1e-3}),
    "two students": ("dml", {}),
    "a mean of the weights": ("st", {"ema": 0.9}),
    "in parts": ("queue+st", {"accumulate": 3}),
    "a plain student": ("none", {"dtype": "bf16"}),
}
STOPS = {"in the first epoch": [(1, 1)], "in the third": [(3, 0)], "twice": [(2, 2), (4, 1)]}


@pytest.mark.parametrize(
    "stops", [pytest.param(one, id=name, marks=[pytest.mark.slow] * (name != "twice")) for name, one in STOPS.items()]
)
@pytest.mark.parametrize(("text", "settings"), CASES.values(), ids=CASES)
def test_a_run_that_was_stopped_ends_in_the_same_bytes(wider, tmp_path, text, settings, stops):
    whole, said = wider.student(text, epochs=4, **settings).train(Run(tmp_path / "whole", {}))
    parts, found = trained(wider, tmp_path / "parts", stops, text, epochs=4, **settings)
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    assert [record["epoch"] for record in found] == [record["epoch"] for record in said] == [1, 2, 3, 4]
    for mine, theirs in zip(parts, whole, strict=True):
        assert_same_weights(mine, theirs)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    names = ("last", "best", "state", *(["ema"] if "ema" in settings else []))
    assert files(tmp_path / "whole").keys() == {f"{name}.safetensors" for name in names}


def test_what_a_live_teacher_prepares_is_prepared_again(wider, tmp_path):
    """Without a cache a resumed run has to train the same paraphraser."""

    def student():
        return Student(
            wider.data, "resnet8", "ft:passes=1", Settings(epochs=2, batch=16), taught_by(None, wider.network)
        )

    whole, _ = student().train(Run(tmp_path / "whole", {}))
    with pytest.raises(Stopped):
        student().train(Run(tmp_path / "parts", {}), until(2, 1))
    parts, _ = student().train(Run(tmp_path / "parts", {}, resume=True))
    assert_same_weights(parts[0], whole[0])
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_dropout_goes_on_where_it_was(tmp_path):
    data = Data.open(SPEC, None)
    weights = []
    for stops in ((), ((2, 1),)):
        folder = tmp_path / str(len(stops))
        for number in range(len(stops) + 1):
            network = build_network("test_loop:Dropping", 4, data.train.mean, data.train.std)
            progress = until(*stops[number]) if number < len(stops) else until(0, 0)
            run, loader = Run(folder, {}, resume=True), Loader(data.train, data.view, 0)
            try:
                fit([network], build("none"), no_teacher, loader, 3, Settings(epochs=3, batch=16), None, run, progress)
            except Stopped:
                continue
        weights.append(network.body.fc.weight)
    assert torch.equal(*weights)


def test_a_finished_run_returns_at_once(wider, tmp_path, monkeypatch):
    networks, records = wider.student("st").train(Run(tmp_path / "run", {}))
    before = files(tmp_path / "run")
    monkeypatch.setattr(Trainer, "learn", None)
    again, found = wider.student("st").train(Run(tmp_path / "run", {}, resume=True))
    assert found == records
    assert_same_weights(again[0], networks[0])
    assert files(tmp_path / "run") == before


def test_the_command_continues_a_student_and_names_what_differs(wider, tmp_path):
    student = wider.student("st")
    found = jobs.train_student(student, root=tmp_path)
    assert jobs.train_student(student, root=tmp_path, resume=True) == found
    folder = Path(found["run"])
    before = files(folder)
    for settings, named in (({"lr": 0.5}, "settings.lr 0.02"), ({"seed": 1}, "settings.seed 0")):
        with pytest.raises(UsageError, match=f"expected {named}, as it was begun"):
            jobs.train_student(wider.student("st", **settings), out=folder, resume=True)
    with pytest.raises(UsageError, match="expected live False, as it was begun, found True"):
        jobs.train_student(wider.student("st", live=True), out=folder, resume=True)
    assert files(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_another_cache_of_the_same_teacher_is_another_run(wider, tmp_path):
    student = wider.student("st")
    jobs.train_student(student, out=tmp_path / "run")
    student.teacher = taught_by(dumped(tmp_path / "more.h5", wider.data, wider.network, "st", views=3))
    with pytest.raises(UsageError, match=r"expected cache\.knowledge"):
        jobs.train_student(student, out=tmp_path / "run", resume=True)


def test_another_run_in_the_same_folder_is_kept(wider, tmp_path):
    for seed in (0, 1):
        wider.student("st", seed=seed, epochs=1).train(Run(tmp_path / "run", {"seed": seed}))
    assert json.loads((tmp_path / "run~1" / "run.json").read_text())["seed"] == 0
    assert load(tmp_path / "run~1" / "last.safetensors").facts["epoch"] == 1


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    """One bit of a weight."""
    return content[:-100] + bytes([content[-100] ^ 64]) + content[-99:]


def header(content):
    return content[:8] + b"[" + content[9:]


def other_epoch(content):
    return content.replace(b'\\"epoch\\": 2', b'\\"epoch\\": 1')


def no_epoch(content):
    return content.replace(b'\\"epoch\\": 2', b'\\"epoch\\": x')


DAMAGES = [cut, flipped, header, other_epoch, no_epoch, lambda _: b"", lambda _: b"not a state at all"]


@pytest.fixture(scope="module")
def finished_run(wider, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    wider.student("st").train(Run(folder, {}))
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_one_clear_line(wider, finished_run, tmp_path, damage):
    shutil.copytree(finished_run, tmp_path / "run")
    path = tmp_path / "run" / "state.safetensors"
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    with pytest.raises(KdcacheError, match=r"state\.safetensors: expected a whole training state") as refused:
        wider.student("st").train(Run(tmp_path / "run", {}, resume=True))
    assert "\n" not in str(refused.value)
    assert refused.value.remedy == "start over with `restart` in its place, or remove the folder"
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 2


def test_the_state_of_another_network_is_refused(wider, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    with pytest.raises(KdcacheError, match=r"expected \(.*\) as student0/.*, found"):
        wider.student("st", model="wrn-16-1").train(Run(tmp_path / "run", {}, resume=True))


def test_lost_records_are_told(wider, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(KdcacheError, match=r"metrics\.jsonl: expected the records of 2 epochs, found 0 of them"):
        wider.student("st").train(Run(tmp_path / "run", {}, resume=True))


def test_a_full_disk_leaves_the_last_good_state(wider, tmp_path, monkeypatch):
    def full(handle):
        calls.append(handle)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")

    whole, _ = wider.student("st", epochs=3).train(Run(tmp_path / "whole", {}))
    calls = []
    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(KdcacheError, match="No space left on device"):
        wider.student("st", epochs=3).train(Run(tmp_path / "run", {}, resume=True))
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".*safetensors*"))
    networks, _ = wider.student("st", epochs=3).train(Run(tmp_path / "run", {}, resume=True))
    assert_same_weights(networks[0], whole[0])
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_resume import finish, torch
torch.set_num_threads(1)
finish(*sys.argv[2:])
"""


def finish(method, folder):
    """Long enough to be killed in the middle."""
    data = Data.open("synthetic:65,4,16", "crop-flip")
    settings = Settings(epochs=12, batch=16, optimizer="adam")
    Student(data, "resnet8", method, settings).train(Run(folder, {}, resume=True))


def killed(method, folder, records, delay):
    """Killed some time after so many records were written; whether it was still at work."""
    command = [sys.executable, "-c", KILLED, Path(__file__).parent, method, folder]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    path = folder / "metrics.jsonl"
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < records):
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for name in ("last", "best"):
        if (folder / f"{name}.safetensors").exists():
            load(folder / f"{name}.safetensors")
    return process.returncode == -signal.SIGKILL


def test_a_run_that_was_killed_ends_in_the_same_bytes(tmp_path):
    finish("none", tmp_path / "whole")
    assert killed("none", tmp_path / "parts", 3, 0.02)
    finish("none", tmp_path / "parts")
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        "run.json", "metrics.jsonl", "evaluation.json", ".lock", *files(tmp_path / "whole"),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dml", "ls", "tfkd"])
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(tmp_path, method):
    finish(method, tmp_path / "whole")
    kills = sum(killed(method, tmp_path / "parts", n, 0.007 * n) for n in range(11))
    finish(method, tmp_path / "parts")
    assert kills > 5
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
