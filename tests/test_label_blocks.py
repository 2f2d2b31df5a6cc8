"""Files of many rows: labels are checked block by block when they are first used, by words that the seal covers."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROWS
from hostile_cases import array_in, everything, forged, mark, refused

import kdcache.read
from kdcache.cache import Writer, meta, open_cache
from kdcache.cache.blocks import Blocks
from kdcache.cache.layout import read_layout, sealed
from kdcache.cache.parts import merge, prune
from kdcache.cache.summary import summary
from kdcache.dump.stale import nothing_done
from kdcache.errors import CacheError
from kdcache.jobs.pruning import prune as prune_rows
from kdcache.proof.verdicts import verify

BLOCK = 1024


@pytest.fixture(scope="module", autouse=True)
def few_are_many(cache_file, pair):
    """Every file that is begun here has many rows; not so those that other tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meta, "MANY_ROWS", ROWS)
        yield


@pytest.fixture(scope="module")
def large(dump, tmp_path_factory) -> Path:
    return dump(tmp_path_factory.mktemp("large") / "logits.h5")


@pytest.fixture
def mine(large, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copy(large, tmp_path / "copy.h5"))


def flip(path: Path, dataset: str, place: int, bit: int = 0) -> None:
    data, start = bytearray(path.read_bytes()), read_layout(path).places[dataset].offset
    data[start + place] ^= 1 << bit
    path.write_bytes(data)


def test_only_files_of_many_rows_ask_for_it():
    assert meta.required(meta.MANY_ROWS - 1) == []
    assert meta.required(meta.MANY_ROWS) == [meta.LABEL_BLOCKS]
    assert meta.required(meta.MANY_ROWS, shard=True) == ["shard", meta.LABEL_BLOCKS]


def test_it_holds_what_an_ordinary_one_holds(large, cache_file):
    found, ordinary = everything(large), everything(cache_file)
    assert found[1:] == ordinary[1:]
    assert found[0] == ordinary[0] | {"requires": [meta.LABEL_BLOCKS]}
    with kdcache.read.open_cache(large) as cache:
        np.testing.assert_array_equal(cache.labels_of([5, 1299, 5]), open_cache(cache_file).labels[[5, 1299, 5]])


def test_versions_that_do_not_know_it_refuse_it(large, monkeypatch):
    monkeypatch.setattr(meta, "FEATURES", frozenset({"shard"}))
    with pytest.raises(CacheError, match=r"features that this version knows, found \['label-blocks'\]; update kdcache"):
        open_cache(large)


def test_a_block_of_labels_is_looked_at_when_it_is_first_used(mine):
    flip(mine, "labels", 4 * BLOCK)
    cache = open_cache(mine)
    assert len(cache.labels_of(range(BLOCK))) == BLOCK
    for ask in (lambda: cache.labels, lambda: cache.labels_of([3, BLOCK])):
        with pytest.raises(CacheError, match=r"/labels: .* a wrong CRC in block 1 of view 0"):
            ask()
    assert len(open_cache(mine, check=False).labels) == ROWS


@pytest.mark.parametrize("trials", [40, pytest.param(3000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_found_when_it_is_used_and_by_verify(mine, trials):
    draw, places = random.Random(trials), read_layout(mine).places
    for _ in range(trials):
        dataset = draw.choice(["labels", "labels", "blocks/labels"])
        place, bit = draw.randrange(places[dataset].nbytes), draw.randrange(8)
        flip(mine, dataset, place, bit)
        with pytest.raises(CacheError):
            assert open_cache(mine).labels is None
        try:
            checks = list(verify(open_cache(mine, check=False), None, None, None, {}))
            assert [check.name for check in checks if not check.ok] == ["labels"]
        except CacheError:
            assert dataset == "blocks/labels"
        flip(mine, dataset, place, bit)
    assert everything(mine)


def test_labels_that_moved_with_their_words_are_found_at_opening(mine):
    layout, content = read_layout(mine), bytearray(mine.read_bytes())
    labels, words = (layout.places[name].offset for name in ("labels", "blocks/labels"))
    content[labels : labels + 4] = (3).to_bytes(4, "little")
    word = layout.word("labels", 0, 0, content[labels : labels + 4 * BLOCK])
    content[words : words + 8] = word.to_bytes(8, "little")
    mine.write_bytes(content)
    assert "a wrong seal" in refused(mine)


def test_a_class_that_does_not_exist_is_refused_with_its_block(large, tmp_path):
    layout, labels = read_layout(large), array_in(large, "labels")
    labels[BLOCK:] = 10
    words = array_in(large, "blocks/labels")
    words[1] = layout.word("labels", 0, 1, labels[BLOCK:].tobytes())
    path = forged(large, tmp_path / "x.h5", {"labels": labels, "blocks/labels": words})
    cache = open_cache(path)
    assert len(cache.labels_of(range(BLOCK))) == BLOCK
    with pytest.raises(CacheError, match=r"/labels: .* found label 10 in block 1"):
        assert cache.labels is None
    assert "labels" in refused(path)


def test_header_and_words_agree(large, cache_file, tmp_path):
    words = {"blocks/labels": array_in(large, "blocks/labels")}
    said = refused(forged(cache_file, tmp_path / "more.h5", words))
    assert "/blocks/labels: expected none without label-blocks in `requires`" in said
    assert "/blocks/labels" in refused(forged(large, tmp_path / "none.h5", {"blocks/labels": None}))


def test_shards_become_the_file_of_one_dump(dump, large, pair, tmp_path):
    shards = [dump(tmp_path / "logits.h5", shard=(number, 2)) for number in (1, 2)]
    assert merge(shards, tmp_path / "merged.h5").read_bytes() == large.read_bytes()
    with pytest.raises(CacheError, match=r"requires .*label-blocks.* merge the shards of one dump-logits"):
        merge([shards[0], pair[1]], tmp_path / "of two kinds.h5")  # the other one is of a version that did not know it


def test_parts_of_it_keep_the_form(large, tmp_path):
    whole = open_cache(large)
    views = open_cache(prune(large, tmp_path / "views.h5", [2]))
    rows = open_cache(prune_rows(str(large), str(tmp_path / "rows.h5"), fraction=0.5))
    assert [cache.meta["requires"] for cache in (views, rows)] == [[meta.LABEL_BLOCKS]] * 2
    np.testing.assert_array_equal(views.labels, whole.labels)
    assert everything(rows.path)
    assert rows.labels.tolist() == whole.labels[np.isin(whole.digests, rows.digests)].tolist()


@pytest.fixture
def part(large, tmp_path) -> Path:
    """An unfinished file that has all of its blocks."""
    return Path(shutil.copy(large, tmp_path / "x.h5.part"))


def test_a_part_whose_labels_are_damaged_is_not_gone_on_with(part):
    flip(part, "labels", 7)
    with pytest.raises(CacheError, match=r"/labels: expected intact data, found a wrong CRC in block 0"):
        Writer(part.with_suffix(""))


def test_a_part_whose_labels_are_damaged_while_it_is_filled_is_not_finished(part):
    with Writer(part.with_suffix("")) as writer:
        flip(part, "labels", 4 * BLOCK)
        with pytest.raises(CacheError, match=r"/labels: expected intact data, found a wrong CRC in block 1"):
            writer.finish()


def test_a_part_that_holds_labels_and_digests_holds_nothing_yet(part):
    with Blocks(read_layout(part)) as file:
        assert not nothing_done(file)
        for name in set(file.layout.filled()) - {"labels", "digests"}:
            for view, block in np.ndindex(file.layout.blocks(name)):
                mark(part, name, view, block, bytes(8))
        assert nothing_done(file)


def test_from_elsewhere_it_is_read_as_here(large, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://large.h5", "wb") as file:
        file.write(large.read_bytes())
    cache = open_cache("memory://large.h5", folder=tmp_path)
    cache.close()
    flip(cache.path, "labels", 5)  # what was damaged here is fetched again
    np.testing.assert_array_equal(cache.labels, open_cache(large).labels)


def test_a_summary_counts_their_blocks(large, cache_file):
    assert summary(large)["blocks"] == summary(cache_file)["blocks"] + 2


def test_the_seal_covers_labels_or_their_words():
    assert sealed(["seal", "meta", "labels", "seeds"]) == ["labels", "meta"]
    assert sealed(["seal", "meta", "labels", "blocks/labels", "blocks/seeds"]) == ["blocks/labels", "meta"]
