"""The shards of a dump, merged to the bytes of a single one."""

import os
import shutil

import numpy as np
import pytest
from conftest import fresh_teacher, killing
from hostile_cases import array_in, forged, mark

from kdcache.cache import open_cache
from kdcache.cache.layout import read_layout, shard_of
from kdcache.cache.parts import merge
from kdcache.durable import part_of
from kdcache.errors import CacheError, DataChanged, PipelineChanged, TeacherChanged, UsageError
from kdcache.jobs import Data
from kdcache.teachers import Forward


def test_merged_shards_are_a_single_dump(pair, cache_file, tmp_path):
    before = [path.read_bytes() for path in pair]
    merged = merge(pair[::-1], tmp_path / "merged.h5")
    assert merged.read_bytes() == cache_file.read_bytes()
    assert [path.read_bytes() for path in pair] == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["merged.h5"]


REQUESTS = {
    "three": (3, {"views": 2}),
    "one": (1, {}),
    "more than blocks": (9, {"views": 1}),
    "several methods": (3, {"method": "at,rkd,st", "codec": "int8"}),
    "later views": (2, {"first_view": 7, "seed": 3}),
}


@pytest.mark.parametrize(("of", "options"), REQUESTS.values(), ids=REQUESTS)
def test_whatever_was_asked_for(dump, tmp_path, of, options):
    shards = [dump(tmp_path / "x.h5", shard=(number, of), **options) for number in range(1, of + 1)]
    assert merge(shards, tmp_path / "x.h5").read_bytes() == dump(tmp_path / "whole.h5", **options).read_bytes()


OTHER_DATA = {"no evaluation images": (1300, 0, "st"), "learnt constants": (80, 20, "ft")}


@pytest.mark.parametrize(("rows", "held_out", "method"), OTHER_DATA.values(), ids=OTHER_DATA)
def test_whatever_it_was_asked_of(dump, data, tmp_path, rows, held_out, method):
    part = Data(data.train.take(np.arange(rows)), data.held_out.take(np.arange(held_out)), data.view)
    options = {"data": part, "method": method}
    shards = [dump(tmp_path / "x.h5", shard=(number, 2), **options) for number in (1, 2)]
    assert merge(shards, tmp_path / "x.h5").read_bytes() == dump(tmp_path / "whole.h5", **options).read_bytes()


@pytest.mark.parametrize("which", [0, 1])
def test_a_shard_that_an_earlier_version_began(pair, tmp_path, which):
    """Its canaries may lack what later ones have."""
    older = forged(pair[which], tmp_path / pair[which].name, {"canaries/logits": None})
    merged = open_cache(merge([older, pair[1 - which]], tmp_path / "merged.h5"))
    assert ("logits" in merged.canaries) == (which == 1)  # as in the first shard


@pytest.mark.parametrize("stride", [90, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_write_both_dumps_and_merge_end_in_the_same_bytes(tmp_path, stride):
    [found] = killing(tmp_path, f"merging {stride}")
    assert (found["files"], found["left"]) == (1, [])
    assert found["writes"] > 200


def test_what_several_files_have_is_taken_from_one(dump, interrupted, pair, cache_file, tmp_path):
    unfinished = part_of(interrupted(tmp_path / "x.h5"))
    thirds = [dump(tmp_path / "x.h5", shard=(number, 3)) for number in (1, 3)]
    assert merge([pair[1], unfinished], tmp_path / "a.h5").read_bytes() == cache_file.read_bytes()
    assert merge([*thirds, *pair], tmp_path / "b.h5").read_bytes() == cache_file.read_bytes()


def test_a_merge_that_is_done_returns_at_once(pair, tmp_path):
    before = merge(pair, tmp_path / "x.h5").stat().st_mtime_ns
    assert merge(pair, tmp_path / "x.h5").stat().st_mtime_ns == before


@pytest.mark.parametrize("finished", [True, False])
def test_it_does_not_go_on_in_another_file(dump, interrupted, pair, tmp_path, finished):
    path = dump(tmp_path / "x.h5", seed=1) if finished else interrupted(tmp_path / "x.h5", seed=1)
    with pytest.raises(
        CacheError,
        match=r"x.h5(.part)?: expected seed 1, as in the file, found 0; remove it",
    ):
        merge(pair, path)


def test_it_does_not_go_on_with_blocks_that_have_changed(dump, interrupted, pair, tmp_path):
    part = part_of(interrupted(tmp_path / "x.h5"))
    mark(part, "seeds", 1, 1, b"\1\0\0\0\1\0\x64\x6b")
    with pytest.raises(CacheError, match="expected the blocks of seeds as they are now, found other ones"):
        merge(pair, tmp_path / "x.h5")


# Refused


def test_shards_that_are_missing_are_named(dump, interrupted, pair, tmp_path):
    with pytest.raises(CacheError, match=r"x.h5: expected all of 2 shards, finished, found no shard 2; name them all"):
        merge(pair[:1], tmp_path / "x.h5")
    second = part_of(shard_of(tmp_path / "y.h5", 2, 2))
    interrupted(shard_of(tmp_path / "y.h5", 2, 2), asked=tmp_path / "y.h5", shard=(2, 2))
    mark(second, "seeds", 1, 0, bytes(8))
    with pytest.raises(CacheError, match=r"found 1 blocks of shard 2 missing; name them all, and finish first"):
        merge([pair[0], second], tmp_path / "x.h5")
    assert not part_of(tmp_path / "x.h5").exists()


def test_a_damaged_block_is_named(halves, pair, cache_file, tmp_path):
    layout = read_layout(halves[1])
    with open(halves[1], "r+b") as file:
        os.pwrite(file.fileno(), b"\x7f", layout.span("knowledge/logits", 0, 1)[0] + 5)
    with pytest.raises(CacheError, match=r"shard2of2.h5:/knowledge/logits: .* a wrong CRC in block 1 of view 0"):
        merge(halves, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()
    assert merge(pair, tmp_path / "x.h5").read_bytes() == cache_file.read_bytes()


def test_a_damaged_header_is_refused(halves, tmp_path):
    halves[0].write_bytes(halves[0].read_bytes().replace(b'"method": "st"', b'"method": "xx"'))
    with pytest.raises(CacheError, match=r"shard1of2.h5: expected an intact header, found a wrong seal"):
        merge(halves, tmp_path / "x.h5")


def test_blocks_that_differ_are_refused(halves, tmp_path):
    other = shutil.copy(halves[0], tmp_path / "other.h5")
    mark(other, "knowledge/logits", 0, 0, b"\1\0\0\0\1\0\x64\x6b")
    with pytest.raises(CacheError, match=r"other.h5:/knowledge/logits: expected block 0 of view 0 as in .*shard1of2"):
        merge([*halves, other], tmp_path / "x.h5")


OTHERS = {
    "views": {"views": 4},
    "seed": {"seed": 1},
    "forward.batch": {"forward": Forward(32)},
    "method": {"method": "logits"},
    "codec": {"codec": "f32"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_shards_of_another_request_are_refused_by_name(dump, pair, tmp_path, name):
    other = dump(tmp_path / "y.h5", shard=(2, 2), **OTHERS[name])
    with pytest.raises(CacheError, match=rf"y.shard2of2.h5: expected {name} .*, as in .*/logits.shard1of2.h5, found"):
        merge([pair[0], other], tmp_path / "x.h5")


def test_shards_of_another_teacher_are_refused_by_name(dump, data, pair, tmp_path):
    other = dump(tmp_path / "y.h5", shard=(2, 2), network=fresh_teacher(data, seed=2))
    with pytest.raises(CacheError, match=r"expected teacher.fingerprint"):
        merge([pair[0], other], tmp_path / "x.h5")


def shifted(by: float):
    return lambda array: array + np.float32(by)


CHANGES = {
    "digests": (lambda array: array ^ np.uint64(1), DataChanged, "the images in"),
    "labels": (lambda array: array[::-1].copy(), DataChanged, "the labels in"),
    "canaries/crc": (lambda array: array ^ np.uint32(1), PipelineChanged, "the pixels of the canaries in"),
    "canaries/logits": (shifted(0.01), TeacherChanged, "other values by 0.01"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_shards_of_something_else_are_refused_by_name(halves, tmp_path, name):
    change, verdict, said = CHANGES[name]
    array = array_in(halves[1], name)
    other = forged(halves[1], tmp_path / "other.h5", {name: change(array)})
    with pytest.raises(verdict, match=f"other.h5.*{said}"):
        merge([halves[0], other], tmp_path / "x.h5")


def test_last_bits_of_the_canaries_are_the_first_shards(halves, cache_file, tmp_path):
    """Another processor may round otherwise."""
    array = array_in(halves[1], "canaries/logits")
    other = forged(halves[1], tmp_path / "other.h5", {"canaries/logits": np.nextafter(array, np.float32(9))})
    assert merge([other, halves[0]], tmp_path / "x.h5").read_bytes() == cache_file.read_bytes()


def test_what_is_no_shard_is_refused(pair, cache_file, copied, tmp_path):
    with pytest.raises(CacheError, match="a shard or an unfinished dump, found a finished cache; use it as it is"):
        merge([pair[0], cache_file], tmp_path / "x.h5")
    with pytest.raises(UsageError, match=r"`out` .*: expected another file than those it is made of"):
        merge([copied, pair[0]], copied)
    part = shutil.copy(pair[0], part_of(tmp_path / "x.h5"))
    with pytest.raises(UsageError, match=r"`out` .*x.h5: expected another file"):
        merge([part, pair[1]], tmp_path / "x.h5")
