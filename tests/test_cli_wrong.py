"""Things that are not there, do not fit or break: one line, nothing half-written, and no traceback."""

import errno
import shutil
from pathlib import Path

import pytest
from cli_cases import DATA, DUMP, SHORT, STUDENT, TEACHER, WEIGHTS, good, kdcache, refused

from kdcache.durable import part_of

pytestmark = pytest.mark.usefixtures("home")
CLI = "kdcache.cli"


# Files and folders

FROM_OTHERS = ["merge a.h5 -o", "prune a.h5 -o"]
CACHE_READERS = ["inspect", "verify", "show", f"{STUDENT} --cache", "merge -o no.h5", "prune --views 0 -o no.h5"]


@pytest.mark.parametrize("reader", CACHE_READERS)
def test_what_is_no_cache(reader, tmp_path):
    whole = Path("a.h5").read_bytes()
    for name, data in {"half": whole[: len(whole) // 2], "text": b"hello, hello", "empty": b""}.items():
        path = tmp_path / f"{name}.h5"
        path.write_bytes(data)
        refused(f"{reader} {path}", 1, str(path))
    refused(f"{reader} {tmp_path}/none.h5", 1, "no such file", "dump-logits")
    refused(f"{reader} {tmp_path}", 1, "folder")


@pytest.mark.parametrize("reader", CACHE_READERS)
def test_an_unfinished_cache(reader, tmp_path):
    part_of(tmp_path / "x.h5").write_bytes(Path("a.h5").read_bytes())
    refused(f"{reader} {tmp_path}/x.h5", 1, "x.h5.part", "run the same command again")


@pytest.mark.parametrize("command", [f"{DUMP} -o", "show a.h5 -o", f"pseudo-teacher {DATA} -o", *FROM_OTHERS])
def test_a_place_that_cannot_be_written(command, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place in ("none/x", "file/x"):
        refused(f"{command} {tmp_path}/{place}", 2, "--out")
    refused(f"{command} {tmp_path}", 2, "--out", "folder")
    refused(f"{command} ''", 2, "--out")
    monkeypatch.setattr("os.access", lambda *_: False)
    refused(f"{command} {tmp_path}/x", 1, "permission")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_run_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    refused(f"{TEACHER} --out {tmp_path}/file/run", 1, "--out")
    refused(f"{TEACHER} --runs {tmp_path}/file", 2, "--runs")


def test_a_sheet_that_is_no_png():
    refused("show a.h5 -o sheet.jpg", 2, ".png")


# Teachers

TEACHERS = [
    (f"{DUMP} --teacher tiny-5 -o no.h5", f"`kdcache train-teacher --model tiny-5 {DATA}`"),
    (f"{DUMP} --teacher tiny-5 --runs other -o no.h5", f"`kdcache train-teacher --model tiny-5 {DATA} --runs other`"),
    (f"{DUMP} --weights none.safetensors -o no.h5", "none.safetensors"),
    (f"{DUMP} --teacher tiny-5 --weights {WEIGHTS} -o no.h5", "weights of tiny-5", "of tiny-3"),
    (f"dump-logits --teacher tiny-3 --weights {WEIGHTS} --data synthetic:64,7,16 -o no.h5", "7 classes", "one of 4"),
    (f"verify a.h5 --teacher tiny-3 --weights {WEIGHTS} --data synthetic:64,7,16", "7 classes"),
    (f"evaluate {WEIGHTS} --data synthetic:64,7,16", "7 classes"),
    (f"evaluate {WEIGHTS} --model tiny-5", "weights of tiny-5"),
    ("evaluate none.safetensors", "none.safetensors"),
]


@pytest.mark.parametrize("case", TEACHERS, ids=lambda case: case[0])
def test_teachers(case):
    refused(case[0], 1, *case[1:])
    assert not list(Path().glob("no.h5*"))


NETS = """
import torch
from torch import nn
NAN = float("nan")  # in the answers, not in the training
class Net(nn.Module):
    def __init__(self, classes, value=1.0, broken=False):
        super().__init__()
        self.fc, self.value, self.broken = nn.Linear(3, classes), value, broken
    def forward(self, x):
        if self.broken:
            raise ValueError("inside forward")
        return self.fc(x.mean((2, 3))) * (1.0 if self.training else self.value)
def good(classes): return Net(classes)
def nan(classes): return Net(classes, NAN)
def huge(classes): return Net(classes, 1e9)
def wide(classes): return Net(classes + 1)
def broken(classes): return Net(classes, broken=True)
def raising(classes): raise RuntimeError("boom")
def number(classes): return 3
"""

FACTORIES = {
    "raising": (2, "boom"), "number": (2, "torch.nn.Module"), "none": (2, "has no attribute"), "wide": (1, "[2, 5]"),
    "broken": (1, "inside forward"),
}  # fmt: skip


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module of the user's own in the current folder, under a name that no other test has imported."""
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETS)
    (tmp_path / f"{name}_broken.py").write_text("def (:")
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("factory", FACTORIES)
def test_factories(factory, nets, home):
    code, word = FACTORIES[factory]
    refused(f"train-teacher --model {nets}:{factory} {DATA} {SHORT}", code, f"{nets}:{factory}", word)
    refused(f"train-student --student {nets}:{factory} --cache {home}/a.h5 {SHORT}", code, word)
    assert not Path("runs").exists()


def test_modules(nets):
    refused(f"train-teacher --model {nets}_none:net {DATA} {SHORT}", 2, "No module named")
    refused(f"train-teacher --model {nets}_broken:net {DATA} {SHORT}", 2, "SyntaxError")


def test_answers_that_cannot_be_stored(nets):
    for factory in ("good", "nan", "huge"):
        good(f"train-teacher --model {nets}:{factory} {DATA} {SHORT} --lr 1e-9")
    dump = f"dump-logits {DATA} --views 2 -o no.h5"
    good(f"{dump} --teacher {nets}:good")
    Path("no.h5").unlink()
    refused(f"{dump} --teacher {nets}:nan", 1, "NaN")
    assert not list(Path().glob("no.h5*"))
    refused(f"{dump} --teacher {nets}:huge", 2, "--codec f32")
    assert not Path("no.h5").exists()


# Caches of something else

OTHERS = [
    (f"{STUDENT} --cache a.h5 --data synthetic:65,4,16", "1 of 65", "row 64", "--missing skip"),
    (f"{STUDENT} --cache a.h5 --data synthetic:64,5,16", "classes"),
    (f"{STUDENT} --cache a.h5 --data synthetic:64,4,17", "none among 64"),
    (f"{STUDENT} --cache a.h5 --data digits", "class 0, which it does not know"),
    (f"evaluate {WEIGHTS} --cache a.h5 --data digits", "rows 1437"),
    ("show a.h5 --data digits", "rows 1437"),
    (f"{STUDENT} --cache a.h5 --method at", "dump again with --method at"),
    (f"{DUMP} --views 3 -o a.h5", "views 2, as in the file", "found 3"),
]


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case[0])
def test_a_cache_of_something_else(case):
    runs = sorted(Path("runs").iterdir())
    refused(case[0], 2 if "--views" in case[0] else 1, "a.h5", *case[1:])  # an option of a dump is wrong use
    assert sorted(Path("runs").iterdir()) == runs  # not even a folder is left


def test_another_teacher_live(tmp_path):
    good(f"{TEACHER} --seed 7 --out {tmp_path}/other")
    other = f"{tmp_path}/other/last.safetensors"
    refused(f"{STUDENT} --cache a.h5 --live --weights {other}", 1, "fingerprint", "dump again")
    refused(f"{DUMP} --weights {other} -o a.h5", 1, "fingerprint", "name another file with --out")
    assert "FAIL  TeacherChanged" in kdcache(f"verify a.h5 --teacher tiny-3 --weights {other}").out


def test_resume_with_other_flags(tmp_path):
    out = f"--out {tmp_path}/run"
    good(f"{TEACHER} {out}")
    for flag in ("--lr 0.5", "--epochs 2", "--label-smoothing 0.1", "--augment crop"):
        refused(f"{TEACHER} {out} --resume {flag}", 2, f"{tmp_path}/run", "leave --resume out")
    good(f"{TEACHER} {out} --resume")


def test_missing_cifar(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")

    def offline(self):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    monkeypatch.setenv("KDCACHE_DATA", str(tmp_path))
    refused("train-teacher --model tiny-3 --data cifar10", 1, f"{tmp_path}/cifar-10-batches-py", "KDCACHE_DATA")


# Images


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image(workers, tmp_path, pictures):
    folder = tmp_path / "broken"
    shutil.copytree(pictures, folder)
    data = f"--data folder:{folder} --augment resized-crop:16 --workers {workers} --device cpu"
    train = f"train-teacher --model tiny-3 {data} --epochs 1 --batch 8"
    good(f"{train} --runs {tmp_path}")
    dump = f"dump-logits --teacher tiny-3 {data} --views 2 --runs {tmp_path} -o {tmp_path}/x.h5"
    victim = sorted((folder / "train" / "dog").iterdir())[7]
    victim.write_bytes(victim.read_bytes()[:500])
    for command in (f"{train} --out {tmp_path}/again", dump):
        refused(command, 1, f"{victim}: expected a whole JPEG, PNG or WebP image")
    assert not list(tmp_path.glob("x.h5*"))
    victim.unlink()
    good(dump)
    victim.write_bytes(next(victim.parent.iterdir()).read_bytes())
    refused(f"{STUDENT} --cache {tmp_path}/x.h5 --workers {workers}", 1, "rows 59, found rows 60")


def test_a_pipeline_that_normalises_is_told(tmp_path):
    albumentations = pytest.importorskip("albumentations")
    pipeline = albumentations.Compose([albumentations.HorizontalFlip(), albumentations.Normalize()])
    albumentations.save(pipeline, str(tmp_path / "flip.json"))
    said = good(f"{TEACHER} --augment albumentations:{tmp_path}/flip.json --workers 0 --json --out {tmp_path}/run")
    assert said.json()["epochs"] == 1
    offered = "for weights that were trained with it: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
    said_first = f"albumentations:{tmp_path}/flip.json: took off Normalize: the network normalises; {offered}\n"
    assert said.err.startswith(said_first)


# What may happen anywhere

SURPRISES = [
    (MemoryError("no room"), "memory"),
    (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "runs/x: expected", "free some space"),
    (OSError(errno.EACCES, "Permission denied", "/x"), "/x: expected", "Permission denied"),
    (OSError(errno.ENOSPC, "No space left on device"), "the output: expected"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "workers"),
]


@pytest.mark.parametrize("case", SURPRISES, ids=lambda case: repr(case[0]))
def test_surprises_are_one_line(case, monkeypatch):
    def fail(*_):
        raise case[0]

    monkeypatch.setattr("kdcache.cache.summary.summary", fail)
    refused("inspect a.h5", 1, *case[1:])


def test_a_bug_of_ours_shows_where_it_is(monkeypatch):
    monkeypatch.setattr("kdcache.cache.summary.summary", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kdcache("inspect a.h5")


# The traceback, for whoever asks

ASKING = {
    "before": ("--debug {}", None),
    "behind": ("{} --debug", None),
    "in the environment": ("{}", "1"),
}


@pytest.mark.parametrize("way", ASKING)
def test_debug_shows_the_traceback_of_anything(way, nets, monkeypatch):
    line, variable = ASKING[way]
    if variable:
        monkeypatch.setenv("KDCACHE_DEBUG", variable)
    for command, code, words in (
        (f"train-teacher --model {nets}:raising {DATA} {SHORT}", 2, ["in raising", "RuntimeError: boom"]),
        ("evaluate none.safetensors", 1, ["FileNotFoundError", "TeacherError"]),
        ("train-teacher --model tiny --epochs x", 2, ["UsageError"]),
    ):
        said = kdcache(line.format(command))
        assert (said.code, said.out) == (code, "")
        assert "Traceback (most recent call last):" in said.err
        assert all(word in said.err for word in words), said.err
        assert said.err.splitlines()[-1].startswith("kdcache: ")


def test_no_debug_no_traceback(nets, monkeypatch):
    monkeypatch.setenv("KDCACHE_DEBUG", "0")
    refused(f"train-teacher --model {nets}:raising {DATA} {SHORT}", 2, "boom")
    assert "--debug" in good("--help").out


def test_what_an_argument_is_not():
    refused("list foo", 2, "kdcache: list: expected one of sources, ")
    refused("bench foo", 2, "kdcache: bench: expected one of read, ")
