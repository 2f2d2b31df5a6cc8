"""The teacher runs once: the same bytes however the dump was run, and nothing half-made under the final name."""

import json
import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fresh_teacher

from kdcache import dump as dumping
from kdcache.cache import create, open_cache, writer
from kdcache.cache.layout import part_of, read_layout
from kdcache.choice import Data, describe
from kdcache.errors import CacheError, DataChanged, KdcacheError, LibraryChanged, PipelineChanged, TeacherError
from kdcache.teachers import Forward, LiveTeacher
from kdcache.views import open_view

KILLING = Path(__file__).with_name("killing.py")


def killing(folder: Path, *arguments, before=()) -> dict:
    command = [*before, sys.executable, str(KILLING), str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Folders of images that are too large to be held in memory, so that workers decode them."""
    from PIL import Image

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
    """Begins a dump and leaves it when the first blocks are written."""

    def begin(path: Path, **options) -> Path:
        def stop(self):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(writer.Writer, "finish", stop)
            with pytest.raises(KeyboardInterrupt):
                dump(path, **options)
        assert [entry.name for entry in path.parent.iterdir() if entry.name.startswith(path.name)] == [
            path.name + ".part"
        ]
        return path

    return begin


# --- the same bytes ---------------------------------------------------------------------------------------------------


def test_the_number_of_workers_does_not_show(dump, pictures, tmp_path):
    data = Data.open(f"folder:{pictures}", "resized-crop:16")
    run = partial(dump, data=data, network=fresh_teacher(Data.open("synthetic:200,2,16", None), 1), forward=Forward(16))
    files = {run(tmp_path / f"{workers}.h5", workers=workers).read_bytes() for workers in (0, 1, 2)}
    assert len(files) == 1


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_write_it_ends_in_the_same_bytes(tmp_path, stride):
    found = killing(tmp_path, "steps", stride)
    assert (found["files"], found["left"]) == (1, [])
    assert found["writes"] > 40


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_random_times_it_ends_in_the_same_bytes(tmp_path, kills):
    found = killing(tmp_path, "times", kills, 1)
    assert (found["files"], found["left"]) == (1, [])
    assert found["kills"] >= kills


@pytest.mark.slow
def test_killed_with_workers_it_ends_in_the_same_bytes(tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "pictures")
    assert killing(tmp_path, "times", 20, 2)["files"] == 1


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_make_the_same_file_together(tmp_path, world):
    found = killing(tmp_path, "at-once", world)
    assert found == {"codes": [0] * world, "said": "", "same": True, "left": []}


def test_of_two_strangers_at_once_one_makes_the_file(tmp_path):
    found = killing(tmp_path, "at-once", 0)
    assert sorted(found["codes"]) == [0, 1]
    assert "expected no other dump at work on it, found one; wait for it" in found["said"]
    assert (found["same"], found["left"]) == (True, [])


def test_every_rank_has_its_blocks_whatever_is_done_by_now(interrupted, tmp_path):
    from kdcache.dist import Ranks

    with writer.Writer(interrupted(tmp_path / "x.h5")) as made:
        done = np.zeros((3, 2), dtype=bool)
        made.done = lambda name: done
        shares = [dumping.undone(made, ["seeds"], Ranks(0, 2))]
        done[0, 0] = True
        shares.append(dumping.undone(made, ["seeds"], Ranks(1, 2)))
    assert sorted(sum(shares, [])) == [(v, b) for v in range(3) for b in range(2)]  # noqa: RUF017


@pytest.mark.parametrize("ranks", [("1", "1"), ("-1", "2"), ("x", "2"), ("0", "")])
def test_ranks_that_cannot_be(dump, tmp_path, monkeypatch, ranks):
    monkeypatch.setenv("RANK", ranks[0])
    monkeypatch.setenv("WORLD_SIZE", ranks[1])
    with pytest.raises(KdcacheError, match="RANK: expected a number from 0 to WORLD_SIZE-1"):
        dump(tmp_path / "x.h5")


def test_a_single_row_in_the_last_batch_is_answered_as_in_a_larger_one(dump, data, teacher, tmp_path):
    part = Data(data.train.take(np.arange(65)), data.held_out.take(np.arange(1)), data.view)
    run = partial(dump, codec="f32", data=part)
    alone = open_cache(run(tmp_path / "a.h5", forward=Forward(64)))
    among = open_cache(run(tmp_path / "b.h5", forward=Forward(65)))
    for view in range(3):
        assert torch.equal(alone.read(view, [64])["logits"], among.read(view, [64])["logits"])
    whole = LiveTeacher(teacher, dumping.build("st") if hasattr(dumping, "build") else None, Forward()) if 0 else None
    assert whole is None


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_finished_dump_returns_at_once(dump, copied, monkeypatch):
    before = copied.stat()
    monkeypatch.setattr(LiveTeacher, "looks", lambda *_: pytest.fail("the teacher was asked again"))
    assert dump(copied) == copied
    assert copied.stat() == before


def changes(data):
    """Flags that change, and the name under which the difference is reported."""
    other, smaller = Data.open("synthetic:1300,10,8", "crop"), Data.open("synthetic:1200,10,8", None)
    changed = Data(data.train.take(np.arange(1300)[::-1].copy()), data.held_out, data.view)
    return {
        "views": {"views": 4},
        "seed": {"seed": 1},
        "forward.batch": {"forward": Forward(32)},
        "forward.dtype": {"forward": Forward(64, dtype="bf16")},
        "forward.channels_last": {"forward": Forward(64, channels_last=True)},
        "forward.tf32": {"forward": Forward(64, tf32=True)},
        "method": {"method": "logits"},
        "codec": {"codec": "f32"},
        "teacher.fingerprint": {"network": fresh_teacher(data, seed=2)},
        "view.flip": {"data": Data(data.train, data.held_out, other.view)},
        "data": {"data": changed},
        "source.rows": {"data": Data(smaller.train, data.held_out, data.view)},
        "eval.rows": {"data": Data(data.train, smaller.held_out, data.view)},
    }


@pytest.mark.parametrize("state", ["finished", "begun"])
def test_other_flags_are_refused_by_name(dump, data, interrupted, copied, tmp_path, state):
    path = copied if state == "finished" else interrupted(tmp_path / "begun.h5")
    file = copied if state == "finished" else part_of(path)
    before = file.read_bytes()
    for name, options in changes(data).items():
        with pytest.raises(CacheError, match=f"expected {name} .*, as in the file, found ") as caught:
            dump(path, **options)
        assert str(caught.value).isprintable()
    assert file.read_bytes() == before
    assert dump(path).read_bytes() == before if state == "finished" else dump(path).exists()


def test_a_dump_that_was_interrupted_is_the_same_in_the_end(dump, interrupted, cache_file, tmp_path):
    assert dump(interrupted(tmp_path / "x.h5")).read_bytes() == cache_file.read_bytes()


def test_the_data_may_move(dump, interrupted, pictures, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(pictures, old)
    network = fresh_teacher(Data.open("synthetic:200,2,16", None), 1)
    run = partial(network=network, forward=Forward(16), func=dump) if False else partial(dump, network=network)
    finished = run(tmp_path / "a.h5", data=Data.open(f"folder:{old}", "resized-crop:16"))
    begun = interrupted(tmp_path / "b.h5", network=network, data=Data.open(f"folder:{old}", "resized-crop:16"))
    old.rename(new)
    moved = Data.open(f"folder:{new}", "resized-crop:16")
    assert run(finished, data=moved) == finished
    assert run(begun, data=moved).read_bytes() == finished.read_bytes()


def test_it_does_not_go_on_with_an_image_that_has_changed(dump, interrupted, pictures, tmp_path):
    root = shutil.copytree(pictures, tmp_path / "pictures")
    options = {"network": fresh_teacher(Data.open("synthetic:200,2,16", None), 1), "views": 1}
    path = interrupted(tmp_path / "x.h5", data=Data.open(f"folder:{root}", "resized-crop:16"), **options)
    shutil.copy(root / "train/cat/03.png", root / "train/cat/00.png")  # the same size, under the same name
    part = part_of(path)
    with open(part, "r+b") as file:  # what has yet to be done
        place = read_layout(part).places["blocks/knowledge/logits"]
        os.pwrite(file.fileno(), bytes(place.nbytes), place.offset)
    with pytest.raises(DataChanged, match=r"cat/00.png: .* another file than the teacher saw as row 0"):
        dump(path, data=Data.open(f"folder:{root}", "resized-crop:16"), **options)
    assert not path.exists()


@pytest.mark.parametrize(("versions", "verdict"), [({}, PipelineChanged), ({"pillow": "0.1"}, LibraryChanged)])
def test_it_does_not_go_on_with_a_view_that_renders_other_pixels(
    dump, interrupted, data, tmp_path, monkeypatch, versions, verdict
):
    path = interrupted(tmp_path / "x.h5")
    render = type(data.view).render
    now = dumping.library_versions() | versions
    monkeypatch.setattr(type(data.view), "render", lambda self, images, seeds: render(self, images, seeds) ^ 1)
    monkeypatch.setattr(dumping, "library_versions", lambda: now)
    with pytest.raises(
        verdict, match=f"x.h5.part, view crop-flip: .* in 64 of 64 canaries{', with pil' * bool(versions)}"
    ):
        dump(path)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def nan_for(row: int, data, network):
    """A teacher that answers NaN for one row."""
    looks = LiveTeacher.looks
    wanted = data.train.read([row])[0].float().mean()

    def broken(self, images):
        look = looks(self, images)
        bad = (images.float().mean((1, 2, 3)) == wanted).nonzero()
        look["logits"][bad] = float("nan")
        return look

    return broken


def test_a_teacher_that_always_answers_nan(dump, data, tmp_path):
    network = fresh_teacher(data, 1)
    network.body.fc.bias.data[3] = float("nan")
    with pytest.raises(TeacherError, match=r"the teacher: expected finite logits, found NaN or infinity for row \d+"):
        dump(tmp_path / "x.h5", network=network)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_answers_nan_once(dump, data, teacher, tmp_path, monkeypatch):
    still = Data(data.train, data.held_out, open_view("none", (8, 8)))
    monkeypatch.setattr(LiveTeacher, "looks", nan_for(1298, still, teacher))
    with pytest.raises(TeacherError, match="NaN or infinity for row 1298"):
        dump(tmp_path / "x.h5", data=still)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.h5.part"]
    monkeypatch.undo()
    assert dump(tmp_path / "x.h5", data=still).exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing/x.h5", "expected an existing folder, found no "),
        ("file/x.h5", "expected an existing folder, found no "),
        ("folder", "expected a cache file, found a folder"),
        ("text", "expected an HDF5 file, found something else"),
        ("n" * 255, "File name too long"),
    ],
)
def test_places_where_no_file_can_be(dump, tmp_path, place, said):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("a file of the user's")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CacheError, match=said):
        dump(tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before


def test_more_than_the_disk_has_is_refused_before_anything_is_written(dump, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 9 * 10**5, 10**5))
    with pytest.raises(CacheError, match=r"expected 0.2 MB of free space, found 0.1 MB; free some"):
        dump(tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["posix_fallocate", "fsync", "link"])
@pytest.mark.parametrize("number", [28, 122, 5])
def test_a_disk_that_fails_at_the_beginning_leaves_nothing(dump, tmp_path, monkeypatch, name, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(CacheError, match=os.strerror(number)):
        dump(tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["pwrite", "fsync", "rename"])
def test_a_disk_that_fails_on_the_way_costs_nothing_that_was_done(
    dump, interrupted, cache_file, tmp_path, monkeypatch, name
):
    path = interrupted(tmp_path / "x.h5")

    def fail(*_):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(CacheError, match="No space left on device; free some space"):
            dump(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.h5.part"]
    assert dump(path).read_bytes() == cache_file.read_bytes()


def test_a_file_that_may_not_be_so_large(dump, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CacheError, match="expected room for the whole file, found File too large"):
            dump(tmp_path / "x.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def can_mount() -> bool:
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return done.returncode == 0


@pytest.mark.skipif(not shutil.which("unshare") or not can_mount(), reason="no right to mount")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("size=8k", "MB of free space"),
        ("size=60k", "room for the whole file, found No space left on device"),
        ("size=120k", "room for the whole file, found No space left on device"),
        ("ro", "permission to write there, found a read-only"),
    ],
)
def test_a_disk_that_is_full_or_read_only(tmp_path, options, said):
    inside = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    found = killing(tmp_path, "once", before=["unshare", "-m", "sh", "-c", inside, str(tmp_path)])
    assert found["code"] == 1
    assert said in found["said"]
    assert found["left"] == []


def test_leftovers_of_a_creation_that_was_killed_are_removed(dump, tmp_path):
    (tmp_path / f"x.h5.part.{'0' * 16}").write_bytes(b"dead")
    kept = [f"x.h5.part.{'0' * 15}", "x.h5.part.backup", f"y.h5.part.{'0' * 16}", "x.h5.bak"]
    for name in kept:
        (tmp_path / name).touch()
    dump(tmp_path / "x.h5")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*kept, "x.h5"])


def test_a_creation_at_work_is_left_alone(tmp_path):
    part = tmp_path / "x.h5.part"
    made = sys.modules["kdcache.cache.create"]
    with made.private_file(part) as (private, _):
        made.clear_leftovers(part)
        assert private.exists()
    assert list(tmp_path.iterdir()) == []


def test_nan_is_no_part_of_a_header(cache, tmp_path):
    with pytest.raises(CacheError, match="finite numbers"):
        create(tmp_path / "x.h5", cache.meta | {"view": {"p": float("nan")}}, {})


def test_the_teacher_is_described(cache, teacher):
    described = describe(teacher)
    assert {key: cache.meta["teacher"][key] for key in described} == json.loads(json.dumps(described))
