"""What is known when a file is begun is under the seal from then on: damaged before the dump ends, it is refused."""

import os

import pytest
from hostile_cases import array_in

from kdcache.cache import Writer, open_cache
from kdcache.cache.layout import read_layout
from kdcache.cache.parts import merge, prune
from kdcache.cache.summary import summary
from kdcache.durable import part_of
from kdcache.errors import CacheError

SEALED = ["meta", "labels", "eval_labels", "eval_digests", "canaries/row", "canaries/crc", "canaries/logits", "seal"]
WRONG = r"\.part: expected an intact header, found a wrong seal; remove it and run the command again"


def overwrite(path, dataset: str, content: bytes, start: int = 0) -> None:
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), content, read_layout(path).places[dataset].offset + start)


def damage(path, dataset: str) -> None:
    data = array_in(path, dataset).tobytes()
    place = data.index(b'"loss"') + 9 if dataset == "meta" else 0  # a word that only people read
    overwrite(path, dataset, bytes([data[place] ^ 1]), place)


@pytest.mark.parametrize("dataset", SEALED)
def test_a_damaged_part_is_not_gone_on_with(dump, interrupted, tmp_path, dataset):
    path = interrupted(tmp_path / "x.h5")
    damage(part_of(path), dataset)
    with pytest.raises(CacheError, match=WRONG):
        dump(path)
    assert not path.exists()


@pytest.mark.parametrize("dataset", SEALED)
def test_a_part_that_is_damaged_while_it_is_filled_is_not_finished(interrupted, tmp_path, dataset):
    path = interrupted(tmp_path / "x.h5")
    with Writer(path) as writer:
        damage(part_of(path), dataset)
        with pytest.raises(CacheError, match=WRONG):
            writer.finish()
    assert not path.exists()


def test_a_damaged_part_is_not_merged(interrupted, pair, tmp_path):
    begun = part_of(interrupted(tmp_path / "x.shard1of2.h5", tmp_path / "x.h5", shard=(1, 2)))
    damage(begun, "labels")
    with pytest.raises(CacheError, match=WRONG):
        merge([begun, pair[1]], tmp_path / "out.h5")


def test_one_that_an_earlier_version_began_is_finished(dump, interrupted, cache_file, tmp_path):
    path = interrupted(tmp_path / "x.h5")
    overwrite(part_of(path), "seal", bytes(4))  # which wrote it last
    assert not summary(part_of(path))["complete"]
    assert dump(path).read_bytes() == cache_file.read_bytes()


def test_a_part_is_unfinished_by_its_name(interrupted, cache_file, tmp_path):
    part = part_of(interrupted(tmp_path / "x.h5"))
    assert part.read_bytes() == cache_file.read_bytes()  # all of it is there but the name
    assert not summary(part)["complete"]


def test_a_part_of_a_cache_has_its_seal_from_the_beginning(cache_file, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            prune(cache_file, tmp_path / "x.h5", [1])
    part = part_of(tmp_path / "x.h5")
    begun = array_in(part, "seal")
    assert begun[0]
    assert open_cache(prune(cache_file, tmp_path / "x.h5", [1])).seal == begun[0]
