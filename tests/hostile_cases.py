"""What the tests of damaged and of made-up files share."""

import json
import os
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from kdcache.cache import open_cache
from kdcache.cache.blocks import Blocks
from kdcache.cache.hdf5 import ALIGNMENT, lay_out
from kdcache.cache.layout import Layout, read_layout, sealed_crc
from kdcache.errors import CacheError
from kdcache.proof.verdicts import verify


def refused(path: Path) -> str:
    """The one line that opening or verifying it ends in."""
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(CacheError) as caught:
            everything(path)
        assert time.monotonic() - started < 5
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 1000
    return said


def everything(path: Path) -> list:
    """All that a reader can get out of a cache that `verify` calls whole."""
    cache = open_cache(path, check=False)
    wrong = [check for check in verify(cache, None, None, None, {}) if not check.ok]
    if wrong:
        raise CacheError(path, "right checks", wrong[0].name, "look")
    rows, eval_rows = range(len(cache)), range(cache.meta["eval"]["rows"])
    arrays = [*cache.read_eval(eval_rows).values(), *cache.constants.values()]
    for view in range(cache.views):
        arrays += [*cache.read(view, rows).values(), torch.from_numpy(cache.seeds(view, rows))]
    known = [cache.labels, cache.digests, *cache.canaries.values()]
    return [cache.meta, sorted(cache.canaries), *(a.numpy().tobytes() for a in arrays), *(a.tobytes() for a in known)]


def forged(source: Path, path: Path, changes: dict | None = None, meta=None) -> Path:
    """A file like a finished one with some datasets changed, whose seal is right again."""
    changes, kinds, content = changes or {}, {}, {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            kinds[name], content[name] = (item.dtype, item.shape), item[...]

    with h5py.File(source) as file:
        file.visititems(visit)
    if meta is not None:
        text = meta if isinstance(meta, bytes) else json.dumps(meta(json.loads(bytes(content["meta"])))).encode()
        changes = changes | {"meta": np.frombuffer(text, dtype="u1")}
    content = {name: array for name, array in (content | changes).items() if array is not None}
    kinds |= {name: (array.dtype, array.shape) for name, array in changes.items() if array is not None}
    structures, places, size = lay_out({name: kinds[name] for name in content})
    with open(path, "w+b", buffering=0) as file:
        file.write(structures)
        file.truncate(size)
        for name, array in content.items():
            os.pwrite(file.fileno(), array.tobytes(), places[name].offset)
        if "seal" in places:
            seal = sealed_crc(Layout(path, {}, places), file)
            os.pwrite(file.fileno(), seal.to_bytes(4, "little"), places["seal"].offset)
    return path


def lay_out_by_libhdf5(path: Path, shapes: dict) -> None:
    """Lays a file out as kdcache did when libhdf5 wrote its files: groups of more than 8 links are dense."""
    v108 = ("v108", "v108")
    with h5py.File(path, "w", libver=v108, alignment_threshold=1, alignment_interval=ALIGNMENT) as file:
        for name, (dtype, shape) in sorted(shapes.items()):
            made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            made.set_layout(h5py.h5d.CONTIGUOUS)
            made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            made.set_obj_track_times(False)
            links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            links.set_create_intermediate_group(True)
            kind = h5py.h5t.py_create(dtype, logical=True)
            h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), made, links)


def mark(path: Path, dataset: str, view: int, block: int, word: bytes) -> None:
    """Has a file say something else of a block."""
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), word, read_layout(path).word_offset(dataset, view, block))


def array_in(path: Path, name: str) -> np.ndarray:
    """A dataset of a file that need not be finished."""
    with Blocks(read_layout(path)) as blocks:
        return blocks.array(name)
