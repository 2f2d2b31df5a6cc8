"""A part of a cache: what stays is as it was, and nobody takes it for the whole."""

import os
import shutil

import numpy as np
import pytest
import torch
from cli_cases import DUMP, STUDENT, good, kdcache, refused
from conftest import fresh_teacher
from hostile_cases import array_in, forged

from kdcache.cache import open_cache, writer
from kdcache.cache.parts import prune
from kdcache.durable import part_of
from kdcache.errors import CacheError, PipelineChanged, UsageError
from kdcache.jobs import Data, Student, taught_by
from kdcache.methods import build
from kdcache.proof.verdicts import verify
from kdcache.teachers import Forward, LiveTeacher, describe
from kdcache.train import Settings

ROWS = np.array([5, 3, 3, 1299])


@pytest.fixture(scope="session")
def rich_file(dump, tmp_path_factory):
    """Six views, several kinds of knowledge."""
    return dump(tmp_path_factory.mktemp("rich") / "rich.h5", views=6, method="at,rkd,st", codec="f32")


@pytest.fixture
def small(rich_file, tmp_path):
    return open_cache(prune(rich_file, tmp_path / "small.h5", [5, 0, 1], ["logits", "emb"]))


@pytest.fixture(scope="session")
def many_file(dump, data, tmp_path_factory):
    """So many views that some have no canary."""
    part = Data(data.train.take(np.arange(65)), data.held_out.take(np.arange(20)), data.view)
    return dump(tmp_path_factory.mktemp("many") / "many.h5", views=60, data=part)


def canary_free(path) -> int:
    return next(view for view in range(60) if view not in array_in(path, "canaries/view"))


# What stays


def test_what_stays_is_as_it_was(small, rich_file):
    rich = open_cache(rich_file)
    assert (small.views, sorted(small.names)) == (3, ["emb", "logits"])
    for view, before in enumerate([0, 1, 5]):
        assert np.array_equal(small.seeds(view, ROWS), rich.seeds(before, ROWS))
        for name in small.names:
            assert np.array_equal(small.records(name, view, ROWS), rich.records(name, before, ROWS))
    for name in small.names:
        assert torch.equal(small.read_eval([0, 259])[name], rich.read_eval([0, 259])[name])
    assert np.array_equal(small.labels, rich.labels)
    assert np.array_equal(small.digests, rich.digests)


def test_it_says_what_it_is_a_part_of(small, rich_file, tmp_path):
    rich, every = open_cache(rich_file), sorted(open_cache(rich_file).names)
    assert small.meta["pruned_from"] == {"views": [0, 1, 5], "of": 6, "knowledge": every}
    same = small.meta.keys() - {"views", "knowledge", "measured", "pruned_from"}
    assert {key: small.meta[key] for key in same} == {key: rich.meta[key] for key in same}
    smaller = open_cache(prune(small.path, tmp_path / "smaller.h5", [2], ["logits"]))
    assert smaller.meta["pruned_from"] == {"views": [5], "of": 6, "knowledge": every}
    assert smaller.path.read_bytes() == prune(rich_file, tmp_path / "at-once.h5", [5], ["logits"]).read_bytes()


def test_canaries_get_new_numbers(small, rich_file):
    before, after = open_cache(rich_file).canaries, small.canaries
    stay = np.isin(before["view"], [0, 1, 5])
    assert 0 < stay.sum() < len(stay)
    assert np.array_equal(np.array([0, 1, 5])[after["view"]], before["view"][stay])
    assert all(np.array_equal(after[name], before[name][stay]) for name in ("row", "crc", "logits"))


def everything_checked(cache, data, network) -> dict[str, str]:
    with LiveTeacher(network, build("st"), Forward(64)) as teacher:
        found = list(verify(cache, data.train, data.view, teacher, describe(network)))
    assert all(check.ok for check in found), found
    return {check.name: check.detail for check in found}


def test_it_verifies(small, data):
    found = everything_checked(small, data, fresh_teacher(data, 1))
    stay = len(small.canaries["row"])
    assert found["pixels"] == f"{stay} canaries are pixel for pixel the same"
    assert found["knowledge/emb"] == "0 of 6 blocks damaged"


def test_without_the_logits(rich_file, data, tmp_path):
    cache = open_cache(prune(rich_file, tmp_path / "small.h5", None, ["at.f1", "at.f2", "at.f3"]))
    assert "teacher" in everything_checked(cache, data, fresh_teacher(data, 1))
    _, records = Student(data, "tiny-3", "at", Settings(epochs=1), taught_by(cache)).train()
    assert "at" in records[0]["loss"]
    with pytest.raises(CacheError, match="knowledge 'logits', which st needs"):
        Student(data, "tiny-3", "st", Settings(epochs=1), taught_by(cache)).train()


def test_without_a_canary_it_is_still_of_use(many_file, data, tmp_path):
    cache = open_cache(prune(many_file, tmp_path / "small.h5", [canary_free(many_file)]))
    part = Data(data.train.take(np.arange(65)), data.held_out.take(np.arange(20)), data.view)
    found = everything_checked(cache, part, fresh_teacher(data, 1))
    assert cache.canaries == {}
    assert found["pixels"] == "not compared: no canaries are left in it"
    Student(part, "tiny-3", "st", Settings(epochs=1, batch=32), taught_by(cache)).train()


def test_only_a_part_may_lack_canaries(many_file, tmp_path):
    names = [f"canaries/{name}" for name in open_cache(many_file).canaries]
    with pytest.raises(CacheError, match="canaries/row"):
        open_cache(forged(many_file, tmp_path / "x.h5", dict.fromkeys(names)))


def test_all_renderings_but_some(dump, data, tmp_path):
    part = Data(data.train.take(np.arange(65)), data.held_out, data.view)
    cache = open_cache(prune(dump(tmp_path / "all.h5", views="all", data=part), tmp_path / "some.h5", [161, 7]))
    assert cache.views == 2
    assert cache.meta["pruned_from"]["of"] == 162
    assert [len(set(cache.seeds([0, 1], [row, row]))) for row in (0, 64)] == [2, 2]


# Students cannot tell


def test_cached_equals_live(small, data, teacher):
    settings, outcomes = Settings(epochs=4), []
    for live in (None, fresh_teacher(data, 1)):
        (network,), records = Student(data, "tiny-3", "st+rkd", settings, taught_by(small, live)).train()
        outcomes.append(([r["loss"] for r in records], [v.numpy().tobytes() for v in network.state_dict().values()]))
    assert outcomes[0] == outcomes[1]


# Refused

WRONG = {
    "views from 0": ([0, 6], None, "`views`: expected some of 0 to 5, as in the file, found 6"),
    "negative views": ([-1], None, "`views`: expected some of 0 to 5, as in the file, found -1"),
    "twice": ([1, 1], None, "`views`: expected each that is to be kept, once, found one twice"),
    "none": ([], None, "`views`: .*found none"),
    "knowledge": ([0], ["logit"], "`knowledge`: expected some of .*logits.*, as in the file, found 'logit'"),
    "no knowledge": (None, [], "`knowledge`: .*found none"),
    "nothing left out": (range(6), None, "expected something to leave out, found all of it kept"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_kept(rich_file, tmp_path, name):
    views, names, said = WRONG[name]
    with pytest.raises(UsageError, match=said):
        prune(rich_file, tmp_path / "x.h5", views, names)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_pruned_in_place(copied):
    before = copied.read_bytes()
    with pytest.raises(UsageError, match=r"`out` .*: expected another file than those it is made of"):
        prune(copied, copied, [0])
    assert copied.read_bytes() == before


def test_what_is_no_finished_cache(interrupted, pair, tmp_path):
    with pytest.raises(CacheError, match="a shard, 1 of 2; merge them first"):
        prune(pair[0], tmp_path / "x.h5", [0])
    with pytest.raises(CacheError, match=r"found an unfinished one, y.h5.part"):
        prune(interrupted(tmp_path / "y.h5"), tmp_path / "x.h5", [0])


@pytest.mark.parametrize("views", [3, 2])
def test_no_dump_goes_on_in_it(dump, cache_file, tmp_path, views):
    path = prune(cache_file, tmp_path / "x.h5", [0, 2])
    with pytest.raises(
        CacheError, match=r"x.h5: expected pruned_from .*'views': \[0, 2\].*, as in the file, found None"
    ):
        dump(path, views=views)
    path.rename(part_of(path))
    with pytest.raises(CacheError, match=r"x.h5.part: expected pruned_from .*found None"):
        dump(path, views=views)


def test_it_does_not_go_on_in_another_part(cache_file, tmp_path):
    path = prune(cache_file, tmp_path / "x.h5", [0, 2])
    before = path.stat().st_mtime_ns
    assert prune(cache_file, path, [2, 0]).stat().st_mtime_ns == before
    with pytest.raises(CacheError, match=r"expected pruned_from.views .*as in the file, found \[0, 1\]; remove it"):
        prune(cache_file, path, [0, 1])


def test_a_damaged_block_is_not_copied(copied, tmp_path):
    layout = open_cache(copied).layout
    with open(copied, "r+b") as file:
        os.pwrite(file.fileno(), b"\x7f", layout.span("knowledge/logits", 2, 1)[0] + 5)
    with pytest.raises(CacheError, match=r"copy.h5:/knowledge/logits: .* a wrong CRC in block 1 of view 2"):
        prune(copied, tmp_path / "x.h5", [0, 2])
    assert not (tmp_path / "x.h5").exists()
    prune(copied, tmp_path / "y.h5", [0, 1])


def test_interrupted_it_goes_on(cache_file, tmp_path, monkeypatch):
    whole, put, count = prune(cache_file, tmp_path / "whole.h5", [0, 2]), writer.Writer.put, []

    def stop(self, *block):
        count.append(block)
        if len(count) == 3:
            raise KeyboardInterrupt
        put(self, *block)

    with monkeypatch.context() as patch:
        patch.setattr(writer.Writer, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            prune(cache_file, tmp_path / "x.h5", [0, 2])
    assert part_of(tmp_path / "x.h5").exists()
    assert prune(cache_file, tmp_path / "x.h5", [0, 2]).read_bytes() == whole.read_bytes()


def test_changed_pixels_are_still_noticed(small, data, monkeypatch):
    render = type(data.view).render
    monkeypatch.setattr(type(data.view), "render", lambda self, images, seeds: render(self, images, seeds) ^ 1)
    with pytest.raises(PipelineChanged, match=f"other pixels in {len(small.canaries['row'])} of"):
        Student(data, "tiny-3", "st", Settings(epochs=1), taught_by(small)).train()


# As commands


@pytest.mark.usefixtures("home")
def test_as_a_command(tmp_path):
    good(f"{DUMP} --views 12 -o {tmp_path}/x.h5")
    found = good(f"prune {tmp_path}/x.h5 -o {tmp_path}/small.h5 --views 10,0-3 --json").json()
    assert found.items() >= {"views": 5, "complete": True}.items()
    assert found["canaries"] > 0
    page = good(f"inspect {tmp_path}/small.h5").out.splitlines()
    assert "kept of     12 views: 0-3,10; knowledge logits" in page
    assert good(f"verify {tmp_path}/small.h5 --teacher tiny-3").out.count("FAIL") == 0
    for more in ("", "--live"):
        good(f"{STUDENT} --cache {tmp_path}/small.h5 {more} --out {tmp_path}/run")
    refused(f"{DUMP} --views 5 -o {tmp_path}/small.h5", 1, "expected pruned_from")
    refused(f"prune {tmp_path}/x.h5 -o {tmp_path}/y.h5 --views 12", 2, "0 to 11")
    refused(f"prune {tmp_path}/x.h5 -o {tmp_path}/y.h5 --knowledge at", 2, "--knowledge: expected some of logits")
    refused(f"prune {tmp_path}/x.h5 -o {tmp_path}/y.h5", 2, "something to leave out")


@pytest.mark.usefixtures("home")
def test_it_says_when_no_canary_is_left(many_file, tmp_path):
    shutil.copy(many_file, tmp_path / "x.h5")
    said = kdcache(f"prune {tmp_path}/x.h5 -o {tmp_path}/y.h5 --views {canary_free(many_file)}")
    assert said.out.endswith("; 0 canaries to verify by\n")
    assert "verify can no longer compare its pixels" in said.err
