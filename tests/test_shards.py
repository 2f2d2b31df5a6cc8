"""A shard: an unfinished dump that is finished, in a file of its own."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_cases import DATA, DUMP, STUDENT, good, kdcache, refused
from hostile_cases import array_in, mark

from kdcache import durable
from kdcache.cache import create, open_cache, writer
from kdcache.cache.layout import merging, read_layout, shard_of
from kdcache.cache.share import Shard, turns
from kdcache.durable import part_of
from kdcache.errors import CacheError
from kdcache.teachers import LiveTeacher


def test_a_shard_is_no_cache(pair):
    said = rf"a shard, 2 of 2; merge them first: kdcache merge {pair[0].parent}/logits.shard\*of2.h5 -o .*/logits.h5"
    with pytest.raises(CacheError, match=said):
        open_cache(pair[1])


def test_a_shard_that_was_interrupted_is_the_same_in_the_end(dump, interrupted, pair, tmp_path):
    interrupted(shard_of(tmp_path / "x.h5", 2, 2), asked=tmp_path / "x.h5", shard=(2, 2))
    assert dump(tmp_path / "x.h5", shard=(2, 2)).read_bytes() == pair[1].read_bytes()


def test_a_finished_shard_returns_at_once(dump, halves, tmp_path, monkeypatch):
    before = halves[0].stat().st_mtime_ns
    monkeypatch.setattr(LiveTeacher, "seen", lambda *_, **__: pytest.fail("the teacher was asked again"))
    assert dump(tmp_path / "logits.h5", shard=(1, 2)) == halves[0]
    assert halves[0].stat().st_mtime_ns == before


@pytest.mark.parametrize(("name", "options"), [("seed", {"seed": 1}), ("codec", {"codec": "f32"})])
def test_a_shard_of_other_flags_is_refused_by_name(dump, halves, tmp_path, name, options):
    with pytest.raises(CacheError, match=f"logits.shard1of2.h5: expected {name} .*, as in the file"):
        dump(tmp_path / "logits.h5", shard=(1, 2), **options)


def test_another_shard_under_its_name_is_refused(dump, halves, tmp_path):
    halves[0].rename(halves[1])
    with pytest.raises(CacheError, match=r"expected shard.number 1, as in the file, found 2"):
        dump(tmp_path / "logits.h5", shard=(2, 2))
    with pytest.raises(CacheError, match=r"expected shard .*'number': 1.*, as in the file, found None"):
        dump(halves[1])


def large(cache, **more) -> tuple[dict, dict]:
    """Header and content of a file of some 7 MB, most of which is filled in later."""
    content = {name: array_in(cache.path, name) for name in ("labels", "digests", "eval_labels", "eval_digests")}
    content |= {f"canaries/{name}": array for name, array in cache.canaries.items()}
    return cache.meta | {"views": 200} | more, content


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="nothing is reserved here")
def test_a_shard_takes_its_share_of_the_disk(cache, tmp_path):
    taken = {}
    for name, more in {"whole": {}, "shard": {"shard": {"number": 3, "of": 10}}}.items():
        create(tmp_path / name, *large(cache, **more))
        taken[name] = part_of(tmp_path / name).stat().st_blocks * 512
    assert taken["whole"] > 7e6
    assert 0.7e6 < taken["shard"] < 0.35 * taken["whole"]  # blocks of a few pages do not end where pages do


def test_the_room_of_its_share_is_asked_for_before(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5 * 10**5))
    with pytest.raises(CacheError, match=r"expected 0.8 MB of free space, found 0.5 MB; free some"):
        create(tmp_path / "x.h5", *large(cache, shard={"number": 3, "of": 10}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="nothing is reserved here")
def test_a_disk_that_lacks_a_share_leaves_nothing(cache, tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        if offset > 10**6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable.os, "posix_fallocate", full)
    with pytest.raises(CacheError, match="No space left on device"):
        create(tmp_path / "x.h5", *large(cache, shard={"number": 3, "of": 10}))
    assert list(tmp_path.iterdir()) == []


def test_every_block_falls_to_one_shard(pair):
    shares = [read_layout(path).share("knowledge/logits") for path in pair]
    assert np.array_equal(shares[0], ~shares[1])


@pytest.mark.parametrize("world", range(1, 7))
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 6, 49])
def test_shares_are_equal_and_so_are_those_of_short_last_blocks(world, blocks):
    counts = np.bincount(turns((11, blocks), world).ravel(), minlength=world)
    assert counts.max() - counts.min() <= 1
    assert sorted(turns((world, blocks), world)[:, -1]) == list(range(world))


# As commands


@pytest.mark.usefixtures("home")
def test_on_two_machines(tmp_path):
    for number in (1, 2):
        said = good(f"{DUMP} --batch 16 -o {tmp_path}/x.h5 --shard {number}/2").out
        assert said.startswith(f"{tmp_path}/x.shard{number}of2.h5: shard {number} of 2, all its blocks done, ")
    merging = said.partition("when all are there: ")[2].strip()
    assert merging == f"kdcache merge {tmp_path}/x.shard*of2.h5 -o {tmp_path}/x.h5"
    page, facts = (good(f"inspect {tmp_path}/x.shard2of2.h5{how}") for how in ("", " --json"))
    assert "on the disk, shard 2 of 2, all its blocks done" in page.out.splitlines()[0]
    assert facts.json().items() >= {"complete": True, "shard": {"number": 2, "of": 2}}.items()
    for reader in ("verify", "show", f"{STUDENT} --cache"):
        refused(f"{reader} {tmp_path}/x.shard2of2.h5", 1, "a shard, 2 of 2; merge them first")
    good(f"merge {tmp_path}/x.shard2of2.h5 {tmp_path}/x.shard1of2.h5 -o {tmp_path}/x.h5")
    good(f"{DUMP} --batch 16 -o {tmp_path}/whole.h5")
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.usefixtures("home")
def test_how_far_an_unfinished_shard_is(tmp_path, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer.Writer, "finish", stop)
    assert kdcache(f"{DUMP} -o {tmp_path}/x.h5 --shard 2/2").code == 130
    part = tmp_path / "x.shard2of2.h5.part"
    mark(part, "seeds", 1, 0, bytes(8))
    assert good(f"inspect {part}").out.splitlines()[0].endswith("shard 2 of 2, unfinished: 1 of 2 blocks done, 50 %")


def test_the_command_that_merges_can_be_typed_whatever_the_name():
    assert merging(Path("my caches/x y.shard2of3.h5"), Shard(1, 3)) == (
        "kdcache merge 'my caches/x y.shard'*of3.h5 -o 'my caches/x y.h5'"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_as_an_array_of_slurm(tmp_path):
    """The scripts, as SLURM would call them."""
    scripts = Path(__file__).parents[1] / "pipelines" / "slurm"
    spec = DATA.split()[-1]
    asked = {"TEACHER": "tiny-3", "DATA": spec, "VIEWS": "2", "OUT": f"{tmp_path}/x.h5", "SLURM_ARRAY_TASK_COUNT": "2"}
    environment = os.environ | asked | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for number in ("1", "2"):
        one = ["bash", scripts / "dump.sbatch", "--batch", "16", "--device", "cpu"]
        subprocess.run(one, env=environment | {"SLURM_ARRAY_TASK_ID": number}, check=True)
    subprocess.run(["bash", scripts / "merge.sbatch"], env=environment, check=True)
    good(f"{DUMP} --batch 16 -o {tmp_path}/whole.h5")
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.usefixtures("home")
def test_shards_are_not_for_ranks(monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(f"{DUMP} -o {tmp_path}/x.h5 --shard 1/2", 2, "--shard: expected one process, found 2 ranks of torchrun")
