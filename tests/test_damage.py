"""Files that are damaged, cut off or not ours: each is one clear line, soon, and never other numbers."""

import os
import random
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile_cases import everything, refused

from kdcache.cache import open_cache
from kdcache.errors import CacheError


@pytest.fixture(scope="module")
def truth(cache_file):
    return everything(cache_file)


def require_noticed(path: Path, content: bytes, places: list[int], draw: random.Random) -> None:
    """Damages some bytes, looks whether that is noticed, and mends them."""
    with open(path, "r+b", buffering=0) as file:
        for place in set(places):
            other = draw.choice(
                [content[place] ^ 1 << draw.randrange(8), (content[place] + draw.randrange(1, 256)) % 256]
            )
            os.pwrite(file.fileno(), bytes([other]), place)
        try:
            with pytest.raises(CacheError):
                everything(path)
        finally:
            for place in places:
                os.pwrite(file.fileno(), content[place : place + 1], place)


@pytest.mark.parametrize("trials", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_noticed(copied, trials):
    content, draw = copied.read_bytes(), random.Random(trials)
    filled = [place for place, byte in enumerate(content) if byte]
    for _ in range(trials):
        anywhere = draw.choice([filled, filled, range(len(content)), range(4096)])
        places = [draw.choice(anywhere) for _ in range(draw.choice([1, 1, 1, 2, 8]))]
        require_noticed(copied, content, places, draw)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 47, 48, 100, 512, 2047, 4096, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, -4096, -1])
def test_a_file_that_was_cut_off(copied, length):
    size = copied.stat().st_size
    os.truncate(copied, int(length * size) if isinstance(length, float) else length % size)
    said = refused(copied)
    assert "cut off" in said if length not in (1, 7) else "an HDF5 file" in said


@pytest.mark.parametrize("more", [b"\0", b"x" * 5000])
def test_a_file_with_something_behind_its_end(copied, more):
    copied.write_bytes(copied.read_bytes() + more)
    assert f"{len(more)} more behind its end" in refused(copied)


def test_no_cache_at_all(tmp_path):
    path = tmp_path / "x"
    assert "no such file" in refused(path)
    path.write_bytes(b"")
    assert "an empty file" in refused(path)
    path.write_bytes(b"PK\3\4" * 100)
    assert "expected an HDF5 file" in refused(path)
    assert "a folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(tmp_path / "pipe")
    assert "no regular file" in refused(Path("/dev/zero"))


@pytest.mark.parametrize("libver", [None, ("v108", "v108"), ("latest", "latest")])
def test_hdf5_that_is_not_ours(tmp_path, libver):
    with h5py.File(tmp_path / "x.h5", "w", libver=libver) as file:
        file["logits"] = np.zeros((5, 10))
    said = refused(tmp_path / "x.h5")
    assert "another kind of HDF5 file" in said or "as kdcache lays it out" in said


@pytest.fixture
def edited(copied):
    """The finished file after another HDF5 program was at it."""

    def edit(change) -> Path:
        with h5py.File(copied, "r+", libver=("v108", "latest")) as file:
            change(file)
        return copied

    return edit


def replaced(name="knowledge/logits", **options):
    def change(file):
        array = file[name][...]
        del file[name]
        file.create_dataset(name, data=array, **options)

    return change


def outside(file):
    del file["labels"]
    file.create_dataset("labels", shape=(1300,), dtype="<i4", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])


def virtual(file):
    array = h5py.VirtualLayout((1300,), "<i4")
    array[:] = h5py.VirtualSource("other.h5", "labels", (1300,))
    del file["labels"]
    file.create_virtual_dataset("labels", array)


def linked(link):
    def change(file):
        del file["labels"]
        file["labels"] = link

    return change


def compact(file):
    del file["seal"]
    kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"seal", h5py.h5t.STD_U32LE, h5py.h5s.create_simple((1,)), kind)


def nested(file):
    for _ in range(300):
        file = file.create_group("a")


def cycle(file):
    file["eval/again"] = file["/"]


def late(shape):
    def change(file):
        del file["knowledge/logits"]
        file.create_dataset("knowledge/logits", shape=shape, dtype=("<f2", (10,)))

    return change


STRUCTURES = {
    "chunked": replaced(chunks=True),
    "compressed": replaced(compression="gzip"),
    "resizable": replaced("labels", maxshape=(None,)),
    "a group": lambda file: (file.move("labels", "x"), file.create_group("labels")),
    "gone": lambda file: file.move("blocks/seeds", "blocks/seed"),
    "no blocks": lambda file: file.__delitem__("blocks"),
    "no seal": lambda file: file.__delitem__("seal"),
    "words": lambda file: (file.__delitem__("labels"), file.create_dataset("labels", data=["a"] * 1300)),
    "outside": outside,
    "virtual": virtual,
    "soft link": linked(h5py.SoftLink("/digests")),
    "link to another file": linked(h5py.ExternalLink("/etc/passwd", "/x")),
    "compact": compact,
    "nested": nested,
    "cycle": cycle,
    "never written": late((3, 1300)),
    "huge": late((2**20, 2**20)),
    "scalar": lambda file: (file.__delitem__("seal"), file.create_dataset("seal", data=np.uint32(3))),
    "null": lambda file: (file.__delitem__("seal"), file.create_dataset("seal", data=h5py.Empty("<u4"))),
}


@pytest.mark.parametrize("change", STRUCTURES.values(), ids=STRUCTURES)
def test_datasets_that_are_not_as_we_lay_them(edited, change):
    refused(edited(change))


def test_more_objects_than_a_cache_has(edited, monkeypatch):
    monkeypatch.setattr("kdcache.cache.hdf5.reading.OBJECTS", 9)
    assert "groups than a cache has" in refused(edited(lambda file: file.create_group("more")))


def test_groups_and_data_that_nobody_knows_are_left_alone(edited, truth):
    assert everything(edited(lambda file: file.create_dataset("notes/mine", data=np.arange(3)))) == truth
    assert open_cache(edited(lambda file: file.attrs.update({"by": "me"}))).views == 3
