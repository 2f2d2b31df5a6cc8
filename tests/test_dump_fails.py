"""What goes wrong in a dump: one clear line, nothing under the final name, and nothing lost that was done."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import fresh_teacher, killing
from reference_views import encoded, picture

from kdcache import dump as dumping
from kdcache import durable
from kdcache.cache import Writer, create
from kdcache.cache.layout import read_layout
from kdcache.cache.writer import blocks_done
from kdcache.errors import CacheError, DataChanged, KdcacheError, TeacherError, UsageError
from kdcache.jobs import Data, DumpOptions, make_dump
from kdcache.models import build
from kdcache.teachers import Forward, LiveTeacher
from kdcache.views import open_view


def nan_for(image: torch.Tensor):
    """A teacher that answers NaN for one image."""
    keeps = LiveTeacher.keeps

    def broken(self, images):
        look = keeps(self, images)
        look["logits"][(images == image).flatten(1).all(1)] = float("nan")
        return look

    return broken


def test_a_teacher_that_always_answers_nan(dump, data, tmp_path):
    network = fresh_teacher(data, 1)
    network.body.fc.bias.data[3] = float("nan")
    with pytest.raises(TeacherError, match=r"the teacher: expected finite logits, found NaN or infinity for row \d+"):
        dump(tmp_path / "x.h5", network=network)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_answers_nan_once(dump, data, tmp_path, monkeypatch):
    still = Data(data.train, data.held_out, open_view("none", (8, 8)))
    monkeypatch.setattr(LiveTeacher, "keeps", nan_for(data.train.read([1298])))
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
        ("n" * 250, "File name too long"),
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
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 10**4, 10**4))
    with pytest.raises(CacheError, match=r"expected 0.1 MB of free space, found 0.0 MB; free some"):
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
    part = path.with_name("x.h5.part")
    with open(part, "r+b") as file:  # one block is still to be written
        file.seek(read_layout(part).word_offset("knowledge/logits", 1, 0))
        file.write(bytes(8))

    def fail(*_):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(CacheError, match="No space left on device; free some space"):
            dump(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.h5.part"]
    assert dump(path).read_bytes() == cache_file.read_bytes()


def test_what_may_not_have_reached_the_disk_is_done_again(dump, interrupted, cache_file, tmp_path, monkeypatch):
    fsync, part = os.fsync, tmp_path / "x.h5.part"

    def fail_once(descriptor):  # as Linux does: the next one succeeds
        monkeypatch.setattr(os, "fsync", fsync)
        raise OSError(5, os.strerror(5))

    begin = dumping.create
    monkeypatch.setattr(dumping, "create", lambda *a: (begin(*a), monkeypatch.setattr(os, "fsync", fail_once)))
    with pytest.raises(CacheError, match="Input/output error"):
        dump(tmp_path / "x.h5")
    assert blocks_done(read_layout(part)) == (2, 2 + 6 + 6 + 1)  # digests, known from the beginning, alone
    assert dump(tmp_path / "x.h5").read_bytes() == cache_file.read_bytes()


@pytest.mark.parametrize("replacement", [b"another dump's", None])
def test_a_file_that_was_put_in_its_place_gets_no_final_name(dump, tmp_path, monkeypatch, replacement):
    path, part = tmp_path / "x.h5", tmp_path / "x.h5.part"

    def replace(self):
        part.unlink(missing_ok=True)
        if replacement:
            part.write_bytes(replacement)
        return True

    monkeypatch.setattr(Writer, "complete", replace)
    with pytest.raises(CacheError, match=f"found {'another one' if replacement else 'none'}"):
        dump(path)
    assert not path.exists()


@pytest.mark.parametrize("number", [1, 95, 38])
def test_a_file_system_without_hard_links_will_do(dump, cache_file, tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    assert dump(tmp_path / "x.h5").read_bytes() == cache_file.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.h5"]


def test_a_system_that_cannot_reserve_will_do(dump, cache_file, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    assert dump(tmp_path / "x.h5").read_bytes() == cache_file.read_bytes()


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
        pytest.param("size=8k", "MB of free space", marks=pytest.mark.slow),
        ("size=60k", "room for the whole file, found No space left on device"),
        ("ro", "permission to write there, found a read-only"),
    ],
)
def test_a_disk_that_is_full_or_read_only(tmp_path, options, said):
    inside = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    [found] = killing(tmp_path, "once", before=["unshare", "-m", "sh", "-c", inside, str(tmp_path)])
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


def test_a_creation_at_work_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "PATIENCE", 0.1)
    with durable.alone_in(tmp_path) as alone, durable.private_file(tmp_path / "x.h5.part") as (private, _):
        durable.clear_leftovers(tmp_path / "x.h5.part")
        assert (alone, private.exists()) == (True, True)
    assert list(tmp_path.iterdir()) == []


def test_who_goes_on_without_the_lock_of_the_folder_is_left_alone_too(tmp_path):
    with durable.private_file(tmp_path / "x.h5.part") as (private, _):
        durable.clear_leftovers(tmp_path / "x.h5.part")
        assert private.exists()


def test_a_link_that_leads_nowhere_is_refused(dump, tmp_path):
    (tmp_path / "x.h5.part").symlink_to(tmp_path / "gone" / "x.h5.part")
    with pytest.raises(KdcacheError, match="File exists"):
        dump(tmp_path / "x.h5")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_replaced_while_it_is_dumped_is_refused(tmp_path, workers):
    for split, rows in (("train", 10), ("test", 2)):
        for row in range(rows):
            path = tmp_path / split / "ab"[row % 2] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(80, 80, key=row)))
    data = Data.open(f"folder:{tmp_path}", "resized-crop:16")
    options = DumpOptions(tmp_path / "x.h5", 1, workers=workers, forward=Forward(batch=5))

    def replaced(steps, desc, **_):
        if desc == "dumping knowledge":
            (tmp_path / "train" / "b" / "9.png").write_bytes(encoded(picture(80, 80, key=99)))
        return steps

    network = build("tiny-2", 2, (0.5,) * 3, (0.25,) * 3)
    with make_dump(network, data, options) as dump, pytest.raises(DataChanged, match=r"9\.png: expected an unchanged"):
        dump.run(replaced)


@pytest.mark.parametrize(
    "locking", ["TRUE", *(pytest.param(v, marks=pytest.mark.slow) for v in ("FALSE", "BEST_EFFORT"))]
)
def test_hdf5s_own_locks_do_not_matter(cache_file, tmp_path, locking):
    code = """if True:
        import sys, numpy as np
        from kdcache.cache import create
        from kdcache.cache.layout import Path, read_layout
        from kdcache.durable import part_of
        meta = read_layout(Path(sys.argv[1])).meta
        canaries = {f"canaries/{n}": np.zeros(1, t) for n, t in (("row", "i8"), ("view", "i8"), ("crc", "u4"))}
        known = canaries | {"labels": np.zeros(1300, "i4"), "eval_digests": np.zeros(260, "u8")}
        known |= {"eval_labels": np.zeros(260, "i4")}
        create(Path(sys.argv[2]), meta, known)
        read_layout(part_of(Path(sys.argv[2])))"""
    environment = os.environ | {"HDF5_USE_FILE_LOCKING": locking}
    subprocess.run([sys.executable, "-c", code, cache_file, tmp_path / "x.h5"], env=environment, check=True)


def test_nan_is_no_part_of_a_header(cache, tmp_path):
    with pytest.raises(CacheError, match="finite numbers"):
        create(tmp_path / "x.h5", cache.meta | {"view": {"p": float("nan")}}, {})


@pytest.mark.parametrize(("row", "error"), [(None, UsageError), (1298, CacheError)])
def test_values_beyond_f16_are_found_before_the_file_is_made_or_named(dump, data, tmp_path, monkeypatch, row, error):
    keeps, image = LiveTeacher.keeps, data.train.read([row or 0])[0]

    def huge(self, images):
        found = keeps(self, images)
        which = (images == image).flatten(1).all(1) if row else torch.ones(len(images), dtype=bool)
        found["logits"] = torch.where(which[:, None], 1e5, found["logits"])
        return found

    monkeypatch.setattr(LiveTeacher, "keeps", huge)
    plain = Data(data.train, data.held_out, open_view("none", (8, 8)))
    part = tmp_path / "x.h5.part"
    said = rf"knowledge/logits of row {row}, view 0; rm {part}, then dump" if row else r"logits of row \d+, view 0;"
    with pytest.raises(error, match=f"up to 65504, found 100000 in {said}") as caught:
        dump(tmp_path / "x.h5", data=plain, views=1)
    assert caught.value.exit_code == (1 if row else 2)
    assert part.exists() == bool(row)


@pytest.mark.parametrize("count", [20, pytest.param(0, marks=pytest.mark.slow)])
def test_calls_that_fail(count):
    program = Path(__file__).parent / "attacks" / "failing_calls.py"
    done = subprocess.run([sys.executable, program, "--count", str(count), "--json"], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert len(json.loads(done.stdout)) == 7
