"""Reading a finished cache: the same numbers in any order, form and process, and by any HDF5 tool."""

import multiprocessing
import os
import pickle
import shutil
import time

import h5py
import large_file
import numpy as np
import pytest
import torch

from kdcache.bench import process
from kdcache.cache import create, open_cache
from kdcache.cache.blocks import Blocks
from kdcache.cache.hdf5 import ALIGNMENT
from kdcache.cache.layout import CHUNK, read_layout
from kdcache.cache.meta import read_header
from kdcache.codecs import TopK
from kdcache.durable import part_of
from kdcache.errors import CacheError, UsageError
from kdcache.seeds import sample_seeds
from kdcache.teachers import CacheTeacher, Forward
from kdcache.types import Batch

CODECS = ["f32", "f16", "int8", "logp8", "topk:3", "topk:10"]


@pytest.fixture(scope="module")
def by_codec(dump, tmp_path_factory):
    """A cache of each codec, made when it is asked for."""
    folder, made = tmp_path_factory.mktemp("codecs"), {}

    def get(codec: str):
        if codec not in made:
            made[codec] = dump(folder / f"{codec.replace(':', '-')}.h5", codec=codec, views=2)
        return made[codec]

    return get


def stored(path, dataset="knowledge/logits"):
    with h5py.File(path) as file:
        return file[dataset][...]


@pytest.mark.parametrize("codec", ["f32", "f16"])
def test_h5py_reads_the_same_numbers(by_codec, codec):
    path = by_codec(codec)
    cache = open_cache(path)
    read = np.stack([cache.read(view, range(len(cache)))["logits"].numpy() for view in range(cache.views)])
    np.testing.assert_array_equal(stored(path).astype(np.float32), read)
    assert stored(path).dtype == {"f32": "<f4", "f16": "<f2"}[codec]


@pytest.mark.parametrize("codec", CODECS)
def test_h5py_and_the_codec_give_what_read_gives(by_codec, codec):
    path = by_codec(codec)
    cache = open_cache(path)
    with h5py.File(path) as file:
        records = file["knowledge/logits"][1]
    raw = torch.from_numpy(np.ascontiguousarray(records).view(np.uint8).reshape(len(cache), -1))
    assert torch.equal(cache.layout.codecs["logits"].decode(raw), cache.read(1, range(len(cache)))["logits"])
    np.testing.assert_array_equal(cache.records("logits", 1, range(len(cache))), raw.numpy())


def test_int8_is_a_formula_of_named_fields(by_codec):
    path = by_codec("int8")
    cache, table = open_cache(path), stored(path)[0]
    unit = np.float32(cache.meta["knowledge"]["logits"]["unit"])
    by_hand = table["offset"][:, None].astype("f4") + table["scale"][:, None].astype("f4") * table["codes"]
    np.testing.assert_allclose(cache.read(0, range(len(cache)))["logits"], by_hand * unit, rtol=1e-6, atol=1e-6)


def test_topk_has_named_fields(by_codec):
    assert set(stored(by_codec("topk:3")).dtype.names) == {"head", "tail", "gaps", "ids"}


@pytest.mark.parametrize("codec", CODECS)
def test_every_dataset_is_contiguous_unfiltered_and_aligned(by_codec, codec):
    found = []
    with h5py.File(by_codec(codec)) as file:
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        assert [d.name for d in found if d.chunks or d.compression or d.id.get_offset() % ALIGNMENT] == []
    assert len(found) >= 12


def test_two_creations_give_the_same_bytes(dump, tmp_path):
    first = dump(tmp_path / "a.h5", views=1).read_bytes()
    time.sleep(1.1)  # HDF5 counts time in seconds
    assert dump(tmp_path / "b.h5", views=1).read_bytes() == first


def test_seeds_are_those_of_the_run_key(cache):
    rows = np.arange(len(cache))
    for view in range(cache.views):
        np.testing.assert_array_equal(cache.seeds(view, rows), sample_seeds(0, view, rows))


def test_labels_digests_and_header(cache, data):
    np.testing.assert_array_equal(cache.labels, data.train.labels)
    np.testing.assert_array_equal(cache.digests, data.train.check())
    assert (len(cache), cache.views, cache.classes, cache.names) == (1300, 3, data.train.classes, ["logits"])
    assert cache.meta["forward"] == Forward(64).to_json()


def test_evaluation_rows_read_in_any_order(cache):
    every = cache.read_eval(range(260))["logits"]
    assert torch.equal(cache.read_eval([259, 0, 0])["logits"], every[[259, 0, 0]])
    assert cache.has_eval("logits")
    assert not cache.has_eval("f1")


def forms(rows):
    return [
        rows,
        tuple(rows),
        np.array(rows),
        np.array(rows, dtype="i2"),
        torch.tensor(rows),
        np.array(rows[::-1])[::-1],
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_any_order_duplicates_and_forms(by_codec, codec):
    cache = open_cache(by_codec(codec))
    whole = torch.stack([cache.read(view, range(len(cache)))["logits"] for view in range(2)])
    generator = np.random.default_rng(0)
    rows, views = generator.integers(0, len(cache), 200).tolist(), generator.integers(0, 2, 200).tolist()
    rows[3] = rows[4]
    for row_form, view_form in zip(forms(rows), forms(views), strict=True):
        assert torch.equal(cache.read(view_form, row_form)["logits"], whole[views, rows])
        assert torch.equal(cache.read(1, row_form)["logits"], whole[1, rows])
        assert torch.equal(cache.read(torch.tensor(1), row_form)["logits"], whole[1, rows])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("none", [[], np.array([]), torch.zeros(0, dtype=torch.int64), range(0)])
def test_no_rows(by_codec, codec, none):
    cache = open_cache(by_codec(codec))
    assert cache.read(0, none)["logits"].shape == (0, 10)
    assert cache.read(none, none)["logits"].shape == (0, 10)
    assert cache.seeds(0, none).shape == (0,)


BAD_ROWS = [[-1], [1300], [0, 2**62], [2**64], [0.0], [True, False], 5, [[0, 1]], ["a"], None, np.uint64([2**63])]


@pytest.mark.parametrize("rows", BAD_ROWS, ids=repr)
def test_rows_that_are_none_are_refused(cache, rows):
    with pytest.raises(UsageError):
        cache.read(0, rows)
    with pytest.raises(UsageError):
        cache.read_eval(rows)


@pytest.mark.parametrize("view", [-1, 3, [0, 3], [-1, 0], [0], 0.5, [0.0, 1.0], None], ids=repr)
def test_views_that_are_none_are_refused(cache, view):
    with pytest.raises(UsageError):
        cache.read(view, [0, 1])


def test_names_are_chosen_or_refused(cache):
    assert list(cache.read(0, [0], ["logits"])) == list(cache.read(0, [0], "logits")) == ["logits"]
    assert cache.read(0, [0], []) == {}
    with pytest.raises(UsageError, match="'f1'"):
        cache.read(0, [0], ["f1"])


def answer(cache, queue):
    queue.put(cache.read([2, 0], [1299, 5])["logits"].tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(cache, method):
    expected = cache.read([2, 0], [1299, 5])["logits"].tolist()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=answer, args=(cache, queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()


def test_a_pickled_cache_is_small_and_reads_the_same(cache):
    cache.read(0, range(1300))
    packed = pickle.dumps(cache)
    assert len(packed) < 10_000
    assert torch.equal(pickle.loads(packed).read(1, [7])["logits"], cache.read(1, [7])["logits"])


def test_another_file_under_the_same_name_is_noticed(copied, dump, tmp_path):
    packed = pickle.dumps(open_cache(copied))
    shutil.move(dump(tmp_path / "other.h5", seed=5), copied)
    with pytest.raises(CacheError, match="another one under its name"):
        pickle.loads(packed).read(0, [0])
    copied.unlink()
    with pytest.raises(CacheError, match="No such file"):
        pickle.loads(packed).read(0, [0])


def flip(path, dataset: str, place: int) -> None:
    with h5py.File(path) as file:
        offset = file[dataset].id.get_offset() + place
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def test_a_flipped_bit_is_noticed_when_its_block_is_first_touched(copied):
    flip(copied, "knowledge/logits", (1300 + 1030) * 20)  # view 1, block 1
    cache = open_cache(copied)
    cache.read(0, range(1300))
    cache.read(1, range(1024))
    for _ in range(2):
        with pytest.raises(CacheError, match=r"/knowledge/logits: .* block 1 of view 1"):
            cache.read(1, [1024])
    assert open_cache(copied, check=False).read(1, [1024])["logits"].shape == (1, 10)


@pytest.mark.parametrize(
    ("dataset", "ask"),
    [
        ("seeds", lambda cache: cache.seeds(0, [0])),
        ("digests", lambda cache: cache.digests),
        ("eval/logits", lambda cache: cache.read_eval([0])),
    ],
)
def test_a_flipped_bit_is_noticed_in(copied, dataset, ask):
    flip(copied, dataset, 3)
    with pytest.raises(CacheError, match=f"/{dataset}: .* wrong CRC"):
        ask(open_cache(copied))


@pytest.mark.parametrize("dataset", ["meta", "labels", "seal", "canaries/row", "canaries/crc", "canaries/logits"])
def test_a_flipped_bit_is_noticed_at_opening_in(copied, dataset):
    flip(copied, dataset, 3)
    with pytest.raises(CacheError):
        open_cache(copied)


@pytest.mark.parametrize("dataset", ["blocks/seeds", "blocks/knowledge/logits", "blocks/eval/logits"])
def test_a_block_that_is_not_marked_done_is_missing(copied, dataset):
    flip(copied, dataset, 7)  # in the high half of a word
    with pytest.raises(CacheError, match=r"1 of \d+ blocks of .* missing"):
        open_cache(copied)


def test_an_unfinished_cache_is_refused_by_either_name(copied):
    part = part_of(copied)
    copied.rename(part)
    with pytest.raises(CacheError, match=r"found an unfinished one, copy.h5.part; run the same command again"):
        open_cache(copied)
    flip(part, "blocks/seeds", 7)
    with pytest.raises(CacheError, match="missing"):
        open_cache(part)


def test_a_dataset_larger_than_the_system_reads_in_one_call(tmp_path, monkeypatch):
    """Linux gives 2 GB, which labels of 540 million rows exceed; here a megabyte."""
    monkeypatch.setattr(os, "pread", lambda *a, pread=os.pread: pread(a[0], min(a[1], CHUNK), a[2]))
    rows, path = 2 * CHUNK // 4 + 5, tmp_path / "x.h5"
    codec, known = TopK((20,), 5), process.known(rows)
    known["labels"][:] = np.arange(rows) % 20
    create(path, process.meta_of(rows, 20, 1, codec), known)
    with Blocks(read_layout(part_of(path))) as blocks:
        assert np.array_equal(blocks.array("labels"), known["labels"])
        pieces = list(blocks.pieces("labels"))
        assert len(pieces) == 3
        assert np.array_equal(np.concatenate(pieces), known["labels"])


def test_the_large_file_that_is_measured_is_intact(tmp_path):
    large_file.make(tmp_path / "x.h5", 2500)
    cache = open_cache(tmp_path / "x.h5")
    assert cache.read(0, range(2500))["logits"].isfinite().all()
    assert not cache.digests.any()
    assert not cache.seeds_of(np.arange(2500)).any()


def test_a_header_says_no_more_than_it_should(cache):
    assert read_header("x", bytes(stored(cache.path, "meta"))) == cache.meta


def test_a_sample_view_is_asked_for_by_its_number(cache):
    views, rows = np.array([2, 0, 1, 1]), np.array([5, 3, len(cache) - 1, 5])
    items = views * len(cache) + rows
    assert np.array_equal(cache.items(views, rows), items)
    assert torch.equal(cache.gather(items)["logits"], cache.read(views, rows)["logits"])
    assert np.array_equal(cache.seeds_of(items), cache.seeds(views, rows))
    for wrong in ([-1], [len(cache) * cache.views], [0.5]):
        with pytest.raises(UsageError, match="item numbers"):
            cache.gather(np.array(wrong))


@pytest.mark.parametrize("hold", [False, True])
def test_a_held_view_says_what_the_file_says(cache, hold):
    teacher = CacheTeacher(cache, ["logits"])
    teacher.hold = hold
    generator = np.random.default_rng(0)
    for views in ([0], [0], [1], [2], [0], [0, 1, 2]):
        rows, view = generator.integers(0, len(cache), 60), np.tile(views, 60 // len(views))
        batch = Batch(torch.empty(0), torch.from_numpy(rows), view * len(cache) + rows, len(cache))
        assert torch.equal(teacher(batch)["logits"], cache.read(view, rows)["logits"])


# Files that change under an open reader


def rewritten(path) -> None:
    flip(path, "knowledge/logits", 3)
    os.utime(path, ns=(0, 0))


CHANGES = {
    "cut off": (lambda path: os.truncate(path, 5000), r"found 5000 bytes of \d+; put it back"),
    "replaced": (
        lambda path: shutil.copy(path, f"{path}2") and os.rename(f"{path}2", path),
        "another one under its name",
    ),
    "written to": (rewritten, "found one written to since"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_is_noticed_when_the_next_epoch_begins(copied, data, change, said):
    cache = open_cache(copied)
    teacher, first = CacheTeacher(cache, ["logits"]), np.arange(60)
    batches = [Batch(torch.empty(0), torch.zeros(60), view * len(cache) + first, len(cache)) for view in (0, 1)]
    teacher(batches[0])
    cache.require_unchanged()
    change(copied)
    with pytest.raises(CacheError, match=said):
        teacher(batches[1])


def test_it_is_read_from_another_folder(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(copied.parent)
    cache = open_cache(copied.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cache.require_unchanged()
    assert len(cache.labels) == len(cache)


def test_a_file_that_was_removed_is_read_on(copied):
    cache = open_cache(copied)
    before = cache.read(1, [5])["logits"]
    copied.unlink()
    cache.require_unchanged()
    assert torch.equal(cache.read(1, [5])["logits"], before)
