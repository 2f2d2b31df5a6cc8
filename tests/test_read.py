"""Reading with NumPy alone: the same to the bit as with torch, and without it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from golden import make
from golden_cases import folder_of_old
from reference_codecs import fitted, synthetic

import kdcache.read
from kdcache.cache import open_cache
from kdcache.codecs import CODECS
from kdcache.errors import CacheError, UsageError


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Caches of every codec, as an earlier version wrote them."""
    return folder_of_old("v1", tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", make.CACHES)
def test_an_old_cache_reads_the_same_without_torch(old, name):
    cache, arrays = open_cache(old / f"{name}.h5"), kdcache.read.open_cache(old / f"{name}.h5")
    expected, found = make.content(cache), make.content(arrays)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert isinstance(found[key], np.ndarray)
        assert found[key].dtype == value.dtype, key
        np.testing.assert_array_equal(found[key].view(np.uint8), value.view(np.uint8), err_msg=key)


@pytest.mark.parametrize("name", CODECS)
def test_any_bytes_are_decoded_alike(name):
    """Those of a stranger, too."""
    values, g = synthetic(64, 23), np.random.default_rng(0)
    for codec in fitted(name, values):
        records = g.integers(0, 256, (500, codec.size), dtype=np.uint8)
        if name == "topk":  # which of two values of one class stays is nobody's promise
            ids = np.sort(np.minimum(codec.ids(records), 22), 1)
            records = records[(np.diff(ids) > 0).all(1)]
        with np.errstate(all="ignore"):
            found = codec.decode_numpy(records)
        np.testing.assert_array_equal(found, codec.decode(torch.from_numpy(records)).numpy())


def test_it_works_where_there_is_no_torch(old):
    """In a process in which torch and h5py cannot be imported."""
    code = (
        "import sys; sys.modules.update(torch=None, h5py=None, click=None)\n"
        "import kdcache.read\n"
        f"cache = kdcache.read.open_cache({str(old / 'topk.h5')!r})\n"
        "kept = cache.hold(1, ['logits'])([3])['logits']\n"
        "assert (kept == cache.read(1, [3])['logits']).all()\n"
        "print(cache.read([0, 1], [5, 5])['logits'].argmax(1).tolist(), cache.eval_top1([0, 1]).tolist())"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    cache = open_cache(old / "topk.h5")
    expected = cache.read([0, 1], [5, 5])["logits"].argmax(1).tolist(), cache.eval_top1([0, 1]).tolist()
    assert done.stdout.strip() == f"{expected[0]} {expected[1]}", done.stderr


def test_damage_is_found_and_mistakes_are_refused(old, tmp_path):
    data = bytearray((old / "f16.h5").read_bytes())
    data[open_cache(old / "f16.h5").layout.places["knowledge/logits"].offset] ^= 1
    (tmp_path / "bad.h5").write_bytes(data)
    with pytest.raises(CacheError, match="wrong CRC in block 0 of view 0"):
        kdcache.read.open_cache(tmp_path / "bad.h5").read(0, [1])
    with pytest.raises(UsageError, match="`device`"):
        kdcache.read.open_cache(old / "f16.h5").read(0, [1], device="cuda")
