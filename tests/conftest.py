"""What several test files share: a small teacher, and finished caches of its answers."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdcache.cache import Cache, open_cache, writer
from kdcache.jobs import Data, DumpOptions, make_dump
from kdcache.models import build
from kdcache.models.network import Network
from kdcache.teachers import Forward
from kdcache.views import from_json

torch.set_num_threads(1)  # the machine is shared, and nothing here is large
ROWS, VIEWS, BATCH = 1300, 3, 64  # a block is 1024 rows, so that every view has a second one, which is not full


@pytest.fixture(scope="session", autouse=True)
def _nobody_waits_for_a_rate():
    """What plans and checks measure for a second, on one batch."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("estimates.SECONDS", "estimates.LEAST_SECONDS", "checkup.SECONDS"):
            patch.setattr(f"kdcache.jobs.{name}", 0.0)
        yield


@pytest.fixture(scope="session")
def data() -> Data:
    """1300 training and 260 evaluation images of 8x8, in 10 classes."""
    return Data.open(f"synthetic:{ROWS},10,8", None)


@pytest.fixture(scope="session")
def teacher(data) -> Network:
    """A network with fresh weights; its logits are of ordinary size."""
    return fresh_teacher(data, seed=1)


def fresh_teacher(data: Data, seed: int) -> Network:
    network = build("tiny-3", len(data.train.classes), data.train.mean, data.train.std, seed=seed).train()
    with torch.no_grad():
        network(data.train.read(range(128)))
    return network.eval()


@pytest.fixture(scope="session")
def dump(data, teacher):
    """Dumps to a path with options of `DumpOptions`; other data and another teacher can be given."""

    def run(path: Path, data=data, network=teacher, **options) -> Path:
        chosen = DumpOptions(Path(path), **{"views": VIEWS, "forward": Forward(BATCH)} | options)
        with make_dump(copy.deepcopy(network), data, chosen) as made:  # which gives it a memory layout, say
            return made.run()

    return run


@pytest.fixture(scope="session")
def cache_file(dump, tmp_path_factory) -> Path:
    """A finished cache with f16 logits. Not to be changed: see `copied`."""
    return dump(tmp_path_factory.mktemp("cache") / "logits.h5")


@pytest.fixture
def cache(cache_file) -> Cache:
    return open_cache(cache_file)


@pytest.fixture
def copied(cache_file, tmp_path) -> Path:
    """A copy of the finished cache that a test may damage."""
    return Path(shutil.copy(cache_file, tmp_path / "copy.h5"))


@pytest.fixture(scope="session")
def pair(dump, tmp_path_factory) -> list[Path]:
    """The two shards of `cache_file`. Not to be changed: see `halves`."""
    folder = tmp_path_factory.mktemp("shards")
    return [dump(folder / "logits.h5", shard=(number, 2)) for number in (1, 2)]


@pytest.fixture
def halves(pair, tmp_path) -> list[Path]:
    """Copies of the two shards that a test may damage."""
    return [Path(shutil.copy(path, tmp_path / path.name)) for path in pair]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Folders of images that are too large to be held in memory, so that workers decode them."""
    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 6)):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (70, 66 + number % 3, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number:02}.png")
    return root


@pytest.fixture
def interrupted(dump, monkeypatch):
    """Begins a dump and leaves it when the first blocks are written; of a shard, `asked` is the name it was told."""

    def begin(path: Path, asked: Path | None = None, **options) -> Path:
        def stop(self):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(writer.Writer, "finish", stop)
            with pytest.raises(KeyboardInterrupt):
                dump(asked or path, **options)
        assert [entry.name for entry in path.parent.iterdir() if entry.name.startswith(path.name)] == [
            path.name + ".part"
        ]
        return path

    return begin


@pytest.fixture
def few_are_tried(monkeypatch):
    """Of a teacher in the loop: how exact it is has tests of its own, and each training would measure it."""
    monkeypatch.setattr("kdcache.teachers.live.TRIED", 2)


@pytest.fixture
def rendered_here(monkeypatch):
    """That a library's view replays in a fresh process, which takes seconds, has tests of its own."""
    render_here(monkeypatch)


def render_here(patch: pytest.MonkeyPatch) -> None:
    """The second rendering that a dump asks for is made in this process, by a view that its header gives."""

    def again(view, images, seeds):
        header = view.to_json()
        trusted = f"{header['view']}:{header['factory']}" if "factory" in header else None
        return from_json("this process", header, trusted).render(images, seeds)

    patch.setattr("kdcache.proof.canaries.render_elsewhere", again)


@pytest.fixture
def images():
    """Four of 32x32."""
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def killing(folder: Path, *actions: str, before=()) -> list[dict]:
    """What `killing.py` finds of each of these."""
    command = [*before, sys.executable, str(Path(__file__).with_name("killing.py")), str(folder), *actions]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def attack(name: str, *options, seed: int = 0) -> dict:
    """What one of the attacks prints as JSON; none of its trials may go wrong."""
    program = Path(__file__).parent / "attacks" / f"{name}.py"
    command = [sys.executable, program, *map(str, options), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr[-3000:]}"
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """A folder in which somebody trained a tiny-3 on 64 images and dumped it to a.h5, with the commands."""
    from cli_cases import DUMP, TEACHER, good

    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        good(TEACHER)
        good(f"{DUMP} -o a.h5")
    return folder


@pytest.fixture
def home(workplace, monkeypatch) -> Path:
    """The current folder: a copy of the workplace is not worth its time, so tests write elsewhere."""
    monkeypatch.chdir(workplace)
    return workplace
