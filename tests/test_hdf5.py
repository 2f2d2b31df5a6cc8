"""HDF5 without libhdf5: what we lay out h5py finds, what h5py laid out we find, and nothing else is believed."""

import os
import struct

import h5py
import numpy as np
import pytest
import torch
from hostile_cases import lay_out_by_libhdf5 as theirs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcache.cache.hdf5 import lay_out, read_structure
from kdcache.cache.hdf5.checksum import checksum
from kdcache.cache.hdf5.types import Unknown, decode, encode
from kdcache.codecs import CODECS, named

PLAIN = ["u1", "i1", "?", *(order + kind for order in "<>" for kind in ("u2", "i4", "u8", "f2", "f4", "f8"))]
SIDES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
NUMBERS = st.sampled_from(PLAIN).map(np.dtype)
ARRAYS = st.tuples(NUMBERS, SIDES).map(np.dtype)
FIELDS = st.lists(NUMBERS | ARRAYS, min_size=1, max_size=40)
COMPOUNDS = FIELDS.map(lambda kinds: np.dtype([(f"field {i}", kind) for i, kind in enumerate(kinds)]))
OPAQUE = st.integers(1, 70_000).map(lambda size: np.dtype(f"V{size}"))
KINDS = NUMBERS | ARRAYS | COMPOUNDS | OPAQUE
NAMES = st.text(st.characters(blacklist_characters="/\0.", blacklist_categories=["Cs"]), min_size=1, max_size=90)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
SHAPES = st.dictionaries(PATHS, st.tuples(KINDS, st.lists(st.integers(1, 9), max_size=3).map(tuple)), max_size=60)
KNOWLEDGE = ["logits", "emb", "f0", "f1", "f2", "f3", "f0.pre", "f1.pre", "f2.pre", "f3.pre", "fsp.0", "fsp.1", "fsp.2"]


def without_clashes(shapes: dict) -> dict:
    """No dataset is a group as well."""
    return {name: kind for name, kind in shapes.items() if not any(other.startswith(f"{name}/") for other in shapes)}


def ours(path, shapes) -> dict:
    """Lays a file out; where everything lies."""
    structures, places, size = lay_out(shapes)
    path.write_bytes(structures)
    os.truncate(path, size)
    return {name: (place.offset, place.dtype, place.shape) for name, place in places.items()}


def by_us(path) -> dict:
    with open(path, "rb") as file:
        places = read_structure(file.fileno()).places
    return {name: (place.offset, place.dtype, place.shape) for name, place in places.items()}


def by_h5py(path) -> dict:
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = (item.id.get_offset(), item.dtype, item.shape)

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


ANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@ANY
@given(SHAPES.map(without_clashes))
def test_h5py_finds_what_we_lay_out(tmp_path_factory, shapes):
    path = tmp_path_factory.mktemp("ours") / "x.h5"
    assert ours(path, shapes) == by_us(path) == by_h5py(path)


@ANY
@given(SHAPES.map(without_clashes))
def test_we_find_what_libhdf5_laid_out(tmp_path_factory, shapes):
    path = tmp_path_factory.mktemp("theirs") / "x.h5"
    theirs(path, shapes)
    assert by_us(path) == by_h5py(path)


@pytest.mark.parametrize("count", [8, 9, 46, 47, 300])
@pytest.mark.parametrize("length", [1, 60])
@pytest.mark.parametrize("make", [ours, theirs])
def test_groups_of_many_links(tmp_path, count, length, make):
    shapes = {f"constants/{'n' * length}{number}": (np.dtype("<f4"), (3,)) for number in range(count)}
    make(tmp_path / "x.h5", shapes)
    assert by_us(tmp_path / "x.h5") == by_h5py(tmp_path / "x.h5")
    assert len(by_us(tmp_path / "x.h5")) == count


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("make", [ours, theirs])
def test_records_of_every_codec_under_many_names(tmp_path, codec, make):
    values = torch.randn(64, 10)
    dtype = named(f"{codec}:3" if codec == "topk" else codec, values).dtype
    shapes = {f"knowledge/{name}": (dtype, (2, 50)) for name in KNOWLEDGE}
    shapes |= {f"blocks/{name}": (np.dtype("<u8"), (2, 1)) for name in shapes}
    make(tmp_path / "x.h5", shapes)
    found = by_us(tmp_path / "x.h5")
    assert found == by_h5py(tmp_path / "x.h5")
    assert {name: kind for name, (_, *kind) in found.items()} == {name: list(kind) for name, kind in shapes.items()}


@ANY
@given(KINDS)
def test_data_types_come_back(dtype):
    data = encode(dtype)
    assert decode(data) == (dtype, len(data))


@ANY
@given(KINDS, st.integers(0, 200), st.binary(min_size=1, max_size=8))
def test_data_types_that_were_changed_are_refused_or_read(dtype, place, other):
    data = bytearray(encode(dtype))
    data[place : place + len(other)] = other
    try:
        found, length = decode(bytes(data))
    except (Unknown, UnicodeDecodeError, ValueError):
        return
    assert length <= len(data)
    assert found.itemsize < 1 << 32


@pytest.mark.parametrize(("text", "expected"), [(b"", 0xDEADBEEF), (b"Four score and seven years ago", 0x17770551)])
def test_the_checksum_is_lookup3(text, expected):
    assert checksum(text) == expected


def test_another_program_may_add_to_a_file(tmp_path):
    path = tmp_path / "x.h5"
    made = ours(path, {"labels": (np.dtype("<i4"), (5,)), "eval/logits": (np.dtype("<f2"), (5,))})
    with h5py.File(path, "r+", libver=("v108", "latest")) as file:
        file["notes/mine"] = np.arange(3)
        file["eval"].attrs["by"] = "me"
    found = by_us(path)
    assert found == by_h5py(path)
    assert {name: found[name] for name in made} == made


def resealed(data: bytearray, start: int, end: int) -> None:
    """Makes a structure's checksum right again."""
    data[end - 4 : end] = struct.pack("<I", checksum(bytes(data[start : end - 4])))


def test_data_that_lie_in_a_structure_are_refused(tmp_path):
    path = tmp_path / "x.h5"
    offset = ours(path, {"labels": (np.dtype("<i4"), (5,))})["labels"][0]
    data = bytearray(path.read_bytes())
    with open(path, "rb") as file:
        start, end = max(read_structure(file.fileno()).spans)
    place = data.index(struct.pack("<Q", offset), start)
    data[place : place + 8] = struct.pack("<Q", 16)
    resealed(data, start, end)
    path.write_bytes(data)
    with pytest.raises(Unknown, match="overlap"):
        by_us(path)


def test_structures_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    ours(path, {f"constants/{number}": (np.dtype("<f4"), (3,)) for number in range(50)})
    monkeypatch.setattr("kdcache.cache.hdf5.structures.STRUCTURES", 4000)
    with pytest.raises(Unknown, match="more than 4000 bytes of structures"):
        by_us(path)
