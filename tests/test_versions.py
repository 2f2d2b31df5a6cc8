"""What version 2 of the file promises over version 1, and that files of version 1 go on as such."""

import os
import shutil

import numpy as np
import pytest
from hostile_cases import forged, refused
from PIL import Image

from kdcache.cache import create, open_cache
from kdcache.cache.layout import read_layout, shard_of
from kdcache.cache.parts import merge, prune
from kdcache.errors import CacheError, DataChanged
from kdcache.jobs import Data, DumpOptions, Student, make_dump
from kdcache.proof.verdicts import verify
from kdcache.teachers import Cached, Forward
from kdcache.train import Settings


def checks(path, data=None) -> dict[str, tuple[bool, str]]:
    given = (data.train, data.view) if data else (None, None)
    found = verify(open_cache(path, check=False), *given, None, {}, held_out=data.held_out if data else None)
    return {check.name: (check.ok, check.detail) for check in found}


@pytest.fixture
def of_version_1(monkeypatch):
    """Dumps as it was done when there was no other version."""
    monkeypatch.setattr("kdcache.dump.VERSION", 1)
    yield
    monkeypatch.undo()


def exchange(path, dataset: str, first: tuple[int, int], second: tuple[int, int]) -> None:
    """Two blocks of one length change places, and their words with them."""
    layout = read_layout(path)
    with open(path, "r+b", buffering=0) as file:
        pieces = [[layout.span(dataset, *block)[:2] for block in (first, second)]]
        pieces += [[(layout.word_offset(dataset, *block), 8) for block in (first, second)]]
        for (one, length), (other, _) in pieces:
            held = os.pread(file.fileno(), length, one)
            os.pwrite(file.fileno(), os.pread(file.fileno(), length, other), one)
            os.pwrite(file.fileno(), held, other)


@pytest.mark.parametrize("dataset", ["knowledge/logits", "seeds"])
def test_a_block_that_moved_with_its_word_is_noticed(copied, dataset):
    exchange(copied, dataset, (0, 0), (2, 0))
    assert checks(copied)[dataset][1].startswith("2 of 6 blocks damaged: view 0")
    cache = open_cache(copied)
    with pytest.raises(CacheError, match="a wrong CRC in block 0 of view 2"):
        cache.seeds(2, [0]) if dataset == "seeds" else cache.read(2, [0])


def test_version_1_does_not_promise_that(of_version_1, dump, tmp_path):
    path = dump(tmp_path / "x.h5")
    exchange(path, "seeds", (0, 0), (2, 0))
    assert checks(path)["seeds"] == (True, "0 of 6 blocks damaged")


def test_a_block_in_another_dataset_is_noticed(copied):
    layout = read_layout(copied)
    words = [layout.word(name, 0, 0, b"same bytes") for name in layout.filled()]
    assert len(set(words)) == len(words)


def test_a_dump_of_version_1_is_finished_as_such(of_version_1, dump, interrupted, tmp_path, monkeypatch):
    whole, path = dump(tmp_path / "whole.h5"), interrupted(tmp_path / "x.h5")
    monkeypatch.undo()
    assert dump(path).read_bytes() == whole.read_bytes()
    assert open_cache(path).meta["version"] == 1


def test_shards_of_version_1_are_merged_and_pruned_as_such(of_version_1, dump, tmp_path, monkeypatch):
    whole = dump(tmp_path / "whole.h5")
    pair = [dump(tmp_path / "x.h5", shard=(number, 2)) for number in (1, 2)]
    monkeypatch.undo()
    assert merge(pair, tmp_path / "x.h5").read_bytes() == whole.read_bytes()
    part = open_cache(prune(whole, tmp_path / "part.h5", [2]))
    assert part.meta["version"] == 1
    assert all(ok for ok, _ in checks(part.path).values())
    shutil.copy(dump(tmp_path / "new.h5", shard=(2, 2)), shard_of(tmp_path / "x.h5", 2, 2))
    with pytest.raises(CacheError, match="version"):
        merge(pair, tmp_path / "both.h5")


@pytest.mark.parametrize("views", [[1], [2, 0], [0, 2]])
def test_a_part_has_the_words_of_its_own_numbers(cache_file, tmp_path, views):
    part = prune(cache_file, tmp_path / "part.h5", views)
    assert all(ok for ok, _ in checks(part).values())


def flipped(path, place: int, bit: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, place)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)


def found_by_verify(path) -> bool:
    try:
        return not all(ok for ok, _ in checks(path).values())
    except CacheError:
        return True


def test_every_flipped_bit_is_found(dump, data, tmp_path):
    few = Data(data.train.take(np.arange(40)), data.held_out.take(np.arange(10)), data.view)
    path = dump(tmp_path / "x.h5", data=few, views=2)
    layout, draw = read_layout(path), np.random.default_rng(0)
    assert not found_by_verify(path)
    structures = [place for first, last in layout.spans for place in range(first, last)]
    inside = [place.offset + byte for place in layout.places.values() for byte in range(place.nbytes)]
    rest = sorted(set(range(path.stat().st_size)) - {*structures, *inside})
    places = [*structures, *draw.choice(inside, 150, False), *draw.choice(rest, 80, False)]
    for place, bit in zip(places, draw.integers(0, 8, len(places)).tolist(), strict=True):
        flipped(path, place, bit)
        assert found_by_verify(path), (place, bit)
        flipped(path, place, bit)


def test_padding_that_is_not_zero_is_named(copied):
    layout = read_layout(copied)
    flipped(copied, layout.places["labels"].span[1] + 7, 3)
    assert checks(copied)["padding"] == (False, "1 byte between the data not zero")


# Evaluation images


@pytest.fixture
def folder(pictures, tmp_path):
    """A folder of photographs with a cache of them."""
    root = shutil.copytree(pictures, tmp_path / "pictures")
    data = Data.open(f"folder:{root}", "resized-crop:16")
    network = data.network("tiny-3", seed=1).eval()
    with make_dump(network, data, DumpOptions(tmp_path / "x.h5", 1, forward=Forward(16), workers=0)) as made:
        return root, made.run()


def test_unchanged_evaluation_images(folder):
    root, path = folder
    found = checks(path, Data.open(f"folder:{root}", "resized-crop:16"))
    assert found["evaluation images"] == (True, "all 12 have the hashes that the teacher's had")


def test_an_evaluation_image_that_changed_is_named(folder):
    root, path = folder
    Image.fromarray(np.zeros((70, 66, 3), np.uint8)).save(root / "test" / "dog" / "03.png")
    data = Data.open(f"folder:{root}", "resized-crop:16")
    found = checks(path, data)
    assert not found["DataChanged"][0]
    assert "another evaluation image as row 9" in found["DataChanged"][1]
    cache = open_cache(path)
    with pytest.raises(DataChanged, match=r"dog/03.png: .* as row 9"):
        Student(Data.of_cache(cache), "tiny-3", "st", Settings(epochs=1), Cached(cache)).train()


def test_evaluation_images_in_memory_are_compared_one_by_one(cache_file, data):
    held_out = data.held_out.take(np.arange(len(data.held_out)))
    held_out.resident[17] ^= 1
    changed, cache = Data(data.train, held_out, data.view), open_cache(cache_file)
    assert "another evaluation image as row 17" in checks(cache_file, changed)["DataChanged"][1]
    with pytest.raises(DataChanged, match="another evaluation image as row 17"):
        Student(changed, "tiny-3", "st", Settings(epochs=1), Cached(cache)).train()


def test_a_file_of_version_1_says_that_it_has_no_such_hashes(of_version_1, dump, data, tmp_path, monkeypatch):
    def without(path, meta, known):
        create(path, meta, {name: array for name, array in known.items() if not name.startswith("eval_")})

    monkeypatch.setattr("kdcache.dump.create", without)
    path = dump(tmp_path / "x.h5")
    assert checks(path, data)["evaluation images"] == (True, "their hashes are not in this file (version 1)")
    cache = open_cache(path)
    assert cache.eval_digests is None
    Student(data, "tiny-3", "st", Settings(epochs=1), Cached(cache)).train()


def test_a_file_of_version_2_has_them(cache_file, tmp_path):
    assert "eval_digests" in refused(forged(cache_file, tmp_path / "x.h5", {"eval_digests": None}))
